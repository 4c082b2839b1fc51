package fallback

import (
	"context"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"flashgate/sale"
)

// Throttle paces claims that go around the shield, so that the ledger is never asked
// for more than it can do. Waiting claims stand in one line, whatever their SKU.
type Throttle struct {
	limiter *rate.Limiter
}

// NewThrottle lets through perSecond claims, and up to burst at once. perSecond too
// low: the sale crawls while Redis is away. Too high: the ledger drowns and commits
// time out. burst too low: batches are cut up. Too high: the line starts with a blow.
func NewThrottle(perSecond float64, burst int) (*Throttle, error) {
	if perSecond <= 0 || burst < 1 {
		return nil, errors.New("fallback: rate must be positive and burst at least 1")
	}
	return &Throttle{limiter: rate.NewLimiter(rate.Limit(perSecond), burst)}, nil
}

// Wait returns nil when n claims may go on. When their turn would come after the
// deadline it returns sale.ErrDegraded at once and gives the turn back.
func (t *Throttle) Wait(ctx context.Context, n int, deadline time.Time) error {
	now := time.Now()
	var taken []*rate.Reservation
	cancel := func() {
		for _, r := range taken {
			r.CancelAt(now)
		}
	}
	var delay time.Duration
	// A reservation larger than the burst would fail at once, so it is cut up.
	for n > 0 {
		k := min(n, t.limiter.Burst())
		r := t.limiter.ReserveN(now, k)
		if !r.OK() {
			cancel()
			return sale.ErrDegraded
		}
		taken = append(taken, r)
		delay = r.DelayFrom(now)
		n -= k
	}
	if now.Add(delay).After(deadline) {
		cancel()
		return sale.ErrDegraded
	}
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		cancel()
		return sale.ErrUnavailable
	}
}

// Delay is how long a claim that came now would wait.
func (t *Throttle) Delay() time.Duration {
	if missing := 1 - t.limiter.Tokens(); missing > 0 {
		return time.Duration(missing / float64(t.limiter.Limit()) * float64(time.Second))
	}
	return 0
}
