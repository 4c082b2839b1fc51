package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// timers lends out the timer that a waiting request or a stream needs.
type timers struct{ pool sync.Pool }

func (p *timers) get(d time.Duration) *time.Timer {
	if t, ok := p.pool.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

// put gets the timer back. Since Go 1.23 a stopped timer leaves nothing in its channel.
func (p *timers) put(t *time.Timer) {
	t.Stop()
	p.pool.Put(t)
}

// deadlines hands out contexts for calls to dependencies without a timer per request:
// all calls that begin in one tick share a context, which ends between timeout and
// timeout + tick after they began. Before it runs, contexts never end. A context of its
// own would cost a call 1 us and 4 allocations (BenchmarkCallContext).
type deadlines struct {
	timeout time.Duration
	current atomic.Pointer[context.Context]
}

const (
	// callTimeout bounds what a request asks of ledger and shield: longer than either is
	// slow for a moment, and short enough that requests do not pile up behind one that
	// is away.
	callTimeout   = 2 * time.Second
	deadlineTicks = 8
)

func newDeadlines(timeout time.Duration) *deadlines {
	d := &deadlines{timeout: timeout}
	ctx := context.Background()
	d.current.Store(&ctx)
	return d
}

func (d *deadlines) context() context.Context { return *d.current.Load() }

// run makes a new context with every tick until ctx ends, which ends them all.
func (d *deadlines) run(ctx context.Context) {
	tick := d.timeout / deadlineTicks
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	// A context is cancelled, to free it, when its slot comes round again: a tick or
	// more after it ended by itself.
	var cancels [deadlineTicks + 3]context.CancelFunc
	for i := 0; ; i = (i + 1) % len(cancels) {
		if cancels[i] != nil {
			cancels[i]()
		}
		shared, cancel := context.WithTimeout(ctx, d.timeout+tick)
		cancels[i] = cancel
		d.current.Store(&shared)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			for _, cancel := range cancels {
				if cancel != nil {
					cancel()
				}
			}
			return
		}
	}
}
