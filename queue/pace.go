package queue

import (
	"math"
	"sync"
	"time"
)

// pace is an exponentially weighted rate of verdicts, with a time constant of one
// second: rate += (n/dt - rate) x (1 - exp(-dt/1s)).
type pace struct {
	mu   sync.Mutex
	rate float64
	last time.Time
}

func (p *pace) add(n int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.IsZero() {
		p.last = now
		p.rate = float64(n)
		return
	}
	dt := max(now.Sub(p.last).Seconds(), 1e-6)
	p.last = now
	p.rate += (float64(n)/dt - p.rate) * -math.Expm1(-dt)
}

func (p *pace) perSecond() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate
}
