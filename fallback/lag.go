package fallback

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lagEvery is how often a Lag looks at the clock: less often, and it misses what a short
// time-out consists of; more often costs the processor that is missing.
const lagEvery = 5 * time.Millisecond

// Lag measures how long this process was kept from running: because others took the
// processor, because it has too much to do itself, or because it was suspended. Its
// methods may be called by any goroutine.
type Lag struct {
	mu   sync.Mutex
	lost time.Duration // up to when Run looked last
	due  time.Time     // when it looks next; zero = it does not run

	timeouts prometheus.Counter
}

// NewLag starts nothing.
func NewLag(r prometheus.Registerer) (*Lag, error) {
	l := &Lag{timeouts: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashgate_lag_timeouts_total", Help: "Calls that timed out because this process did not get to run; no breaker counts them.",
	})}
	lost := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "flashgate_lag_seconds_total", Help: "Time for which this process was ready to run and did not.",
	}, func() float64 { return l.Lost().Seconds() })
	if r == nil {
		return l, nil
	}
	for _, c := range []prometheus.Collector{l.timeouts, lost} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("fallback: metrics: %w", err)
		}
	}
	return l, nil
}

// Run looks at the clock until ctx ends.
func (l *Lag) Run(ctx context.Context) error {
	timer := time.NewTimer(lagEvery)
	defer timer.Stop()
	for {
		l.look(time.Now().Add(lagEvery))
		select {
		case <-ctx.Done():
			l.look(time.Time{})
			return nil
		case <-timer.C:
			timer.Reset(lagEvery)
		}
	}
}

// look adds what was lost, and notes when the next look is due.
func (l *Lag) look(next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost += l.overdue()
	l.due = next
}

// overdue is by how much the next look is late; the lock is held.
func (l *Lag) overdue() time.Duration {
	if l.due.IsZero() {
		return 0
	}
	return max(0, time.Since(l.due))
}

// Lost is how long the process was kept from running so far.
func (l *Lag) Lost() time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost + l.overdue()
}

// lagPatience is how long after a dependency's last success its time-outs may be laid to
// this process' own lag. Shorter, and a machine that is busy opens breakers; longer, and
// a dependency that went away while the machine was busy is called in vain for longer.
const lagPatience = time.Second

// ownTimeout is a time-out that this process has itself to blame for.
type ownTimeout struct{ error }

// blame returns how a call ended, for counting: a time-out is this process' own where it
// did not run for most of the call, if the dependency answered others of late. lost is
// what Lost was when the call began.
func (b *Breaker) blame(err error, began time.Time, lost time.Duration) error {
	if b.cfg.Lag == nil || !timedOut(err) {
		return err
	}
	now := time.Now()
	lost = b.cfg.Lag.Lost() - lost
	silent := now.Sub(b.born) - time.Duration(b.answered.Load())
	if lost < now.Sub(began)/2 || silent > lagPatience+lost {
		return err
	}
	b.cfg.Lag.timeouts.Inc()
	return ownTimeout{err}
}

// timedOut reports errors that say that something took too long.
func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
