package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// The first limit of a SKU that has many orders needs a row for each of its buyers. That
// is too much for a transaction that holds the stock rows, so the change only asks for it
// and the SKU is paused meanwhile. The work is done in short transactions, which hold the
// SKU's row of buyer_work and no other lock that a sale needs. Until it is done, whatever
// gives an order's units back, or takes them again, takes the same row's lock and changes
// the buyer's units only where the order has been counted. So the rows are right at every
// moment as far as the counting has come, and the next step goes on from there, in
// whichever gateway.

// A SKU's orders are counted in the order of their ids: up to counted, which is the zero id
// at the beginning and allCounted in the end.
var allCounted = sale.OrderID(bytes.Repeat([]byte{0xff}, len(sale.OrderID{})))

// countedUnits are units of a buyer whose SKU's orders are being counted: they belong to
// this order.
type countedUnits struct {
	buyerUnits
	order sale.OrderID
}

// buyerWork is a row of buyer_work, with what the SKU's row says.
type buyerWork struct {
	sku      string
	version  int64
	cleared  bool
	counted  sale.OrderID
	limit    int64
	counting bool
}

// askForBuyerWork has the SKU's rows deleted and, where it is to have a limit, its orders
// counted anew, whatever was being done before.
func (db *DB) askForBuyerWork(ctx context.Context, conn *sql.Conn, sku *sale.SKU) error {
	s := dialect.NewScript(db.dialect)
	s.Raw("INSERT INTO buyer_work (sku,version,cleared,counted_id,steps) VALUES ")
	s.Row(0, sku.Name, sku.Version, 0, make([]byte, len(sale.OrderID{})), 0)
	s.Raw(db.dialect.OnConflict("sku"))
	for i, column := range []string{"version", "cleared", "counted_id"} {
		s.Comma(i)
		s.Raw(column + "=" + db.dialect.Inserted(column))
	}
	s.End()
	return db.dialect.Exec(ctx, conn, s)
}

// errNotCounted refuses to put a limit in force whose counting was begun anew.
var errNotCounted = errors.New("the buyers are not counted for this limit")

// takeCounted ends the work whose last step is done.
func (db *DB) takeCounted(ctx context.Context, conn *sql.Conn, c *skuChange) error {
	res, err := conn.ExecContext(ctx, "DELETE FROM buyer_work WHERE sku = ? AND version = ? AND counted_id = ?", c.name, c.counted, allCounted[:])
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	c.refusal = errNotCounted
	return errAbandon
}

