package ledger

import (
	"context"

	"flashgate/sale"
)

// Hooks are told what a transaction has changed, after its commit and outside of locks.
// They are hints, and lost with the process that was to give them: whoever needs to know
// for certain reads the ledger. A hook that is nil is not called.
type Hooks struct {
	// Committed is handed every outbox row of a purchase right after its commit. It must
	// not block and must not change the rows.
	Committed func(rows []sale.OutboxRow)
	// Released is handed the orders of one SKU whose units were given back; a repeated
	// cancellation tells again. The context is that of the call, and may be over.
	Released func(ctx context.Context, sku string, orders []sale.Order)
	// Changed is told of a SKU that an operator changed here: how it was, nil where it was
	// made, how it is, and whether its stock changed. Neither may be changed.
	Changed func(before, after *sale.SKU, stock bool)
	// Heard is told, in every gateway that remembers the SKU, of a change that it has
	// come to see, most often within half a second; of its own ones too. before is what
	// was remembered, nil where that was nothing; the same version as after's says that
	// only the stock may have changed, or that the rules were known already. Neither may
	// be changed. It must not block: the next changes wait for it.
	Heard func(before, after *sale.SKU)
}

// SetHooks sets whom to tell. It is called at most once, before Run.
func (db *DB) SetHooks(h Hooks) { db.hooks = h }

// heard tells of a change that this gateway has come to see. Where the change was read,
// something newer may have been remembered already.
func (db *DB) heard(before, read *sale.SKU) {
	if db.hooks.Heard == nil {
		return
	}
	after := read
	if before != nil && before.Version >= read.Version {
		after = before
	}
	db.hooks.Heard(before, after)
}

// released tells of orders whose units were given back, SKU by SKU.
func (db *DB) released(ctx context.Context, orders []sale.Order) {
	if db.hooks.Released == nil {
		return
	}
	bySKU := make(map[string][]sale.Order)
	for _, o := range orders {
		bySKU[o.SKU] = append(bySKU[o.SKU], o)
	}
	for sku, orders := range bySKU {
		db.hooks.Released(ctx, sku, orders)
	}
}
