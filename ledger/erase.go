package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

const (
	// erasePage is how many orders are looked at by one read for a user id; erasePages is
	// how many such reads there are in a second, so that a sale beside it does not notice.
	erasePage  = 10_000
	erasePages = 10
)

// Erasure says what is to be erased of a user.
type Erasure struct {
	User string
	// Closed erases also from closed SKUs that have a limit: opened again, they would take
	// the user for a new buyer. Without it that waits until they are archived.
	Closed bool
}

// Erase puts a pseudonym in the place of a user id, wherever the ledger keeps it: in
// finished orders, those of the archive included, and with the units that they hold. It reads
// every order, at a rate, and may be repeated. SKUs of which it leaves orders of the user for
// now are handed to left, with the reason: what is not finished yet, and what a limit still
// has to know. It returns how many orders no longer name the user. Errors wrap
// sale.ErrInvalid or sale.ErrUnavailable; what was done before one stays done.
func (db *DB) Erase(ctx context.Context, what Erasure, left func(sku, why string)) (erased int, err error) {
	if err := sale.ValidateUser(what.User); err != nil {
		return 0, fmt.Errorf("%w: %w", sale.ErrInvalid, err)
	}
	if !db.Ready() {
		return 0, db.notReady()
	}
	e := &erasure{db: db, Erasure: what, pseudonym: sale.ErasedPrefix + strings.ToLower(rand.Text()),
		pace: rate.NewLimiter(erasePages, 1), left: make(map[string]string)}
	for _, table := range []string{"orders", "orders_archive"} {
		if err = e.search(ctx, table); err != nil {
			break
		}
	}
	for _, sku := range slices.Sorted(maps.Keys(e.left)) {
		left(sku, e.left[sku])
	}
	return e.erased, err
}

// erasure is one run.
type erasure struct {
	Erasure
	db        *DB
	pseudonym string
	pace      *rate.Limiter
	left      map[string]string // by SKU, why
	erased    int
}

