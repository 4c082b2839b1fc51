package ledger

import (
	"context"

	"flashgate/sale"
)

// Source is the ledger as copies of it are made and repaired from: on connections of its
// own, so that neither buyers who look nor a sale keep a shield from being loaded, nor
// loads a sale.
type Source struct{ *DB }

// Source returns it.
func (db *DB) Source() Source { return Source{db} }

// Find is DB.Find.
func (s Source) Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return s.find(ctx, s.pools.control, ids, "orders")
}
