package checkout

import (
	"context"
	"sync"
	"time"

	"flashgate/sale"
)

// fakeBreaker is open or not.
type fakeBreaker struct {
	open  bool
	calls int
	mu    sync.Mutex
}

func (b *fakeBreaker) set(open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = open
}

func (b *fakeBreaker) Usable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open
}

func (b *fakeBreaker) Do(ctx context.Context, call func(context.Context) error) error {
	b.mu.Lock()
	open := b.open
	if !open {
		b.calls++
	}
	b.mu.Unlock()
	if open {
		return sale.ErrNotCalled
	}
	return call(ctx)
}

// shieldCalls is a shield without a breaker.
type shieldCalls interface {
	Deduct(ctx context.Context, sku *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error)
	Settle(ctx context.Context, sku *sale.SKU, settled []sale.Settlement) error
	BulkLoad(ctx context.Context, skus []*sale.SKU) ([]*sale.SKU, map[*sale.SKU]error)
	Rebuild(ctx context.Context, sku *sale.SKU) error
	Distrust(sku string, since int64)
	Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error
	Release(ctx context.Context, sku *sale.SKU, orders []sale.Order) error
	Raise(ctx context.Context, skus []*sale.SKU) error
}

// guardedShield is a shield behind a breaker.
type guardedShield struct {
	shieldCalls
	*fakeBreaker
}

func (g guardedShield) Deduct(ctx context.Context, sku *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (d sale.Deduction, err error) {
	err = g.Do(ctx, func(ctx context.Context) (err error) {
		d, err = g.shieldCalls.Deduct(ctx, sku, claims, settled)
		return err
	})
	return d, err
}

func (g guardedShield) Settle(ctx context.Context, sku *sale.SKU, settled []sale.Settlement) error {
	return g.Do(ctx, func(ctx context.Context) error { return g.shieldCalls.Settle(ctx, sku, settled) })
}

func (g guardedShield) Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error {
	return g.Do(ctx, func(ctx context.Context) error { return g.shieldCalls.Remember(ctx, orders, ttl) })
}

func (g guardedShield) Release(ctx context.Context, sku *sale.SKU, orders []sale.Order) error {
	return g.Do(ctx, func(ctx context.Context) error { return g.shieldCalls.Release(ctx, sku, orders) })
}

func (g guardedShield) Raise(ctx context.Context, skus []*sale.SKU) error {
	return g.Do(ctx, func(ctx context.Context) error { return g.shieldCalls.Raise(ctx, skus) })
}

// ledgerCalls is a ledger without a breaker.
type ledgerCalls interface {
	Now() int64
	SKU(ctx context.Context, name string) (*sale.SKU, error)
	Opening(ctx context.Context, from, to int64, limit int) ([]string, error)
	Commit(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error)
	Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	FindExhausted(ctx context.Context, sku string, ids []sale.OrderID) (map[sale.OrderID]sale.Order, bool, error)
}

// guardedLedger is a ledger behind a breaker.
type guardedLedger struct {
	ledgerCalls
	*fakeBreaker
}

func (g guardedLedger) Commit(ctx context.Context, b sale.CommitBatch) (res sale.CommitResult, err error) {
	err = g.Do(ctx, func(ctx context.Context) (err error) {
		res, err = g.ledgerCalls.Commit(ctx, b)
		return err
	})
	return res, err
}

func (g guardedLedger) Opening(ctx context.Context, from, to int64, limit int) (names []string, err error) {
	err = g.Do(ctx, func(ctx context.Context) (err error) {
		names, err = g.ledgerCalls.Opening(ctx, from, to, limit)
		return err
	})
	return names, err
}

func (g guardedLedger) Find(ctx context.Context, ids []sale.OrderID) (found map[sale.OrderID]sale.Order, err error) {
	err = g.Do(ctx, func(ctx context.Context) (err error) {
		found, err = g.ledgerCalls.Find(ctx, ids)
		return err
	})
	return found, err
}

func (g guardedLedger) FindExhausted(ctx context.Context, sku string, ids []sale.OrderID) (found map[sale.OrderID]sale.Order, exhausted bool, err error) {
	err = g.Do(ctx, func(ctx context.Context) (err error) {
		found, exhausted, err = g.ledgerCalls.FindExhausted(ctx, sku, ids)
		return err
	})
	return found, exhausted, err
}
