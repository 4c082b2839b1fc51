// Package jobs runs what has to happen again and again: a leased job in one gateway at
// a time, whichever holds the job's lease, and other jobs in every gateway.
//
// A lease is a row of the ledger with a time to live and a token that rises with every
// change of holder. Who cannot do a job does not ask for its lease, and who finds out
// while leading gives it up and lets others go first for a while. A holder that cannot renew its lease ends its run before anybody
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
	// Free reports whether nobody has the lease now.
	Free(ctx context.Context, name string) (bool, error)
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
	// Able, where it is set, says whether a run here could do anything now. Where it says
	// no, the run is left out, and of a leased job the lease is not asked for, or given up.
	// It is asked ten times a second.
	Able func() bool
	// Within, where it is set, bounds a run of a leased job: one that takes longer hangs,
	// is told to end, and the lease is given up. What it was about must be such that the
	// next run goes on where this one ended.
	Within time.Duration
	// Run does it once. An error says that it could not, and that another gateway may be
	// able to; sale.ErrNotCalled, that a dependency was not called, says so without having
	// failed. sale.ErrPartly says that it could, but for items that fail for reasons of
	// their own. Its ctx ends when the lease is lost or given up, or the gateway shuts
	// down. The token rises with every change of leader.
	Run func(ctx context.Context, token int64) error
}

// able reports whether a run could do anything now.
func (j *Job) able() bool { return j.Able == nil || j.Able() }

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
	// retrySoon is the longest pause after a first failure: the second one decides whether
	// another gateway should try, which has to lead within 5 s.
	retrySoon = 500 * time.Millisecond
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
				s.repeat(ctx, j, 0, nil)
			} else {
				s.lead(ctx, j)
			}
		})
	}
	wg.Wait()
	return nil
}

// repeat runs the job over and over until ctx ends or done, where it is set, says so of
// how a run ended, and of how many in a row could not work.
func (s *Scheduler) repeat(ctx context.Context, j Job, token int64, done func(err error, inRow int) bool) {
	failures, inRow, failing := 0, 0, false
	for ctx.Err() == nil {
		start := time.Now()
		ran, err := once(ctx, j, token)
		took := time.Since(start)
		if err != nil && ctx.Err() != nil {
			return // it was told to stop
		}
		failed := ran && err != nil
		if ran {
			s.metrics.observe(j.Name, took, err)
		}
		switch {
		case failed && !failing:
			s.cfg.Log.Warn("a job failed", "job", j.Name, "err", err)
		case ran && !failed && failing:
			s.cfg.Log.Info("a job succeeds again", "job", j.Name)
		}
		failing = failed || failing && !ran
		switch able := err == nil || errors.Is(err, sale.ErrPartly); {
		case ran && able:
			failures, inRow = 0, 0
		case ran:
			failures, inRow = failures+1, inRow+1
		case err != nil:
			inRow++
		}
		if done != nil && (ran || err != nil) && done(err, inRow) {
			return
		}
		if !pause(ctx, jitter(s.rest(j, took, failures))) {
			return
		}
	}
}

// once runs the job, where a run could do anything, and reports whether it did. An error
// without a run is sale.ErrNotCalled.
func once(ctx context.Context, j Job, token int64) (ran bool, err error) {
	if !j.able() {
		return false, nil
	}
	if j.Within > 0 && !j.EveryGateway {
		bounded, cancel := context.WithTimeoutCause(ctx, j.Within, errHangs)
		defer cancel()
		if err = j.Run(bounded, token); err != nil && errors.Is(context.Cause(bounded), errHangs) {
			err = fmt.Errorf("%w for %v: %w", errHangs, j.Within, err)
		}
	} else {
		err = j.Run(ctx, token)
	}
	return !errors.Is(err, sale.ErrNotCalled), err
}

var errHangs = errors.New("the run hangs")

// rest is the pause after a run: what is left of the period, but never nothing; shorter
// after one failure, and twice as long with every further one.
func (s *Scheduler) rest(j Job, took time.Duration, failures int) time.Duration {
	rest := max(j.Every-took, j.Every/10)
	if failures == 1 {
		return min(rest, retrySoon)
	}
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
