package main

import (
	"cmp"
	"context"
	"sync"
	"time"

	"flashgate/deduct"
	"flashgate/fallback"
	"flashgate/sale"
)

// guardedShield is the shield as the edge asks it: behind its breaker, so that a
// request costs no time-out while Redis is away.
type guardedShield struct {
	shield  *deduct.Shield
	breaker *fallback.Breaker
}

func (g guardedShield) Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error {
	return g.breaker.Do(ctx, func(ctx context.Context) error { return g.shield.Remember(ctx, orders, ttl) })
}

func (g guardedShield) Recall(ctx context.Context, id sale.OrderID) (o sale.Order, ok bool, err error) {
	err = g.breaker.Do(ctx, func(ctx context.Context) (err error) {
		o, ok, err = g.shield.Recall(ctx, id)
		return err
	})
	return o, ok, err
}

// recallers is how many verdicts are asked for at a time.
const recallers = 8

// RecallAll asks for each of them; the first error ends it.
func (g guardedShield) RecallAll(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	found := make(map[sale.OrderID]sale.Order)
	err := g.breaker.Do(ctx, func(ctx context.Context) error {
		var mu sync.Mutex
		var failed error
		var next int
		take := func() (id sale.OrderID, ok bool) {
			mu.Lock()
			defer mu.Unlock()
			if failed != nil || next == len(ids) {
				return id, false
			}
			next++
			return ids[next-1], true
		}
		var asking sync.WaitGroup
		for range min(recallers, len(ids)) {
			asking.Go(func() {
				for id, ok := take(); ok; id, ok = take() {
					o, known, err := g.shield.Recall(ctx, id)
					mu.Lock()
					if known {
						found[id] = o
					}
					failed = cmp.Or(failed, err)
					mu.Unlock()
				}
			})
		}
		asking.Wait()
		return failed
	})
	return found, err
}

func (g guardedShield) Left(ctx context.Context, sku *sale.SKU) (left int64, loaded bool, err error) {
	err = g.breaker.Do(ctx, func(ctx context.Context) (err error) {
		left, loaded, err = g.shield.Left(ctx, sku)
		return err
	})
	return left, loaded, err
}
