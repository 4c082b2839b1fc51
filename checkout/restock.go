package checkout

import (
	"context"
	"errors"
	"sync"
	"time"

	"flashgate/sale"
)

// Units that came back are held against the ledger for a second and a half: longer than
// a lane's linger, in which the shield may still hear of a batch that found nothing left.
// The reconciler does the rest.
const (
	restockEvery = 100 * time.Millisecond
	restockLooks = 15
	// releaseFor bounds telling the shield of what was given back: for less, a busy
	// moment leaves it to be found; for longer, whoever gave it back waits.
	releaseFor = time.Second
)

// restocks are the SKUs of which units came back lately. The shield may not have known
// the order that held them, so each is held against the ledger for a while.
type restocks struct {
	mu    sync.Mutex
	looks map[string]int // SKU -> looks to come
}

func (r *restocks) add(sku string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looks == nil {
		r.looks = make(map[string]int)
	}
	r.looks[sku] = restockLooks
}

// due returns the SKUs to look at now, and counts the look.
func (r *restocks) due() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.looks))
	for sku, n := range r.looks {
		names = append(names, sku)
		if r.looks[sku] = n - 1; n <= 1 {
			delete(r.looks, sku)
		}
	}
	return names
}

// Released gives back to the shield what the ledger has been given back of a SKU, and
// forgets that it is sold out. Where the shield cannot be told, or does not know the
// orders, the units are found in the ledger. It is the ledger's hook.
func (c *Checkout) Released(ctx context.Context, name string, orders []sale.Order) {
	// The call that ended the orders may have used up its time: this one has its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseFor)
	defer cancel()
	sku, err := c.Ledger.SKU(ctx, name)
	if err == nil {
		err = c.Shield.Release(ctx, sku, orders)
	}
	if err != nil {
		c.log.Debug("shield not told of units given back", "sku", name, "orders", len(orders), "err", err)
	}
	c.restocks.add(name)
	if m, ok := c.memos.Load(name); ok {
		m.(*memo).soldOut.clear()
	}
}

// watch looks after units that came back, and loads that failed, until ctx ends.
func (c *Checkout) watch(ctx context.Context) {
	tick := time.NewTicker(restockEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.rebuilds.later(time.Now())
			// Both are asked; without one of them a look would find nothing out.
			if c.Ledger.Usable() && c.Shield.Usable() {
				c.lookAtRestocks(ctx)
			}
		}
	}
}

// lookAtRestocks holds the SKUs that are due against the ledger, all together.
func (c *Checkout) lookAtRestocks(ctx context.Context) {
	var skus []*sale.SKU
	for _, name := range c.restocks.due() {
		sku, err := c.Ledger.SKU(ctx, name)
		if err != nil {
			c.metrics.restockFailed.Inc()
			c.log.Debug("units that came back not looked for", "sku", name, "err", err)
			continue
		}
		skus = append(skus, sku)
	}
	if len(skus) == 0 {
		return
	}
	if err := c.Shield.Raise(ctx, skus); err != nil && !errors.Is(err, sale.ErrNotCalled) && ctx.Err() == nil {
		c.metrics.restockFailed.Inc()
		c.log.Debug("units that came back not looked for", "skus", len(skus), "err", err)
	}
}
