package fallback

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"flashgate/sale"
)

const (
	// PulseEvery is how often a Pulse has to be beaten.
	PulseEvery = 500 * time.Millisecond
	// pulseTimeout bounds the wait for an answer.
	pulseTimeout = time.Second
	// pulseLasts is how long an answer shows that there is a link. Shorter, and what is
	// merely busy seems cut off; longer, and a leader that is cut off leads for too long:
	// another has to within 5 s.
	pulseLasts = 2500 * time.Millisecond
)

// Pulse knows whether this gateway has a link to a dependency, whatever its breaker
// says: that hears of calls, which may all be other gateways', or none.
type Pulse struct {
	ask  func(context.Context) error
	born time.Time
	last atomic.Int64 // when it answered last, counted from born; 0 = never
}

// NewPulse makes the pulse of what ask asks for a sign of life.
func NewPulse(ask func(context.Context) error) *Pulse {
	return &Pulse{ask: ask, born: time.Now()}
}

// Beat asks once; it is the body of a job, which never fails. That this gateway was too
// busy to ask says nothing of the link, and leaves it as it was.
func (p *Pulse) Beat(ctx context.Context) error {
	alive := p.Alive()
	ctx, cancel := context.WithTimeout(ctx, pulseTimeout)
	defer cancel()
	if err := p.ask(ctx); err == nil || alive && errors.Is(err, sale.ErrOverloaded) {
		p.last.Store(int64(time.Since(p.born)) + 1)
	}
	return nil
}

// Alive reports whether there was an answer of late.
func (p *Pulse) Alive() bool {
	last := p.last.Load()
	return last > 0 && time.Since(p.born)-time.Duration(last) < pulseLasts
}
