package checkout

import (
	"context"
	"time"

	"flashgate/sale"
)

const (
	// rebuilders is how many SKUs that cannot be loaded with others are loaded at a time:
	// fewer leave some throttled for long, more compete with selling for the ledger.
	rebuilders = 3
	// bulkSize is how many SKUs are loaded together: fewer cost more round trips, with more
	// the replies come close to Redis' read time-out on a busy machine.
	bulkSize = 128
	// rebuildLimit ends a load that hangs, so that it does not hold a rebuilder for ever.
	// It is ample: a hundred thousand orders load within a second.
	rebuildLimit = 2 * time.Minute
)

// bulkLoad loads shields, many at a time, until ctx ends.
func (c *Checkout) bulkLoad(ctx context.Context) {
	for {
		names := c.rebuilds.next(&c.rebuilds.bulk, bulkSize)
		if len(names) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-c.rebuilds.bulk.wake:
				continue
			}
		}
		c.loadTogether(ctx, names)
	}
}

// loadTogether loads SKUs together, and leaves those to be loaded alone that need it.
func (c *Checkout) loadTogether(ctx context.Context, names []string) {
	skus := make([]*sale.SKU, 0, len(names))
	failed := make(map[string]error)
	for _, name := range names {
		sku, err := c.Ledger.SKU(ctx, name)
		if err != nil {
			failed[name] = err
			continue
		}
		skus = append(skus, sku)
	}
	began, left := time.Now(), make(map[string]bool)
	if len(skus) > 0 {
		bounded, cancel := context.WithTimeout(ctx, rebuildLimit)
		alone, errs := c.Shield.BulkLoad(bounded, skus)
		cancel()
		for _, sku := range alone {
			left[sku.Name] = true
		}
		for sku, err := range errs {
			failed[sku.Name] = err
		}
	}
	took := time.Since(began)
	loaded := 0
	for _, name := range names {
		switch {
		case left[name]:
			c.rebuilds.leave(name)
			continue
		case failed[name] == nil:
			loaded++
			c.noteLoaded(name, took)
		}
		c.rebuilds.done(name, failed[name] != nil, took/time.Duration(len(names)))
	}
	if loaded > 0 {
		c.log.Info("shields loaded", "skus", loaded, "of them", names[0], "took", took)
	}
	c.sayNotLoaded(ctx, failed)
}

// rebuild loads shields, one at a time, until ctx ends.
func (c *Checkout) rebuild(ctx context.Context) {
	for {
		names := c.rebuilds.next(&c.rebuilds.alone, 1)
		if len(names) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-c.rebuilds.alone.wake:
				continue
			}
		}
		name := names[0]
		began := time.Now()
		err := c.load(ctx, name)
		c.rebuilds.done(name, err != nil, time.Since(began))
		if err != nil {
			c.sayNotLoaded(ctx, map[string]error{name: err})
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
	c.noteLoaded(name, took)
	c.log.Info("shield loaded", "sku", name, "took", took)
	return nil
}

// noteLoaded counts a load; one made together with others is taken to have cost as much
// as all of them.
func (c *Checkout) noteLoaded(name string, took time.Duration) {
	c.memoOf(name).loaded(time.Now(), took)
	c.metrics.rebuilt.Inc()
}

// sayNotLoaded says which loads failed, in one line however many.
func (c *Checkout) sayNotLoaded(ctx context.Context, failed map[string]error) {
	for name, err := range failed {
		if ctx.Err() == nil {
			c.log.Warn("shield not loaded", "sku", name, "others", len(failed)-1, "err", err)
		}
		return
	}
}