// CountBuyers does what changes of limits have left to be done: it deletes the buyers'
// rows of limits that are gone, counts the orders of SKUs that got a limit, and then puts
// it in force. It may run in several gateways, end at any place, and be repeated. A SKU
// whose rows contradict each other, or are held by another transaction, holds up no other:
// the error is sale.ErrPartly then, and all others have been done. Other errors wrap
// sale.ErrUnavailable.
func (db *DB) CountBuyers(ctx context.Context) error {
	broken := make(map[string]error)
	for {
		names, err := db.buyerWorkNames(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, name := range names {
			if broken[name] != nil {
				continue
			}
			left++
			switch err := db.countStep(ctx, name); {
			case errors.Is(err, errRefused), errors.Is(err, errHeld):
				broken[name] = err
				db.suspects.note(name, err)
			case err != nil:
				return err
			}
		}
		if left == 0 {
			for sku, err := range broken {
				return fmt.Errorf("%w: buyers of %d SKUs cannot be counted, as of %s: %w", sale.ErrPartly, len(broken), sku, err)
			}
			return nil
		}
	}
}

// buyerWorkNames are the SKUs that have work to be done.
func (db *DB) buyerWorkNames(ctx context.Context) ([]string, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	rows, err := read(ctx, db.pools.control, "SELECT sku FROM buyer_work ORDER BY sku")
	names, err := scanAll(rows, err, scanName)
	return names, db.away(ctx, err)
}

// countStep takes the work on one SKU a step further: one short transaction.
func (db *DB) countStep(ctx context.Context, sku string) error {
	var counted, before *buyerWork
	err := db.insist(ctx, db.pools.control, terms{refused: maxRefused, waited: 1}, func(ctx context.Context, on *try) error {
		counted = nil
		w, err := readBuyerWork(ctx, on.conn, sku)
		if err != nil || w == nil {
			return err
		}
		if before != nil && *w != *before {
			return nil // refused because another gateway took the step
		}
		before = w
		s := dialect.NewScript(db.dialect)
		s.Statement(db.dialect.Begin())
		switch {
		case !w.cleared:
			err = db.appendClear(ctx, on.conn, s, w)
		case !w.counting:
			w.appendDone(s)
		case w.counted == allCounted:
			counted = w
			return nil
		default:
			err = db.appendCount(ctx, on.conn, s, w)
		}
		if err != nil {
			return err
		}
		s.Statement("COMMIT")
		on.sent = true
		return db.dialect.Exec(ctx, on.conn, s)
	})
	if err != nil || counted == nil {
		return err
	}
	c := &skuChange{name: sku, action: "limit.begin", counted: counted.version, apply: func(sku sale.SKU, stock sale.Stock) (sale.SKU, sale.Stock, error) {
		sku.Counting = false
		return sku, stock, nil
	}}
	if err := db.change(ctx, c); err != nil && !errors.Is(err, errNotCounted) {
		return err
	}
	return nil
}

func readBuyerWork(ctx context.Context, conn *sql.Conn, sku string) (*buyerWork, error) {
	w := &buyerWork{sku: sku}
	var id []byte
	err := conn.QueryRowContext(ctx, `SELECT w.version, w.cleared, w.counted_id, COALESCE(k.per_user_limit, 0), COALESCE(k.counting, 0)
		FROM buyer_work w LEFT JOIN skus k ON k.sku = w.sku WHERE w.sku = ?`, sku).
		Scan(&w.version, &w.cleared, &id, &w.limit, &w.counting)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	copy(w.counted[:], id)
	return w, err
}

// appendStep locks the work, which must stand as it was read, and sets what comes behind.
func (w *buyerWork) appendStep(s *dialect.Script, set string) {
	s.Raw("UPDATE buyer_work SET steps=steps+1" + set + " WHERE sku=")
	s.Str(w.sku)
	s.Raw(" AND version=")
	s.Int(w.version)
	s.Raw(map[bool]string{true: " AND cleared=1", false: " AND cleared=0"}[w.cleared])
	s.Raw(" AND counted_id=")
	s.Bytes(w.counted[:])
	s.Dialect.EndExactly(s, 1)
}

// appendClear deletes some rows of former limits. Where there are none left, the SKU is
// ready to be counted, or, without a limit, done.
func (db *DB) appendClear(ctx context.Context, conn *sql.Conn, s *dialect.Script, w *buyerWork) error {
	users, err := db.someBuyers(ctx, conn, w.sku, db.buyersChunk)
	switch {
	case err != nil:
	case len(users) > 0:
		w.appendStep(s, "")
		appendDeleteBuyers(s, w.sku, users)
	case w.counting:
		w.appendStep(s, ",cleared=1")
	default:
		w.appendDone(s)
	}
	return err
}

// appendDone ends the work on a SKU without a limit.
func (w *buyerWork) appendDone(s *dialect.Script) {
	w.appendStep(s, "")
	s.Raw("DELETE FROM buyer_work WHERE sku=")
	s.Str(w.sku)
	s.End()
}

// appendCount counts the next orders. They are read behind the lock of the work, which
// whatever changes them holds to its end: so they are counted as they are, or are changed
// by somebody who finds them counted.
func (db *DB) appendCount(ctx context.Context, conn *sql.Conn, s *dialect.Script, w *buyerWork) error {
	last, err := db.chunkEnd(ctx, conn, w)
	if err != nil {
		return err
	}
	set := dialect.NewScript(db.dialect)
	set.Raw(",counted_id=")
	set.Bytes(last[:])
	w.appendStep(s, string(set.Text))
	limit := fmt.Sprint(w.limit)
	s.Raw("INSERT INTO buyers (sku,user_id,units,unit_limit) SELECT sku,user_id,SUM(quantity),CASE WHEN SUM(quantity)>" + limit +
		" THEN SUM(quantity) ELSE " + limit + " END")
	s.Raw(db.ordersOf(w.sku))
	s.Raw(" AND order_id>")
	s.Bytes(w.counted[:])
	s.Raw(" AND order_id<=")
	s.Bytes(last[:])
	s.Raw(" AND status IN " + live + " GROUP BY sku,user_id")
	appendAddedUnits(s)
	return nil
}

// chunkEnd is the last order of the next chunk. A chunk that is not full is the last one,
// and reaches to the end of all orders to come.
func (db *DB) chunkEnd(ctx context.Context, conn *sql.Conn, w *buyerWork) (last sale.OrderID, err error) {
	var id []byte
	of := db.ordersOf(w.sku)
	err = conn.QueryRowContext(ctx, "SELECT order_id"+of+" AND order_id > ? ORDER BY order_id LIMIT 1 OFFSET ?",
		w.counted[:], db.buyersChunk-1).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return allCounted, nil
	}
	copy(last[:], id)
	return last, err
}

// appendAddedUnits ends an INSERT into buyers whose units are added to those that are
// there. Who comes to hold more than the limit keeps it.
func appendAddedUnits(s *dialect.Script) {
	units, limit := s.Dialect.Inserted("units"), s.Dialect.Inserted("unit_limit")
	s.Raw(s.Dialect.OnConflict("sku,user_id"))
	s.Raw("unit_limit=CASE WHEN buyers.units+" + units + ">" + limit + " THEN buyers.units+" + units + " ELSE " + limit + " END,units=buyers.units+" + units)
	s.End()
}

func (c *countedUnits) append(s *dialect.Script) {
	if c.units < 0 {
		s.Raw("UPDATE buyers" + s.Dialect.ByPrimaryKey() + " SET units=units-")
		s.Int(-c.units)
		s.Raw(" WHERE sku=")
		s.Str(c.sku)
		s.Raw(" AND user_id=")
		s.Str(c.user)
		s.Raw(" AND EXISTS (SELECT 1")
		c.fromWork(s)
		s.Raw(")")
		s.End()
		return
	}
	s.Raw("INSERT INTO buyers (sku,user_id,units,unit_limit) SELECT ")
	s.Str(c.sku)
	s.Raw(",")
	s.Str(c.user)
	s.Raw(fmt.Sprintf(",%d,%d", c.units, max(c.units, c.limit)))
	c.fromWork(s)
	appendAddedUnits(s)
}

// fromWork ends a SELECT that finds a row where the order has been counted.
func (c *countedUnits) fromWork(s *dialect.Script) {
	s.Raw(" FROM buyer_work WHERE sku=")
	s.Str(c.sku)
	s.Raw(" AND counted_id>=")
	s.Bytes(c.order[:])
}
