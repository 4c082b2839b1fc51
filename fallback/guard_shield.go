package fallback

import (
	"context"
	"time"

	"flashgate/sale"
)

// Shield is what the sale and the edge call of the shield. See deduct for what each
// method does.
type Shield interface {
	Deduct(ctx context.Context, sku *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error)
	Settle(ctx context.Context, sku *sale.SKU, settled []sale.Settlement) error
	Release(ctx context.Context, sku *sale.SKU, orders []sale.Order) error
	Raise(ctx context.Context, skus []*sale.SKU) error
	Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error
	Recall(ctx context.Context, id sale.OrderID) (sale.Order, bool, error)
	RecallAll(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	Left(ctx context.Context, sku *sale.SKU) (left int64, loaded bool, err error)

	// These pass unguarded: a load has its own pace and time, and distrust is a note in
	// this process.
	BulkLoad(ctx context.Context, skus []*sale.SKU) (alone []*sale.SKU, failed map[*sale.SKU]error)
	Rebuild(ctx context.Context, sku *sale.SKU) error
	Distrust(sku string, since int64)
}

// GuardedShield is the shield behind its breaker. Its methods may be called by any
// goroutine, and return what the shield's do, or sale.ErrNotCalled.
type GuardedShield struct {
	Shield
	breaker *Breaker
	guard   guard
}

// GuardShield puts the breaker in front of the shield.
func GuardShield(s Shield, b *Breaker) *GuardedShield { return &GuardedShield{s, b, b.Do} }

// GuardShards is for a shield on many servers, which has a breaker in front of each: this
// one opens by an operator's order only, so that one server's failures close the way to no
// other.
func GuardShards(s Shield, b *Breaker) *GuardedShield { return &GuardedShield{s, b, b.Obey} }

// Usable reports whether a call would be tried now.
func (g *GuardedShield) Usable() bool { return g.breaker.Usable() }

// Deduct has the shield judge a batch.
func (g *GuardedShield) Deduct(ctx context.Context, sku *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error) {
	return through(ctx, g.guard, func(ctx context.Context) (sale.Deduction, error) { return g.Shield.Deduct(ctx, sku, claims, settled) })
}

// Settle tells the shield how admitted claims ended.
func (g *GuardedShield) Settle(ctx context.Context, sku *sale.SKU, settled []sale.Settlement) error {
	return g.guard(ctx, func(ctx context.Context) error { return g.Shield.Settle(ctx, sku, settled) })
}

// Release gives back the units of orders that ended.
func (g *GuardedShield) Release(ctx context.Context, sku *sale.SKU, orders []sale.Order) error {
	return g.guard(ctx, func(ctx context.Context) error { return g.Shield.Release(ctx, sku, orders) })
}

// Raise holds SKUs against the ledger.
func (g *GuardedShield) Raise(ctx context.Context, skus []*sale.SKU) error {
	return g.guard(ctx, func(ctx context.Context) error { return g.Shield.Raise(ctx, skus) })
}

// Remember keeps orders that have no row.
func (g *GuardedShield) Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error {
	return g.guard(ctx, func(ctx context.Context) error { return g.Shield.Remember(ctx, orders, ttl) })
}

// Recall returns what is remembered of an order.
func (g *GuardedShield) Recall(ctx context.Context, id sale.OrderID) (sale.Order, bool, error) {
	return throughTwo(ctx, g.guard, func(ctx context.Context) (sale.Order, bool, error) { return g.Shield.Recall(ctx, id) })
}

// RecallAll returns what is remembered of the orders.
func (g *GuardedShield) RecallAll(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return through(ctx, g.guard, func(ctx context.Context) (map[sale.OrderID]sale.Order, error) { return g.Shield.RecallAll(ctx, ids) })
}

// Left returns how many units the shield has left.
func (g *GuardedShield) Left(ctx context.Context, sku *sale.SKU) (left int64, loaded bool, err error) {
	return throughTwo(ctx, g.guard, func(ctx context.Context) (int64, bool, error) { return g.Shield.Left(ctx, sku) })
}
