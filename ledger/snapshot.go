package ledger

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"flashgate/ledger/dialect"
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
		for _, statement := range db.dialect.Snapshot() {
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
	return eachPage(eachChunk, func(last *sale.Order) ([]sale.Order, error) {
		compare := ">="
		if last != nil {
			compare, from = ">", last.ID
		}
		rows, err := s.conn.QueryContext(ctx, "SELECT "+orderColumns+" FROM orders"+s.db.dialect.ByPrimaryKey()+
			" WHERE order_id "+compare+" ? AND order_id <= ? ORDER BY order_id LIMIT ?", from[:], to[:], eachChunk)
		page, err := scanAll(rows, err, scanOrder)
		return page, s.db.away(ctx, err)
	}, fn)
}

// pendingPage is how many rows of the outbox, each with the events of a transaction,
// are in memory at once.
const pendingPage = 64

// EachPending hands over the rows of the outbox, in row order: what has been written
// and not yet acknowledged by the world.
func (s *Snapshot) EachPending(ctx context.Context, fn func(row sale.OutboxRow) error) error {
	read := func(last *sale.OutboxRow) ([]sale.OutboxRow, error) {
		after := int64(0)
		if last != nil {
			after = last.ID
		}
		rows, err := s.conn.QueryContext(ctx, "SELECT id, msg_id, sku, kind, payload, at FROM outbox WHERE id > ? ORDER BY id LIMIT ?", after, pendingPage)
		page, err := scanAll(rows, err, scanOutbox)
		return page, s.db.away(ctx, err)
	}
	return eachPage(pendingPage, read, func(page []sale.OutboxRow) error {
		for _, row := range page {
			if err := fn(row); err != nil {
				return err
			}
		}
		return nil
	})
}

