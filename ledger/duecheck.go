package ledger

import (
	"context"
	"database/sql"
	"slices"

	"flashgate/sale"
)

// dueBatch is how many reserved orders are held in memory at once, at 24 bytes each.
const dueBatch = 500_000

// dueOrder is a reserved order and whether the due list has it.
type dueOrder struct {
	id     sale.OrderID
	payBy  int64
	listed bool
}

// checkDue compares the reserved orders with the due list, whose rows are lists of
// ids that no query can look into: batch by batch in the order of ids, with the whole
// due list streamed past each.
func (c scope) checkDue(ctx context.Context, conn *sql.Conn, bound int) (sale.Checked, error) {
	found := sale.Checked{Check: "due_list", Promise: "every reserved order is on the due list, for its own pay_by"}
	read := func(last *dueOrder) ([]dueOrder, error) {
		after := []byte{} // which every id lies behind
		if last != nil {
			after = last.id[:]
		}
		return c.readReserved(ctx, conn, after)
	}
	err := eachPage(dueBatch, read, func(batch []dueOrder) error {
		if err := strikeListed(ctx, conn, batch); err != nil {
			return err
		}
		for i := range batch {
			o := &batch[i]
			if o.listed || found.More {
				continue
			}
			if len(found.Findings) == bound {
				found.More = true
				continue
			}
			f := sale.Finding{Check: found.Check, OrderID: o.id, Detail: "reserved until " + sale.FormatTime(o.payBy) + ", and nothing will end it"}
			if err := conn.QueryRowContext(ctx, "SELECT sku FROM orders WHERE order_id = ?", o.id[:]).Scan(&f.SKU); err != nil {
				return err
			}
			found.Findings = append(found.Findings, f)
		}
		return nil
	})
	return found, err
}

// readReserved reads the next reserved orders in the order of ids.
func (c scope) readReserved(ctx context.Context, conn *sql.Conn, after []byte) ([]dueOrder, error) {
	rows, err := conn.QueryContext(ctx, "SELECT order_id, pay_by FROM orders WHERE order_id > ? AND status = 'reserved'"+c.orders("orders")+" ORDER BY order_id LIMIT ?",
		after, dueBatch)
	var id sql.RawBytes
	return scanAll(rows, err, func(r scanner) (o dueOrder, err error) {
		err = r.Scan(&id, &o.payBy)
		copy(o.id[:], id)
		return o, err
	})
}

// strikeListed marks the orders of the sorted batch that the due list has.
func strikeListed(ctx context.Context, conn *sql.Conn, batch []dueOrder) error {
	rows, err := conn.QueryContext(ctx, "SELECT pay_by, slot, ids FROM due")
	return each(rows, err, func(r scanner) error {
		row, err := scanDue(r)
		for _, id := range row.ids {
			if i, ok := findDue(batch, id); ok && batch[i].payBy == row.payBy {
				batch[i].listed = true
			}
		}
		return err
	})
}

func findDue(batch []dueOrder, id sale.OrderID) (int, bool) {
	return slices.BinarySearchFunc(batch, id, func(o dueOrder, id sale.OrderID) int { return compareOrderIDs(o.id, id) })
}
