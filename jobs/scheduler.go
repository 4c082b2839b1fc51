// Package jobs runs what has to happen again and again: a leased job in one gateway at
// a time, whichever holds the job's lease, and other jobs in every gateway.
//
// A lease is a row of the ledger with a time to live and a token that rises with every
// change of holder. A holder that cannot renew its lease ends its run before anybody
// else can begin one; where that is not enough, because a frozen process wakes up
// late, the token lets whoever is written to refuse the older writer. See DESIGN.md.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// Leases is what the scheduler needs of the ledger.
type Leases interface {
	// Acquire claims the lease for ttl if it is free or has run out, under a new token,
	// or renews it, under the same token, if this holder has it. It reports whether
	// the holder has it now. An error means that it is not known.
	Acquire(ctx context.Context, name, holder string, ttl time.Duration) (token int64, held bool, err error)
	// Release frees the lease if it is still held under this token.
	Release(ctx context.Context, name, holder string, token int64) error
}

// Job is something that has to happen again and again. Its runs never overlap within
// one gateway.
type Job struct {
	// Name is the lease's name and the metrics' label.
	Name string
	// Every is the time from the start of one run to the start of the next, give or
	// take a tenth. After a failure it grows up to maxBackoff.
	Every time.Duration
	// EveryGateway runs the job in each gateway, without a lease; its token is 0.
	EveryGateway bool
	// Able, where it is set, says whether a run could do anything now. Where it says no
	// the run is left out, and the lease is kept.
	Able func() bool
	// Run does it once. That a dependency was not called, sale.ErrNotCalled, is no
	// failure. Its ctx ends when the lease is lost or the gateway shuts
	// down. The token rises with every change of leader.
	Run func(ctx context.Context, token int64) error
}

// Config is how leases are kept.
type Config struct {
	// Holder names this gateway; no two gateways may share it.
	Holder string

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// leaseTTL is how long a lease outlives its holder's last renewal. With less, a short
	// pause of the ledger changes the leader; with more, the jobs of a killed gateway wait
	// longer: another has to lead them within 5 s.
	leaseTTL = 3 * time.Second
	// maxBackoff is the longest pause after failures, for jobs that run more often. A
	// shorter one hammers a part that is away; a longer one is slow to see its return.
	maxBackoff = 3 * time.Second
)

// Scheduler runs jobs.
type Scheduler struct {
	cfg     Config
	leases  Leases
	jobs    []Job
	metrics *metrics
}

