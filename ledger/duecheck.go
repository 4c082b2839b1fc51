package ledger

import (
	"context"
	"database/sql"
	"slices"

	"flashgate/ledger/dialect"
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
	var after sale.OrderID
	for first := true; ; first = false {
		batch, err := c.readReserved(ctx, conn, after, first)
		if err != nil || len(batch) == 0 {
			return found, err
		}
		if err := strikeListed(ctx, conn, batch); err != nil {
			return found, err
		}
		for i := range batch {
			o := &batch[i]
			if o.listed {
				continue
			}
			if len(found.Findings) == bound {
				found.More = true
				return found, nil
			}
			f := sale.Finding{Check: found.Check, OrderID: o.id, Detail: "reserved until " + sale.FormatTime(o.payBy) + ", and nothing will end it"}
			if err := conn.QueryRowContext(ctx, "SELECT sku FROM orders WHERE order_id = ?", o.id[:]).Scan(&f.SKU); err != nil {
				return found, err
			}
			found.Findings = append(found.Findings, f)
		}
		after = batch[len(batch)-1].id
	}
}

// readReserved reads the next reserved orders in the order of ids.
func (c scope) readReserved(ctx context.Context, conn *sql.Conn, after sale.OrderID, first bool) ([]dueOrder, error) {
	compare := ">"
	if first {
		compare = ">="
	}
	rows, err := conn.QueryContext(ctx, "SELECT order_id, pay_by FROM orders WHERE order_id "+compare+" ? AND status = 'reserved'"+c.orders("orders")+" ORDER BY order_id LIMIT ?",
		after[:], dueBatch)
	if err != nil {
		return nil, err
	}
	var batch []dueOrder
	var id sql.RawBytes
	for rows.Next() {
		var o dueOrder
		if err = rows.Scan(&id, &o.payBy); err != nil {
			break
		}
		copy(o.id[:], id)
		batch = append(batch, o)
	}
	return batch, dialect.CloseRows(rows, err)
}

// strikeListed marks the orders of the sorted batch that the due list has.
func strikeListed(ctx context.Context, conn *sql.Conn, batch []dueOrder) error {
	rows, err := conn.QueryContext(ctx, "SELECT pay_by, slot, ids FROM due")
	if err != nil {
		return err
	}
	for rows.Next() {
		var r dueRow
		if r, err = scanDue(rows); err != nil {
			break
		}
		for _, id := range r.ids {
			if i, ok := findDue(batch, id); ok && batch[i].payBy == r.payBy {
				batch[i].listed = true
			}
		}
	}
	return dialect.CloseRows(rows, err)
}

func findDue(batch []dueOrder, id sale.OrderID) (int, bool) {
	return slices.BinarySearchFunc(batch, id, func(o dueOrder, id sale.OrderID) int { return compareOrderIDs(o.id, id) })
}
