package ledger

import (
	"context"

	"flashgate/sale"
)

// exhaustedSets keeps the order ids of SKUs that are sold out.
type exhaustedSets struct{ bound int }

func (e *exhaustedSets) init(bound int) { e.bound = bound }

// FindExhausted is Find.
func (db *DB) FindExhausted(ctx context.Context, sku string, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return db.Find(ctx, ids)
}