// search looks through a table for the user, page by page in the order of ids.
func (e *erasure) search(ctx context.Context, table string) error {
	for from, more := (sale.OrderID{}), true; more; {
		if err := e.pace.Wait(ctx); err != nil {
			return fmt.Errorf("%w: %w", sale.ErrUnavailable, err)
		}
		var found map[string][]sale.OrderID
		var next sale.OrderID
		err := e.db.insist(ctx, e.db.pools.control, terms{refused: maxRefused}, func(ctx context.Context, on *try) (err error) {
			found, next, more, err = e.look(ctx, on.conn, table, from)
			return err
		})
		if err != nil {
			return err
		}
		from = next
		for _, sku := range slices.Sorted(maps.Keys(found)) {
			for some := range slices.Chunk(found[sku], archiveChunk) {
				if err := e.handle(ctx, table, sku, some); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// look reads the next page for orders of the user, by SKU, and where the one after begins.
func (e *erasure) look(ctx context.Context, conn *sql.Conn, table string, from sale.OrderID) (found map[string][]sale.OrderID, next sale.OrderID, more bool, err error) {
	next, more = allCounted, true
	end, err := scanOrderID(conn.QueryRowContext(ctx, "SELECT order_id FROM "+table+e.db.dialect.ByPrimaryKey()+" WHERE order_id >= ? ORDER BY order_id LIMIT 1 OFFSET ?",
		from[:], erasePage))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		more = false
	case err != nil:
		return nil, from, true, err
	default:
		next = end
	}
	found = make(map[string][]sale.OrderID)
	rows, err := conn.QueryContext(ctx, "SELECT sku, order_id FROM "+table+e.db.dialect.ByPrimaryKey()+" WHERE order_id >= ? AND order_id <= ? AND user_id = ?",
		from[:], next[:], e.User)
	return found, next, more, each(rows, err, func(r scanner) error {
		var sku string
		var id []byte
		err := r.Scan(&sku, &id)
		if err == nil {
			found[sku] = append(found[sku], sale.OrderID(id))
		}
		return err
	})
}

// handle erases the user from some orders of one SKU, and moves the units that they hold to
// the pseudonym, in one transaction.
func (e *erasure) handle(ctx context.Context, table, sku string, ids []sale.OrderID) error {
	var n int
	var why string
	err := e.db.repairLocked(ctx, func(ctx context.Context, on *try) (wrote bool, err error) {
		n, why = 0, ""
		if table == "orders_archive" {
			n = len(ids)
			on.sent = true
			return true, e.rename(ctx, on.conn, table, ids)
		}
		rows, units, err := e.lock(ctx, on.conn, ids)
		if err != nil {
			return false, err
		}
		if len(rows) < len(ids) {
			why = "an order is reserved: it has to be paid, be cancelled or expire first"
		}
		if len(rows) == 0 {
			return false, nil
		}
		rules, err := e.rules(ctx, on.conn, sku)
		if err != nil {
			return false, err
		}
		if keeps := e.keeps(rules); keeps != "" {
			why = keeps
			return false, nil
		}
		n = len(rows)
		on.sent = true
		if err := e.rename(ctx, on.conn, table, rows); err != nil {
			return false, err
		}
		if rules != nil && rules.PerUserLimit > 0 && !rules.Archived() {
			err = e.moveUnits(ctx, on.conn, rules, units)
		}
		return true, err
	})
	switch {
	case errors.Is(err, errHeld), errors.Is(err, errRefused):
		n, why = 0, "its rows are held, or contradict each other"
	case err != nil:
		return err
	}
	if why != "" {
		e.left[sku] = why
	}
	e.erased += n
	return nil
}

// lock locks the orders and returns those that are finished and still the user's, and the
// units that they hold.
func (e *erasure) lock(ctx context.Context, conn *sql.Conn, ids []sale.OrderID) (finished []sale.OrderID, units int64, err error) {
	orders, err := e.db.readOrdersLocked(ctx, conn, ids)
	for _, o := range orders {
		if o.User != e.User || o.Status == sale.StatusReserved {
			continue
		}
		finished = append(finished, o.ID)
		if o.Status.Live() {
			units += o.Quantity
		}
	}
	return finished, units, err
}

// rules reads the SKU's rules behind the locks of its buyer and its stock, in the order of
// all locks: no limit can begin or end before this transaction has. Nil is no SKU.
func (e *erasure) rules(ctx context.Context, conn *sql.Conn, sku string) (*sale.SKU, error) {
	lock := e.db.dialect.ForUpdate()
	rows, err := conn.QueryContext(ctx, "SELECT user_id FROM buyers"+e.db.dialect.ByPrimaryKey()+" WHERE sku = ? AND user_id = ?"+lock, sku, e.User)
	if _, err = scanAll(rows, err, scanName); err != nil {
		return nil, err
	}
	if _, err := e.db.lockStock(ctx, conn, sku); err != nil {
		return nil, err
	}
	rules, err := scanSKU(conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?", sku))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return rules, err
}

// keeps says why the SKU still has to know its buyers, "" where it does not.
func (e *erasure) keeps(rules *sale.SKU) string {
	switch {
	case rules == nil, rules.Archived(), rules.PerUserLimit == 0:
		return ""
	case rules.Counting:
		return "its buyers are being counted"
	case rules.Gate(e.db.Now()) != sale.Closed:
		return "its limit per buyer is in force: it has to be closed first"
	case !e.Closed:
		return "it is closed, but with its limit per buyer may be opened again: it has to be archived first, or be named as closed for good (--closed)"
	}
	return ""
}

func (e *erasure) rename(ctx context.Context, conn *sql.Conn, table string, ids []sale.OrderID) error {
	s := dialect.NewScript(e.db.dialect)
	s.Raw("UPDATE " + table + e.db.dialect.ByPrimaryKey() + " SET user_id=")
	s.Str(e.pseudonym)
	s.Raw(" WHERE order_id IN (")
	s.IDs(ids)
	s.Raw(")")
	s.End()
	return e.db.dialect.Exec(ctx, conn, s)
}

// moveUnits takes units off the user's row, which goes with its last, and adds them to the
// pseudonym's.
func (e *erasure) moveUnits(ctx context.Context, conn *sql.Conn, rules *sale.SKU, units int64) error {
	s := dialect.NewScript(e.db.dialect)
	if units > 0 {
		appendReturn(s, []buyerUnits{{rules.Name, e.User, -units, rules.PerUserLimit}})
		s.Raw("INSERT INTO buyers (sku,user_id,units,unit_limit) VALUES ")
		s.Row(0, rules.Name, e.pseudonym, units, max(units, rules.PerUserLimit))
		appendAddedUnits(s)
	}
	s.Raw(e.db.dialect.DeleteFrom("buyers", "PRIMARY") + " WHERE units = 0 AND sku=")
	s.Str(rules.Name)
	s.Raw(" AND user_id=")
	s.Str(e.User)
	s.End()
	return e.db.dialect.Exec(ctx, conn, s)
}
