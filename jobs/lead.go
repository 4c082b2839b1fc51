package jobs

import (
	"context"
	"errors"
	"sync"
	"time"

	"flashgate/sale"
)

const (
	// askEvery is how often the lease of a job that another gateway leads is asked for.
	// Less often, and a job whose leader died or gave it up waits longer; more often asks
	// the ledger for nothing.
	askEvery = leaseTTL / 3
	// ableEvery is how often a job is asked whether it is able: a part that came back is
	// used soon, and a leader that was cut off is told within a moment.
	ableEvery = 100 * time.Millisecond
	// inRowMost is how many runs in a row that could not work show that the job cannot be
	// done here. One may be a hiccup; a third would come too late for another gateway to
	// lead within 5 s.
	inRowMost = 2
)

// lead asks for the job's lease while this gateway is able to do the job, and runs the
// job while it has it.
func (s *Scheduler) lead(ctx context.Context, j Job) {
	var back standback
	failing := false
	for ctx.Err() == nil {
		if !j.able() {
			back.freeSince = time.Time{}
			pause(ctx, ableEvery)
			continue
		}
		asked := time.Now()
		token, held, err := s.bid(ctx, j, &back, asked)
		switch {
		case held:
			s.term(ctx, j, token, asked, &back)
		case err != nil && ctx.Err() == nil && !failing:
			// Said once: the ledger's own log says how it goes on.
			s.cfg.Log.Warn("a job's lease cannot be asked for", "job", j.Name, "err", err)
		}
		failing = err != nil
		// Also behind a term: the others have their chance by then.
		pause(ctx, jitter(askEvery))
	}
}

// bid asks for the lease; who stands back does so only once nobody else has wanted it
// for a while.
func (s *Scheduler) bid(ctx context.Context, j Job, back *standback, now time.Time) (token int64, held bool, err error) {
	until := now.Add(leaseTTL)
	if back.stands(now) {
		bounded, cancel := context.WithDeadline(ctx, until)
		free, err := s.leases.Free(bounded, j.Name)
		cancel()
		if err != nil || !back.turn(free, now) {
			return 0, false, err
		}
	}
	return s.acquire(ctx, j, until)
}

func (s *Scheduler) acquire(ctx context.Context, j Job, until time.Time) (int64, bool, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	token, held, err := s.leases.Acquire(ctx, j.Name, s.cfg.Holder, leaseTTL)
	return token, held && err == nil, err
}

// Why a term ends before the gateway does.
var (
	errLost   = errors.New("the lease is lost")
	errUnable = errors.New("this gateway cannot do the job now")
	errGaveUp = errors.New("this gateway could not do the job")
)

// term runs the job for as long as this gateway is its leader, and releases the lease
// unless it is lost.
func (s *Scheduler) term(ctx context.Context, j Job, token int64, asked time.Time, back *standback) {
	leader := s.metrics.leader.WithLabelValues(j.Name)
	leader.Set(1)
	defer leader.Set(0)
	s.cfg.Log.Debug("leads a job", "job", j.Name, "token", token)
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.renew(ctx, cancel, j, token, asked) })
	wg.Go(func() { watch(ctx, cancel, j) })
	var last error
	s.repeat(ctx, j, token, func(err error, inRow int) bool {
		last = err
		return back.judge(err, inRow, time.Now())
	})
	cancel(errGaveUp) // unless it has ended before
	wg.Wait()
	why := context.Cause(ctx)
	switch {
	case errors.Is(why, errLost):
		s.cfg.Log.Warn("lost a job's lease", "job", j.Name, "token", token)
		return
	case errors.Is(why, errUnable):
		s.metrics.givenUp.WithLabelValues(j.Name).Inc()
		s.cfg.Log.Info("gives a job up: it cannot be done here now", "job", j.Name)
	case errors.Is(why, errGaveUp):
		s.metrics.givenUp.WithLabelValues(j.Name).Inc()
		s.cfg.Log.Warn("gives a job up: others go first", "job", j.Name, "for", back.length, "err", last)
	}
	s.release(ctx, j, token)
}

// release frees the lease, also when the gateway shuts down and its own context is over.
func (s *Scheduler) release(ctx context.Context, j Job, token int64) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), leaseTTL/3)
	defer stop()
	if err := s.leases.Release(ctx, j.Name, s.cfg.Holder, token); err != nil {
		s.cfg.Log.Debug("a job's lease runs out instead of being released", "job", j.Name, "err", err)
	}
}

// watch ends the term when the job cannot be done here any more.
func watch(ctx context.Context, cancel context.CancelCauseFunc, j Job) {
	for pause(ctx, ableEvery) {
		if !j.able() {
			cancel(errUnable)
			return
		}
	}
}

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

const (
	// A gateway that gave a job up lets others go first for this long, twice as long with
	// every further time, up to standbackMost. Shorter, and the lease goes round and round
	// while nobody can do the job; longer, and a gateway that has become able again waits
	// for one that keeps the lease because nobody wanted it.
	standbackFirst = 10 * time.Second
	standbackMost  = 2 * time.Minute
	// freeFor is how long a lease must have been free before one who stands back takes it:
	// everybody else has asked for it twice by then.
	freeFor = 2*askEvery + askEvery/2
)

// standback is how one gateway stands back from a job that it could not do. It still
// takes a lease that nobody else wants, and then keeps it until the time is over, however
// the runs end: nobody can do the job then, and whoever leads sees first when that ends.
type standback struct {
	until     time.Time
	length    time.Duration
	freeSince time.Time // as far as it was looked at without a break
}

func (b *standback) stands(now time.Time) bool { return now.Before(b.until) }

// turn notes whether the lease is free, and reports whether it has been for long enough.
func (b *standback) turn(free bool, now time.Time) bool {
	switch {
	case !free:
		b.freeSince = time.Time{}
	case b.freeSince.IsZero():
		b.freeSince = now
	default:
		return now.Sub(b.freeSince) >= freeFor
	}
	return false
}

// judge reports whether a run that ended so, and so many in a row that could not work,
// show that another gateway should do the job.
func (b *standback) judge(err error, inRow int, now time.Time) bool {
	switch {
	case err == nil || errors.Is(err, sale.ErrPartly):
		*b = standback{}
		return false
	case b.stands(now):
		return false
	case inRow < inRowMost && !errors.Is(err, errHangs):
		return false
	}
	if now.Sub(b.until) > 2*b.length {
		b.length = 0 // that was long ago
	}
	b.length = min(max(2*b.length, standbackFirst), standbackMost)
	b.until, b.freeSince = now.Add(b.length), time.Time{}
	return true
}
