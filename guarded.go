package main

import (
	"context"
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

func (g guardedShield) Left(ctx context.Context, sku *sale.SKU) (left int64, loaded bool, err error) {
	err = g.breaker.Do(ctx, func(ctx context.Context) (err error) {
		left, loaded, err = g.shield.Left(ctx, sku)
		return err
	})
	return left, loaded, err
}
