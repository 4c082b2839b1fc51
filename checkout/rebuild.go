package checkout

import (
	"context"
	"sync"
	"time"
)

// rebuildPause is the least time between two attempts at one SKU, so that a shield
// that cannot be loaded is not loaded in a loop.
const rebuildPause = 200 * time.Millisecond

// rebuildRetries is how often a load that failed is tried again by itself, each time
// after twice as long: the first buyers of a SKU that was just put on sale would go around
// it otherwise. Afterwards it waits for a batch that finds it missing.
const rebuildRetries = 6

// rebuildLimit ends a load that hangs, so that it does not hold a rebuilder for ever. It
// is ample: a hundred thousand orders load within a second.
const rebuildLimit = 2 * time.Minute

// rebuilds is the set of SKUs whose shield wants loading, in the order asked for.
type rebuilds struct {
	mu      sync.Mutex
	line    []string
	pending map[string]bool // in line or being loaded
	renewed map[string]bool // of those, to be loaded once more
	again   map[string]failedLoad
	wake    chan struct{}
}

// failedLoad is a load that failed, until it succeeds or is forgotten.
type failedLoad struct {
	at    time.Time // when it failed
	times int       // how often in a row
}

// next is when it is tried again by itself.
func (f failedLoad) next() time.Time { return f.at.Add(rebuildPause << f.times) }

func (r *rebuilds) init() {
	r.pending = make(map[string]bool)
	r.renewed = make(map[string]bool)
	r.again = make(map[string]failedLoad)
	r.wake = make(chan struct{}, 1)
}

// want asks for a SKU's shield to be loaded; asking again while it is changes nothing.
func (r *rebuilds) want(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[name] || time.Since(r.again[name].at) < rebuildPause {
		return
	}
	r.add(name)
}

// renew asks for a load that begins after now: one that is under way may have read the
// ledger already.
func (r *rebuilds) renew(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[name] {
		r.renewed[name] = true
		return
	}
	r.add(name)
}

// add puts the SKU in line. The lock is held.
func (r *rebuilds) add(name string) {
	r.pending[name] = true
	r.line = append(r.line, name)
	r.nudge()
}

func (r *rebuilds) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *rebuilds) next() (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.line) == 0 {
		return "", false
	}
	name := r.line[0]
	r.line = r.line[1:]
	delete(r.renewed, name)
	if len(r.line) > 0 {
		r.nudge()
	}
	return name, true
}

func (r *rebuilds) done(name string, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, name)
	if failed {
		r.again[name] = failedLoad{time.Now(), r.again[name].times + 1}
	} else {
		delete(r.again, name)
	}
	if r.renewed[name] {
		r.add(name)
	}
}

// retry puts loads that failed in line again, where it is time, and forgets those that
// were tried often enough.
func (r *rebuilds) retry(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, f := range r.again {
		switch {
		case r.pending[name] || now.Before(f.next()):
		case f.times > rebuildRetries:
			delete(r.again, name)
		default:
			r.add(name)
		}
	}
}

// rebuild loads shields, one at a time, until ctx ends.
func (c *Checkout) rebuild(ctx context.Context) {
	for {
		name, ok := c.rebuilds.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-c.rebuilds.wake:
				continue
			}
		}
		err := c.load(ctx, name)
		c.rebuilds.done(name, err != nil)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("shield not loaded", "sku", name, "err", err)
		}
	}
}

func (c *Checkout) load(ctx context.Context, name string) error {
	sku, err := c.Ledger.SKU(ctx, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rebuildLimit)
	defer cancel()
	began := time.Now()
	if err := c.Shield.Rebuild(ctx, sku); err != nil {
		return err
	}
	took := time.Since(began)
	c.memoOf(name).loaded(time.Now(), took)
	c.metrics.rebuilt.Inc()
	c.log.Info("shield loaded", "sku", name, "took", took)
	return nil
}