// EachRefund hands over the payments that have to be given back, of everybody or, where skus
// is not nil, of the SKUs' orders, in chunks that fn must not keep.
func (s *Snapshot) EachRefund(ctx context.Context, skus []string, fn func(refunds []sale.Refund) error) error {
	if skus == nil {
		return s.eachRefund(ctx, scope{}, fn)
	}
	for some := range slices.Chunk(skus, scopeChunk) {
		if err := s.eachRefund(ctx, scope{s.db.dialect, some}, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *Snapshot) eachRefund(ctx context.Context, of scope, fn func(refunds []sale.Refund) error) error {
	from := "payments"
	if of.skus != nil {
		from += s.db.dialect.ByIndex("payments_order")
	}
	return eachPage(eachChunk, func(last *sale.Refund) ([]sale.Refund, error) {
		after := ""
		if last != nil {
			after = last.EventID
		}
		rows, err := s.conn.QueryContext(ctx, "SELECT event_id, order_id, at FROM "+from+" WHERE event_id > ? AND outcome = ?"+of.ids("order_id")+" ORDER BY event_id LIMIT ?",
			after, sale.PaymentRefund.String(), eachChunk)
		page, err := scanAll(rows, err, func(r scanner) (refund sale.Refund, err error) {
			var id []byte
			err = r.Scan(&refund.EventID, &id, &refund.At)
			copy(refund.OrderID[:], id)
			return refund, err
		})
		return page, s.db.away(ctx, err)
	}, fn)
}

// Position is this state's, but for the stream: up to margin before now, or before what has
// not been published.
func (s *Snapshot) Position(ctx context.Context, margin time.Duration) (sale.AuditPosition, error) {
	p := sale.AuditPosition{At: s.db.Now()}
	err := s.conn.QueryRowContext(ctx, "SELECT COALESCE(MIN(at), ?), (SELECT position FROM change_counter WHERE id = 1) FROM outbox", p.At).Scan(&p.At, &p.Change)
	p.At = min(p.At, s.db.Now()) - margin.Milliseconds()
	return p, s.db.away(ctx, err)
}

// Touched returns, besides those of which the stream tells, SKUs that may have changed since
// the position: operators changed them, or orders of theirs wait for a payment.
func (s *Snapshot) Touched(ctx context.Context, since sale.AuditPosition) ([]string, error) {
	rows, err := s.conn.QueryContext(ctx, "SELECT sku FROM skus"+s.db.dialect.ByIndex("skus_position")+" WHERE position > ?", since.Change)
	names, err := scanAll(rows, err, scanName)
	if err != nil {
		return nil, s.db.away(ctx, err)
	}
	// One order of each SKU: their ids begin alike.
	waiting := make(map[uint64]sale.OrderID)
	rows, err = s.conn.QueryContext(ctx, "SELECT pay_by, slot, ids FROM due WHERE pay_by >= ?", since.At)
	err = each(rows, err, func(r scanner) error {
		row, err := scanDue(r)
		for _, id := range row.ids {
			waiting[id.Prefix()] = id
		}
		return err
	})
	if err != nil {
		return nil, s.db.away(ctx, err)
	}
	for some := range slices.Chunk(slices.Collect(maps.Values(waiting)), findChunk) {
		text := dialect.NewScript(s.db.dialect)
		text.Raw("SELECT sku FROM orders WHERE order_id IN (")
		text.IDs(some)
		text.Raw(")")
		rows, err := s.conn.QueryContext(ctx, string(text.Text))
		more, err := scanAll(rows, err, scanName)
		if err != nil {
			return nil, s.db.away(ctx, err)
		}
		names = append(names, more...)
	}
	return names, nil
}

// EachChanged hands over the SKU's orders that were made or changed at or behind a moment,
// in the order of ids, in chunks that fn must not keep.
func (s *Snapshot) EachChanged(ctx context.Context, sku string, since int64, fn func(orders []sale.Changed) error) error {
	first, last := sale.OrderIDsOf(sku)
	of := s.db.ordersOf(sku)
	const between = " WHERE order_id >= ? AND order_id <= ? AND at >= ?"
	rows, err := s.conn.QueryContext(ctx, "SELECT "+qualified("o", orderColumns)+", c.at FROM (SELECT order_id, MAX(at) AS at FROM ("+
		"SELECT order_id, reserved_at AS at"+of+" AND reserved_at >= ?"+
		" UNION ALL SELECT order_id, at FROM stock_moves"+between+" AND reason <> '"+operatorReason+"'"+
		" UNION ALL SELECT order_id, at FROM payments"+s.db.dialect.ByIndex("payments_order")+between+" AND outcome IN ('paid','retaken')"+
		") u GROUP BY order_id) c JOIN orders o ON o.order_id = c.order_id WHERE o.sku = ? ORDER BY o.order_id",
		since, first[:], last[:], since, first[:], last[:], since, sku)
	if err != nil {
		return s.db.away(ctx, err)
	}
	chunk := make([]sale.Changed, 0, eachChunk)
	for rows.Next() {
		var o sale.Changed
		if o.Order, err = scanOrder(widerRow{rows, []any{&o.Since}}); err != nil {
			break
		}
		if chunk = append(chunk, o); len(chunk) < eachChunk {
			continue
		}
		if err := fn(chunk); err != nil {
			return errors.Join(err, rows.Close())
		}
		chunk = chunk[:0]
	}
	if err := dialect.CloseRows(rows, err); err != nil {
		return s.db.away(ctx, err)
	}
	if len(chunk) == 0 {
		return nil
	}
	return fn(chunk)
}

// unhurried runs fn on a connection without limits on how long a call may take.
func (db *DB) unhurried(ctx context.Context, fn func(conn *sql.Conn) error) error {
	pool, err := db.dialect.OpenForMigration(db.cfg.DSN)
	if err != nil {
		return err
	}
	// What was read has been read: that a connection ends badly changes nothing.
	defer func() { _ = pool.Close() }()
	conn, err := pool.Conn(ctx)
	if err != nil {
		return db.away(ctx, err)
	}
	defer func() { _ = conn.Close() }()
	return fn(conn)
}
