package ledger

import (
	"context"
	"database/sql"
	"fmt"

	"flashgate/sale"
)

// Snapshot is one state of the ledger between two commits, for readers that have to
// fit its tables together. It is used by one goroutine.
type Snapshot struct {
	db   *DB
	conn *sql.Conn
}

// InSnapshot calls fn with the state of this moment, and ends it when fn returns. It
// takes no locks and may run beside a sale; a long one makes the database keep old
// versions of rows. An error of fn is returned as it is; others wrap
// sale.ErrUnavailable.
func (db *DB) InSnapshot(ctx context.Context, fn func(s *Snapshot) error) error {
	if !db.Ready() {
		return db.notReady()
	}
	return db.unhurried(ctx, func(conn *sql.Conn) error {
		for _, statement := range db.dialect.snapshot() {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				return db.away(ctx, err)
			}
		}
		defer rollback(conn)
		// Where a snapshot begins with the first read, this is it.
		var one int
		if err := conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM job_leases").Scan(&one); err != nil {
			return db.away(ctx, err)
		}
		return fn(&Snapshot{db, conn})
	})
}

// EachOrder hands over the orders whose ids lie in [from, to], in the order of ids, in
// chunks that fn must not keep.
func (s *Snapshot) EachOrder(ctx context.Context, from, to sale.OrderID, fn func(orders []sale.Order) error) error {
	query := "SELECT " + orderColumns + " FROM orders" + s.db.dialect.byPrimaryKey() + " WHERE order_id %s ? AND order_id <= ? ORDER BY order_id LIMIT ?"
	chunk := make([]sale.Order, 0, eachChunk)
	for compare := ">="; ; compare = ">" {
		chunk = chunk[:0]
		rows, err := s.conn.QueryContext(ctx, fmt.Sprintf(query, compare), from[:], to[:], eachChunk)
		if err != nil {
			return s.db.away(ctx, err)
		}
		for rows.Next() {
			o, err := scanOrder(rows)
			if err != nil {
				return s.db.away(ctx, closeRows(rows, err))
			}
			chunk = append(chunk, o)
		}
		if err := closeRows(rows, nil); err != nil {
			return s.db.away(ctx, err)
		}
		if len(chunk) > 0 {
			if err := fn(chunk); err != nil {
				return err
			}
		}
		if len(chunk) < eachChunk {
			return nil
		}
		from = chunk[len(chunk)-1].ID
	}
}

// pendingPage is how many rows of the outbox, each with the events of a transaction,
// are in memory at once.
const pendingPage = 64

// EachPending hands over the rows of the outbox, in row order: what has been written
// and not yet acknowledged by the world.
func (s *Snapshot) EachPending(ctx context.Context, fn func(row sale.OutboxRow) error) error {
	for after := int64(0); ; {
		rows, err := s.conn.QueryContext(ctx, "SELECT id, msg_id, sku, kind, payload, at FROM outbox WHERE id > ? ORDER BY id LIMIT ?", after, pendingPage)
		if err != nil {
			return s.db.away(ctx, err)
		}
		page, err := scanOutbox(rows)
		if err != nil {
			return s.db.away(ctx, err)
		}
		for _, row := range page {
			if err := fn(row); err != nil {
				return err
			}
		}
		if len(page) < pendingPage {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// EachRefund hands over the payments that have to be given back, in chunks that fn must not
// keep.
func (s *Snapshot) EachRefund(ctx context.Context, fn func(refunds []sale.Refund) error) error {
	for after := ""; ; {
		rows, err := s.conn.QueryContext(ctx, "SELECT event_id, order_id, at FROM payments WHERE event_id > ? AND outcome = ? ORDER BY event_id LIMIT ?",
			after, sale.PaymentRefund.String(), eachChunk)
		if err != nil {
			return s.db.away(ctx, err)
		}
		var chunk []sale.Refund
		for rows.Next() {
			var r sale.Refund
			var id []byte
			if err = rows.Scan(&r.EventID, &id, &r.At); err != nil {
				break
			}
			copy(r.OrderID[:], id)
			chunk = append(chunk, r)
		}
		if err := closeRows(rows, err); err != nil {
			return s.db.away(ctx, err)
		}
		if len(chunk) > 0 {
			if err := fn(chunk); err != nil {
				return err
			}
			after = chunk[len(chunk)-1].EventID
		}
		if len(chunk) < eachChunk {
			return nil
		}
	}
}
