package ledger

import (
	"cmp"
	"context"

	"flashgate/sale"
)

// Cancel ends the user's reserved order and gives its units back. Cancelling again
// returns the cancelled order. Errors: sale.ErrUnknownOrder, also where the order is
// another user's; sale.ErrAlreadyPaid; sale.ErrOrderExpired; or one that wraps
// sale.ErrUnavailable, after which the order may be cancelled or not.
func (db *DB) Cancel(ctx context.Context, id sale.OrderID, user string) (sale.Order, error) {
	var order sale.Order
	var refusal error
	done, sku := false, ""
	err := db.insist(ctx, db.pools.edge, about(keyOfOrder(id)), func(ctx context.Context, on *try) error {
		found, err := db.readOrders(ctx, on.conn, []sale.OrderID{id})
		if err == nil && len(found) == 0 {
			found, err = db.archivedOrder(ctx, on.conn, id)
		}
		if err != nil {
			return err
		}
		refusal, done = nil, false
		switch {
		case len(found) == 0 || found[0].User != user:
			refusal = sale.ErrUnknownOrder
		case found[0].Status == sale.StatusPaid:
			refusal = sale.ErrAlreadyPaid
		case found[0].Status == sale.StatusExpired:
			refusal = sale.ErrOrderExpired
		case found[0].Status == sale.StatusCancelled:
			order = found[0].Order
		default:
			t := &transition{db: db, at: db.Now()}
			sku = found[0].SKU
			order, done = t.giveBack(found, sale.StatusCancelled)[0], true
			return t.write(ctx, on)
		}
		return nil
	})
	db.suspects.note(sku, err)
	if err = cmp.Or(err, refusal); err != nil {
		return sale.Order{}, err
	}
	if done {
		db.metrics.changed(sale.StatusCancelled.String(), 1)
	}
	// Told again where it was cancelled before: whoever did that may have died since.
	if done || order.RepeatsMatter(db.Now()) {
		db.released(ctx, []sale.Order{order})
	}
	return order, nil
}
