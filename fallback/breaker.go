// Package fallback decides whether a dependency is called at all, and paces what goes
// around the shield. See DESIGN.md.
package fallback

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"flashgate/sale"
)

// Config is how one Breaker judges its dependency.
type Config struct {
	// Name is what operators call the dependency: redis, ledger or nats.
	Name string
	// Window is the rolling time over which calls are counted.
	Window time.Duration
	// MinCalls is how many calls there must be in Window before FailureRatio counts.
	MinCalls int
	// FailureRatio of the calls in Window opens the breaker.
	FailureRatio float64
	// Consecutive failures open the breaker whatever the ratio, and however slowly they
	// come.
	Consecutive int
	// ProbeAfter is how long the breaker stays open before one call may try again. A
	// probe is cut off after three times as long, since nobody else is served while it
	// hangs.
	ProbeAfter time.Duration
	// Changed, when set, is told of every change between usable and unusable, in the
	// order of the changes, and once more that it is usable when a forced_closed ended,
	// under which failures went uncounted. It must not call the breaker and must not
	// block.
	Changed func(name string, usable bool)
	// Lag, when set, tells time-outs of this process' own making from the dependency's.
	Lag *Lag
}

// Breaker stands between callers and one dependency. Its methods may be called by any
// goroutine.
type Breaker struct {
	cfg  Config
	cb   *gobreaker.CircuitBreaker[struct{}]
	born time.Time
	// answered is when a call succeeded last, counted from born.
	answered atomic.Int64

	// state is what the breaker's own counts say. It is written with mu held and cb's
	// own lock around it; cb must not be called with mu held.
	state atomic.Int32
	// inRow is how many failures came since the last success or change of state; cb's
	// lock guards it.
	inRow int

	mu      sync.Mutex
	order   order // that is obeyed
	fleet   order // for all gateways, that was given last
	fleetAt int64 // when, by the ledger's clock
	since   time.Time
	usable  bool // what Changed was last told
}

// New validates and starts nothing.
func New(cfg Config) (*Breaker, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return makeBreaker(cfg), nil
}

// NewEach validates the config of the breakers of many servers of one kind, and returns
// what makes one, by the server's name. No operator sees or forces these.
func NewEach(cfg Config) (func(server string) *Breaker, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return func(server string) *Breaker {
		one := cfg
		one.Name += " " + server
		return makeBreaker(one)
	}, nil
}

func (cfg Config) validate() error {
	switch {
	case cfg.Name == "":
		return errors.New("fallback: a breaker needs a name")
	case cfg.Window < 10*time.Millisecond || cfg.ProbeAfter <= 0:
		return fmt.Errorf("fallback: breaker %s: window must be at least 10ms and probe_after positive", cfg.Name)
	case cfg.FailureRatio <= 0 || cfg.FailureRatio > 1 || cfg.MinCalls < 1 || cfg.Consecutive < 1:
		return fmt.Errorf("fallback: breaker %s: want 0 < failure_ratio <= 1, min_calls >= 1, consecutive >= 1", cfg.Name)
	}
	return nil
}

func makeBreaker(cfg Config) *Breaker {
	b := &Breaker{cfg: cfg, born: time.Now(), order: order{mode: sale.BreakerAuto}, usable: true}
	b.cb = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         cfg.Name,
		MaxRequests:  1,
		Interval:     cfg.Window,
		BucketPeriod: cfg.Window / 10,
		Timeout:      cfg.ProbeAfter,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			// The library's own count of failures in a row forgets those that are older
			// than the window, and calls that outlasted it: a dependency that hangs would
			// never open the breaker.
			return b.inRow >= cfg.Consecutive ||
				(int(c.Requests) >= cfg.MinCalls && float64(c.TotalFailures) >= cfg.FailureRatio*float64(c.Requests))
		},
		// A caller that gave up says nothing about the dependency, and a gateway that has
		// too much to do says it of itself; a clear answer that happens to be an error is
		// a success.
		IsExcluded:    excluded,
		IsSuccessful:  b.succeeded,
		OnStateChange: func(_ string, _, to gobreaker.State) { b.turned(to) },
	})
	return b
}

// excluded reports how a call may end that says nothing about the dependency.
func excluded(err error) bool {
	if _, own := err.(ownTimeout); own {
		return true
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, sale.ErrOverloaded) || errors.Is(err, sale.ErrElsewhere)
}

