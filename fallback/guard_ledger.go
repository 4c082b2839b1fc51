package fallback

import (
	"context"

	"flashgate/sale"
)

// Ledger is what the sale and the edge call of the ledger. See ledger for what each
// method does.
type Ledger interface {
	Commit(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error)
	Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	FindExhausted(ctx context.Context, sku string, ids []sale.OrderID) (found map[sale.OrderID]sale.Order, exhausted bool, err error)
	Order(ctx context.Context, id sale.OrderID) (sale.Order, error)
	Stock(ctx context.Context, sku string) (map[int]sale.Stock, error)
	Pay(ctx context.Context, p sale.Payment) (sale.PaymentResult, error)
	Cancel(ctx context.Context, id sale.OrderID, user string) (sale.Order, error)
	Opening(ctx context.Context, from, to int64, limit int) ([]string, error)

	// These pass unguarded: they are answered from memory where they can be, whether the
	// database is there or not.
	Now() int64
	SKU(ctx context.Context, name string) (*sale.SKU, error)
}

// GuardedLedger is the ledger behind its breaker. Its methods may be called by any
// goroutine, and return what the ledger's do, or sale.ErrNotCalled.
type GuardedLedger struct {
	Ledger
	breaker *Breaker
	guard   guard
}

// GuardLedger is the ledger as the sale calls it: how its calls end is what the breaker
// goes by.
func GuardLedger(l Ledger, b *Breaker) *GuardedLedger { return &GuardedLedger{l, b, b.Do} }

// Asked is the ledger as the edge calls it for buyers: not while the breaker is open, and
// without a say in that. Operators call the ledger itself: what they do has to get through.
func (g *GuardedLedger) Asked() *GuardedLedger {
	return &GuardedLedger{g.Ledger, g.breaker, g.breaker.Ask}
}

// Usable reports whether a call would be tried now.
func (g *GuardedLedger) Usable() bool { return g.breaker.Usable() }

// Commit decides a batch.
func (g *GuardedLedger) Commit(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
	return through(ctx, g.guard, func(ctx context.Context) (sale.CommitResult, error) { return g.Ledger.Commit(ctx, b) })
}

// Find returns the orders that exist.
func (g *GuardedLedger) Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return through(ctx, g.guard, func(ctx context.Context) (map[sale.OrderID]sale.Order, error) { return g.Ledger.Find(ctx, ids) })
}

// FindExhausted returns the orders that exist of a SKU that has nothing left.
func (g *GuardedLedger) FindExhausted(ctx context.Context, sku string, ids []sale.OrderID) (map[sale.OrderID]sale.Order, bool, error) {
	return throughTwo(ctx, g.guard, func(ctx context.Context) (map[sale.OrderID]sale.Order, bool, error) {
		return g.Ledger.FindExhausted(ctx, sku, ids)
	})
}

// Order returns one order.
func (g *GuardedLedger) Order(ctx context.Context, id sale.OrderID) (sale.Order, error) {
	return through(ctx, g.guard, func(ctx context.Context) (sale.Order, error) { return g.Ledger.Order(ctx, id) })
}

// Stock returns a SKU's units by segment.
func (g *GuardedLedger) Stock(ctx context.Context, sku string) (map[int]sale.Stock, error) {
	return through(ctx, g.guard, func(ctx context.Context) (map[int]sale.Stock, error) { return g.Ledger.Stock(ctx, sku) })
}

// Pay records a payment event.
func (g *GuardedLedger) Pay(ctx context.Context, p sale.Payment) (sale.PaymentResult, error) {
	return through(ctx, g.guard, func(ctx context.Context) (sale.PaymentResult, error) { return g.Ledger.Pay(ctx, p) })
}

// Cancel ends a buyer's reserved order.
func (g *GuardedLedger) Cancel(ctx context.Context, id sale.OrderID, user string) (sale.Order, error) {
	return through(ctx, g.guard, func(ctx context.Context) (sale.Order, error) { return g.Ledger.Cancel(ctx, id, user) })
}

// Opening returns the SKUs whose sale opens soon.
func (g *GuardedLedger) Opening(ctx context.Context, from, to int64, limit int) ([]string, error) {
	return through(ctx, g.guard, func(ctx context.Context) ([]string, error) { return g.Ledger.Opening(ctx, from, to, limit) })
}
