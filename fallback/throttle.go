package fallback

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"flashgate/sale"
)

// Throttle is a ceiling on the claims that go around the shield, whatever the ledger could
// bear. Waiting claims stand in one line, whatever their SKU.
type Throttle struct {
	burst int

	// mu makes looking whether a turn comes soon enough, and giving it back where not, one
	// step: nobody reserves in between, so that a refusal leaves no trace in the line.
	mu      sync.Mutex
	limiter *rate.Limiter
}

// NewThrottle lets through perSecond claims, and up to burst at once. perSecond too
// low: the sale crawls while Redis is away. burst too low: every batch waits.
func NewThrottle(perSecond float64, burst int) (*Throttle, error) {
	if perSecond <= 0 || burst < 1 {
		return nil, errors.New("fallback: rate must be positive and burst at least 1")
	}
	return &Throttle{burst: burst, limiter: rate.NewLimiter(rate.Limit(perSecond), burst)}, nil
}

// Wait returns nil when n claims may go on. When their turn would come after the
// deadline it returns sale.ErrDegraded at once, when ctx ends before their turn
// sale.ErrUnavailable; in both cases the turn is given back.
func (t *Throttle) Wait(ctx context.Context, n int, deadline time.Time) error {
	turn, delay := t.reserve(n, deadline)
	if turn == nil {
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
		giveBack(turn, time.Now())
		t.mu.Unlock()
		return sale.ErrUnavailable
	}
}

// reserve reserves the next turn and returns how far away it is; nil when it would come
// after the deadline. The limiter knows no turn of more than a burst: a larger batch takes
// several and goes on with the last.
func (t *Throttle) reserve(n int, deadline time.Time) (turn []*rate.Reservation, delay time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for ; n > 0; n -= t.burst {
		r := t.limiter.ReserveN(now, min(n, t.burst))
		turn, delay = append(turn, r), r.DelayFrom(now)
	}
	if delay > 0 && now.Add(delay).After(deadline) {
		giveBack(turn, now)
		return nil, 0
	}
	return turn, delay
}

// giveBack cancels reservations, the last first: that is what the limiter restores whole.
func giveBack(turn []*rate.Reservation, now time.Time) {
	for _, r := range slices.Backward(turn) {
		r.CancelAt(now)
	}
}