// New checks the jobs and starts nothing. Leases may be nil when no job needs one.
func New(cfg Config, leases Leases, jobs ...Job) (*Scheduler, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	seen := make(map[string]bool)
	for _, j := range jobs {
		switch {
		case j.Name == "" || seen[j.Name]:
			return nil, fmt.Errorf("jobs: the name %q is empty or used twice", j.Name)
		case j.Every <= 0 || j.Run == nil:
			return nil, fmt.Errorf("jobs: %s needs a period and something to run", j.Name)
		case !j.EveryGateway && (leases == nil || cfg.Holder == ""):
			return nil, fmt.Errorf("jobs: %s needs leases and a holder's name", j.Name)
		}
		seen[j.Name] = true
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	return &Scheduler{cfg: cfg, leases: leases, jobs: jobs, metrics: m}, nil
}

// Run runs the jobs until ctx ends, waits for those that are running, and gives the
// leases back, so that another gateway need not wait for them to run out. A job's
// panic ends the program: what it left half done is nobody's to guess.
func (s *Scheduler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, j := range s.jobs {
		wg.Go(func() {
			// Gateways that start together do not stay in step.
			if !pause(ctx, rand.N(min(j.Every, time.Second)/2+1)) {
				return
			}
			if j.EveryGateway {
				s.repeat(ctx, j, 0)
			} else {
				s.lead(ctx, j)
			}
		})
	}
	wg.Wait()
	return nil
}

// lead asks for the job's lease again and again, and runs the job while it has it.
func (s *Scheduler) lead(ctx context.Context, j Job) {
	failing := false
	for ctx.Err() == nil {
		asked := time.Now()
		token, held, err := s.acquire(ctx, j, asked.Add(leaseTTL))
		switch {
		case held:
			s.term(ctx, j, token, asked)
		case err != nil && ctx.Err() == nil && !failing:
			// Said once: the ledger's own log says how it goes on.
			s.cfg.Log.Warn("a job's lease cannot be asked for", "job", j.Name, "err", err)
		}
		failing = err != nil
		if !pause(ctx, jitter(leaseTTL/3)) {
			return
		}
	}
}

func (s *Scheduler) acquire(ctx context.Context, j Job, until time.Time) (int64, bool, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	token, held, err := s.leases.Acquire(ctx, j.Name, s.cfg.Holder, leaseTTL)
	return token, held && err == nil, err
}

// term runs the job for as long as this gateway is its leader.
func (s *Scheduler) term(ctx context.Context, j Job, token int64, asked time.Time) {
	leader := s.metrics.leader.WithLabelValues(j.Name)
	leader.Set(1)
	defer leader.Set(0)
	s.cfg.Log.Debug("leads a job", "job", j.Name, "token", token)
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.renew(ctx, cancel, j, token, asked) })
	s.repeat(ctx, j, token)
	cancel(nil)
	wg.Wait()
	if errors.Is(context.Cause(ctx), errLost) {
		s.cfg.Log.Warn("lost a job's lease", "job", j.Name, "token", token)
		return
	}
	// The gateway shuts down, and its own context is over.
	release, stop := context.WithTimeout(context.WithoutCancel(ctx), leaseTTL/3)
	defer stop()
	if err := s.leases.Release(release, j.Name, s.cfg.Holder, token); err != nil {
		s.cfg.Log.Debug("a job's lease runs out instead of being released", "job", j.Name, "err", err)
	}
}

var errLost = errors.New("the lease is lost")

// renew renews the lease again and again, and ends the term when it is lost or might be: a
// tenth of its life before it can run out.
func (s *Scheduler) renew(ctx context.Context, cancel context.CancelCauseFunc, j Job, token int64, asked time.Time) {
	life := leaseTTL - leaseTTL/10
	until := asked.Add(life)
	for wait := leaseTTL / 3; ; {
		if !pause(ctx, min(wait, time.Until(until))) {
			return
		}
		asked := time.Now()
		if !asked.Before(until) {
			cancel(errLost)
			return
		}
		now, held, err := s.acquire(ctx, j, until)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = leaseTTL / 10
		case !held || now != token:
			cancel(errLost)
			return
		default:
			wait, until = leaseTTL/3, asked.Add(life)
		}
	}
}

// repeat runs the job over and over until ctx ends.
func (s *Scheduler) repeat(ctx context.Context, j Job, token int64) {
	for failures := 0; ctx.Err() == nil; {
		start := time.Now()
		ran, err := once(ctx, j, token)
		took := time.Since(start)
		if err != nil && ctx.Err() != nil {
			return // it was told to stop
		}
		if ran {
			s.metrics.observe(j.Name, took, err)
		}
		if err != nil {
			if failures++; failures == 1 {
				s.cfg.Log.Warn("a job failed", "job", j.Name, "err", err)
			}
		} else if ran && failures > 0 {
			s.cfg.Log.Info("a job succeeds again", "job", j.Name, "failures", failures)
			failures = 0
		}
		if !pause(ctx, jitter(s.rest(j, took, failures))) {
			return
		}
	}
}

// once runs the job, where a run could do anything, and reports whether it did.
func once(ctx context.Context, j Job, token int64) (ran bool, err error) {
	if j.Able != nil && !j.Able() {
		return false, nil
	}
	if err = j.Run(ctx, token); errors.Is(err, sale.ErrNotCalled) {
		return false, nil
	}
	return true, err
}

// rest is the pause after a run: what is left of the period, but never nothing, and
// twice as long with every failure.
func (s *Scheduler) rest(j Job, took time.Duration, failures int) time.Duration {
	rest := max(j.Every-took, j.Every/10)
	for range failures {
		if rest >= maxBackoff {
			break
		}
		rest = min(2*rest, maxBackoff)
	}
	return rest
}

// jitter is d, give or take a tenth.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// pause waits; false means that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
