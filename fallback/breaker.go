// Package fallback decides whether a dependency is called at all, and paces what goes
// around the shield. See DESIGN.md.
package fallback

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"flashgate/sale"
)

// Config holds the knobs of one Breaker.
type Config struct {
	// Name is what operators call the dependency: redis, ledger or nats.
	Name string
	// Window is the rolling time over which calls are counted. Too short: a few slow
	// calls open the breaker. Too long: old failures keep it nervous.
	Window time.Duration
	// MinCalls is how many calls Window must hold before FailureRatio counts. Too
	// low: two unlucky calls open it. Too high: a quiet gateway never opens it.
	MinCalls int
	// FailureRatio of the calls in Window opens the breaker. Too low: noise opens it.
	// Too high: buyers wait out one time-out after the other.
	FailureRatio float64
	// Consecutive failures open the breaker whatever the ratio. Too low and too high
	// as for FailureRatio.
	Consecutive int
	// ProbeAfter is how long the breaker stays open before one call may try again.
	// Too short: a dependency that comes up is hit while it does. Too long: the sale
	// stays throttled after it is back.
	ProbeAfter time.Duration
	// Changed, when set, is told of every change between usable and unusable. It must
	// not call the breaker and must not block.
	Changed func(name string, usable bool)
}

// Breaker stands between callers and one dependency. Its methods may be called by any
// goroutine.
type Breaker struct {
	cfg Config
	cb  *gobreaker.CircuitBreaker[struct{}]

	mu     sync.Mutex
	mode   sale.BreakerMode
	until  time.Time // zero = no end
	reason string
	since  time.Time
}

// New validates and starts nothing.
func New(cfg Config) (*Breaker, error) {
	switch {
	case cfg.Name == "":
		return nil, errors.New("fallback: a breaker needs a name")
	case cfg.Window < 10*time.Millisecond || cfg.ProbeAfter <= 0:
		return nil, fmt.Errorf("fallback: breaker %s: window must be at least 10ms and probe_after positive", cfg.Name)
	case cfg.FailureRatio <= 0 || cfg.FailureRatio > 1 || cfg.MinCalls < 1 || cfg.Consecutive < 1:
		return nil, fmt.Errorf("fallback: breaker %s: want 0 < failure_ratio <= 1, min_calls >= 1, consecutive >= 1", cfg.Name)
	}
	b := &Breaker{cfg: cfg, mode: sale.BreakerAuto}
	b.cb = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         cfg.Name,
		MaxRequests:  1,
		Interval:     cfg.Window,
		BucketPeriod: cfg.Window / 10,
		Timeout:      cfg.ProbeAfter,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return int(c.ConsecutiveFailures) >= cfg.Consecutive ||
				(int(c.Requests) >= cfg.MinCalls && float64(c.TotalFailures) >= cfg.FailureRatio*float64(c.Requests))
		},
		// A caller that gave up says nothing about the dependency; nor does a clear
		// answer that happens to be an error.
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
		IsSuccessful: func(err error) bool { return err == nil || isAnswer(err) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			// Called under the breaker's own lock: only note and tell.
			b.mu.Lock()
			b.since = time.Now()
			b.mu.Unlock()
			if to != gobreaker.StateHalfOpen {
				b.tell(to == gobreaker.StateClosed)
			}
		},
	})
	return b, nil
}

// isAnswer reports errors that a healthy dependency gives.
func isAnswer(err error) bool {
	return errors.Is(err, sale.ErrUnknownSKU) || errors.Is(err, sale.ErrUnknownOrder) || errors.Is(err, sale.ErrInvalid)
}

// ErrNotCalled is what Do's error wraps, next to sale.ErrUnavailable, when the call
// was not made: nothing can have happened.
var ErrNotCalled = fmt.Errorf("breaker open, not called: %w", sale.ErrUnavailable)

// Do makes the call and counts how it ended, or returns ErrNotCalled.
func (b *Breaker) Do(ctx context.Context, call func(context.Context) error) error {
	switch b.modeNow() {
	case sale.BreakerForcedOpen:
		return ErrNotCalled
	case sale.BreakerForcedClosed:
		return call(ctx)
	}
	_, err := b.cb.Execute(func() (struct{}, error) { return struct{}{}, call(ctx) })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return ErrNotCalled
	}
	return err
}

// Usable reports whether a call would be tried now. It is what spares callers work in
// front of a call that would be refused; a half-open breaker counts as usable, since
// it wants a call to probe with.
func (b *Breaker) Usable() bool {
	switch b.modeNow() {
	case sale.BreakerForcedOpen:
		return false
	case sale.BreakerForcedClosed:
		return true
	}
	return b.cb.State() != gobreaker.StateOpen
}

// modeNow is the mode in force; a forced mode whose time is over ends here.
func (b *Breaker) modeNow() sale.BreakerMode {
	b.mu.Lock()
	over := b.mode != sale.BreakerAuto && !b.until.IsZero() && !time.Now().Before(b.until)
	mode := b.mode
	b.mu.Unlock()
	if over {
		b.Force(sale.BreakerAuto, 0, "")
		return sale.BreakerAuto
	}
	return mode
}

// Force sets who decides: the breaker itself (auto) or an operator. A forced mode ends
// after d; d = 0 means when an operator ends it.
func (b *Breaker) Force(mode sale.BreakerMode, d time.Duration, reason string) {
	b.mu.Lock()
	was := b.mode
	b.mode, b.reason, b.until = mode, reason, time.Time{}
	if mode == sale.BreakerAuto {
		b.reason = ""
	} else if d > 0 {
		b.until = time.Now().Add(d)
	}
	if was != mode {
		b.since = time.Now()
	}
	b.mu.Unlock()
	if was != mode {
		// Whatever the mode was, what went on meanwhile passed by the dependency or
		// met it broken; whoever keeps a view of it has to look again.
		b.tell(mode != sale.BreakerForcedOpen)
	}
}

func (b *Breaker) tell(usable bool) {
	if b.cfg.Changed != nil {
		b.cfg.Changed(b.cfg.Name, usable)
	}
}

// Status is what operators see.
func (b *Breaker) Status() sale.BreakerStatus {
	mode := b.modeNow()
	state := map[gobreaker.State]string{
		gobreaker.StateClosed: "closed", gobreaker.StateHalfOpen: "half_open", gobreaker.StateOpen: "open",
	}[b.cb.State()]
	switch mode {
	case sale.BreakerForcedOpen:
		state = "open"
	case sale.BreakerForcedClosed:
		state = "closed"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := sale.BreakerStatus{Name: b.cfg.Name, State: state, Mode: mode, Reason: b.reason}
	if !b.until.IsZero() {
		s.Until = b.until.UnixMilli()
	}
	if !b.since.IsZero() {
		s.Since = b.since.UnixMilli()
	}
	return s
}
