package fallback

import (
	"context"
	"errors"
	"sync"
	"time"

	"flashgate/sale"
)

// Throttle paces claims that go around the shield, so that the ledger is never asked
// for more than it can do. Waiting claims stand in one line, whatever their SKU. It is
// a token bucket kept as one time: looking whether a turn comes soon enough and reserving
// it are one step, so that a refusal leaves no trace in the line, and a batch may be
// larger than the burst.
type Throttle struct {
	perSecond float64
	slack     time.Duration // what a full burst is worth

	mu sync.Mutex
	// full is when the bucket will have a whole burst again, everything promised so
	// far included. A time in the past means that it has.
	full time.Time
}

// NewThrottle lets through perSecond claims, and up to burst at once. perSecond too
// low: the sale crawls while Redis is away. Too high: the ledger drowns and commits
// time out. burst too low: every batch waits. Too high: the line starts with a blow.
func NewThrottle(perSecond float64, burst int) (*Throttle, error) {
	if perSecond <= 0 || burst < 1 {
		return nil, errors.New("fallback: rate must be positive and burst at least 1")
	}
	t := &Throttle{perSecond: perSecond}
	t.slack = t.worth(burst)
	return t, nil
}

// worth is the time in which the rate yields n claims.
func (t *Throttle) worth(n int) time.Duration {
	return time.Duration(float64(n) / t.perSecond * float64(time.Second))
}

// Wait returns nil when n claims may go on. When their turn would come after the
// deadline it returns sale.ErrDegraded at once, when ctx ends before their turn
// sale.ErrUnavailable; in both cases the turn is given back.
func (t *Throttle) Wait(ctx context.Context, n int, deadline time.Time) error {
	delay, ok := t.reserve(n, deadline)
	if !ok {
		return sale.ErrDegraded
	}
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		t.mu.Lock()
		t.full = t.full.Add(-t.worth(n))
		t.mu.Unlock()
		return sale.ErrUnavailable
	}
}

// reserve reserves the next turn, unless it comes after the deadline, and returns how far
// away it is.
func (t *Throttle) reserve(n int, deadline time.Time) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	full := now
	if t.full.After(now) {
		full = t.full
	}
	full = full.Add(t.worth(n))
	turn := full.Add(-t.slack)
	if turn.After(now) && turn.After(deadline) {
		return 0, false
	}
	t.full = full
	return turn.Sub(now), true
}