// succeeded judges how a call ended; it runs under cb's lock.
func (b *Breaker) succeeded(err error) bool {
	ok := err == nil || isAnswer(err)
	if ok {
		b.inRow = 0
		b.answered.Store(int64(time.Since(b.born)))
	} else {
		b.inRow++
	}
	return ok
}

// isAnswer reports errors that a healthy dependency gives.
func isAnswer(err error) bool {
	for _, answer := range []error{
		sale.ErrUnknownSKU, sale.ErrUnknownOrder, sale.ErrInvalid,
		sale.ErrAlreadyPaid, sale.ErrOrderExpired, sale.ErrOrderQueued, sale.ErrPaymentMismatch, sale.ErrLeaseLost, sale.ErrPartly,
	} {
		if errors.Is(err, answer) {
			return true
		}
	}
	var below *sale.StockBelowSoldError
	return errors.As(err, &below)
}

// Do makes the call and counts how it ended, or returns sale.ErrNotCalled.
func (b *Breaker) Do(ctx context.Context, call func(context.Context) error) error {
	switch b.modeNow() {
	case sale.BreakerForcedOpen:
		return sale.ErrNotCalled
	case sale.BreakerForcedClosed:
		return call(ctx)
	}
	_, err := b.cb.Execute(func() (struct{}, error) {
		began, lost := time.Now(), b.cfg.Lag.Lost()
		if b.stateNow() == gobreaker.StateHalfOpen {
			bounded, cancel := context.WithTimeout(ctx, probeShare*b.cfg.ProbeAfter)
			defer cancel()
			return struct{}{}, b.blame(call(bounded), began, lost)
		}
		return struct{}{}, b.blame(call(ctx), began, lost)
	})
	if own, ok := err.(ownTimeout); ok {
		err = own.error
	}
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return sale.ErrNotCalled
	}
	return err
}

// probeShare is how many times ProbeAfter a probe may take.
const probeShare = 3

func (b *Breaker) stateNow() gobreaker.State { return gobreaker.State(b.state.Load()) }

// turned notes a change of the breaker's own state; it runs under cb's lock.
func (b *Breaker) turned(to gobreaker.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Store(int32(to))
	b.inRow = 0
	if b.order.mode == sale.BreakerAuto {
		b.since = time.Now()
	}
	b.tell(false)
}

// Usable reports whether a call would be tried now. It is what spares callers work in
// front of a call that would be refused. A half-open breaker is usable until a probe is
// under way.
func (b *Breaker) Usable() bool {
	switch b.modeNow() {
	case sale.BreakerForcedOpen:
		return false
	case sale.BreakerForcedClosed:
		return true
	}
	switch b.cb.State() {
	case gobreaker.StateOpen:
		return false
	case gobreaker.StateHalfOpen:
		// The probe may end between the two looks.
		c := b.cb.Counts()
		return c.Requests <= c.TotalExclusions || b.cb.State() == gobreaker.StateClosed
	}
	return true
}

// Open reports whether calls are refused for a while, by its own counts or an operator's
// order. Unlike Usable, a probe under way does not make it look so: it may be the
// caller's own.
func (b *Breaker) Open() bool {
	switch b.modeNow() {
	case sale.BreakerForcedOpen:
		return true
	case sale.BreakerForcedClosed:
		return false
	}
	return b.cb.State() == gobreaker.StateOpen
}

// tell passes a change on; with again, also that nothing changed when the dependency
// is usable. The lock is held, so that changes are told in their order.
func (b *Breaker) tell(again bool) {
	usable := b.order.mode == sale.BreakerForcedClosed ||
		b.order.mode == sale.BreakerAuto && b.stateNow() == gobreaker.StateClosed
	changed := usable != b.usable
	b.usable = usable
	if b.cfg.Changed != nil && (changed || again && usable) {
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
	s := sale.BreakerStatus{Name: b.cfg.Name, State: state, Mode: mode, Scope: b.order.scope, By: b.order.by, Reason: b.order.reason}
	if !b.order.until.IsZero() {
		s.Until = b.order.until.UnixMilli()
	}
	if !b.since.IsZero() {
		s.Since = b.since.UnixMilli()
	}
	return s
}
