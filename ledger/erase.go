package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/time/rate"

	"flashgate/sale"
)

const (
	// erasePage is how many orders are looked at by one read for a user id; erasePages is
	// how many such reads there are in a second, so that a sale beside it does not notice.
	erasePage  = 10_000
	erasePages = 10
)

// Erase puts a pseudonym in the place of a user id, wherever the ledger keeps it: in
// finished orders, those of the archive included, and with the units that they hold. It reads
// every order, at a rate, and may be repeated. SKUs of which it leaves the user's orders for
// now are handed to left, with the reason: what is not finished yet, and what a limit still
// has to know. It returns how many orders no longer name the user. Errors wrap
// sale.ErrInvalid or sale.ErrUnavailable; what was done before one stays done.
func (db *DB) Erase(ctx context.Context, user string, left func(sku, why string)) (erased int, err error) {
	if err := sale.ValidateUser(user); err != nil {
		return 0, fmt.Errorf("%w: %w", sale.ErrInvalid, err)
	}
	if !db.Ready() {
		return 0, db.notReady()
	}
	e := &erasure{db: db, user: user, pseudonym: sale.ErasedPrefix + strings.ToLower(rand.Text()),
		pace: rate.NewLimiter(erasePages, 1), seen: make(map[string]bool), left: left}
	for _, table := range []string{"orders", "orders_archive"} {
		if err := e.search(ctx, table); err != nil {
			return e.erased, err
		}
	}
	return e.erased, nil
}

// erasure is one run.
type erasure struct {
	db              *DB
	user, pseudonym string
	pace            *rate.Limiter
	seen            map[string]bool // SKUs that were handled
	left            func(sku, why string)
	erased          int
}

// search looks through a table for the user, and handles each SKU in which it finds one as
// a whole.
func (e *erasure) search(ctx context.Context, table string) error {
	for from, more := (sale.OrderID{}), true; more; {
		if err := e.pace.Wait(ctx); err != nil {
			return fmt.Errorf("%w: %w", sale.ErrUnavailable, err)
		}
		var skus []string
		err := e.db.insist(ctx, e.db.pools.control, terms{refused: maxRefused}, func(ctx context.Context, on *try) (err error) {
			skus, from, more, err = e.look(ctx, on.conn, table, from)
			return err
		})
		if err != nil {
			return err
		}
		for _, sku := range skus {
			if e.seen[table+" "+sku] {
				continue
			}
			e.seen[table+" "+sku] = true
			if err := e.handle(ctx, table, sku); err != nil {
				return err
			}
		}
	}
	return nil
}

// look reads the next page for SKUs in which the user has orders, and returns where the one
// after begins.
func (e *erasure) look(ctx context.Context, conn *sql.Conn, table string, from sale.OrderID) (skus []string, next sale.OrderID, more bool, err error) {
	next, more = allCounted, true
	var end []byte
	err = conn.QueryRowContext(ctx, "SELECT order_id FROM "+table+e.db.dialect.ByPrimaryKey()+" WHERE order_id >= ? ORDER BY order_id LIMIT 1 OFFSET ?",
		from[:], erasePage).Scan(&end)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		more = false
	case err != nil:
		return nil, from, true, err
	default:
		next = sale.OrderID(end)
	}
	rows, err := conn.QueryContext(ctx, "SELECT DISTINCT sku FROM "+table+e.db.dialect.ByPrimaryKey()+" WHERE order_id >= ? AND order_id <= ? AND user_id = ?",
		from[:], next[:], e.user)
	skus, err = scanAll(rows, err, scanName)
	return skus, next, more, err
}

// handle erases the user's orders of one SKU in one transaction, so that their sum and the
// orders agree at every moment.
func (e *erasure) handle(ctx context.Context, table, sku string) error {
	var n int64
	var why string
	err := e.db.repairLocked(ctx, func(ctx context.Context, on *try) (wrote bool, err error) {
		n, why = 0, ""
		if table == "orders" {
			if why, err = e.mustStay(ctx, on.conn, sku); err != nil || why != "" {
				return false, err
			}
		}
		on.sent = true
		first, last := sale.OrderIDsOf(sku)
		res, err := on.conn.ExecContext(ctx, "UPDATE "+table+" SET user_id = ? WHERE order_id >= ? AND order_id <= ? AND sku = ? AND user_id = ?",
			e.pseudonym, first[:], last[:], sku, e.user)
		if err != nil {
			return false, err
		}
		if n, err = res.RowsAffected(); err != nil || n == 0 || table != "orders" {
			return true, err
		}
		_, err = on.conn.ExecContext(ctx, "UPDATE buyers SET user_id = ? WHERE sku = ? AND user_id = ?", e.pseudonym, sku, e.user)
		return true, err
	})
	switch {
	case errors.Is(err, errHeld), errors.Is(err, errRefused):
		why = "its rows are held, or contradict each other"
	case err != nil:
		return err
	}
	if why != "" {
		e.left(sku, why)
	}
	e.erased += int(n)
	return nil
}

// mustStay locks the user's orders of the SKU and says why they cannot be erased yet.
func (e *erasure) mustStay(ctx context.Context, conn *sql.Conn, sku string) (why string, err error) {
	of := e.db.ordersOf(sku)
	rows, err := conn.QueryContext(ctx, "SELECT status"+of+" AND user_id = ? ORDER BY order_id"+e.db.dialect.ForUpdate(), e.user)
	statuses, err := scanAll(rows, err, scanName)
	if err != nil {
		return "", err
	}
	for _, status := range statuses {
		if status == sale.StatusReserved.String() {
			return "an order is reserved: it has to be paid, be cancelled or expire first", nil
		}
	}
	rules, err := scanSKU(conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?", sku))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", nil
	case err != nil:
		return "", err
	case rules.PerUserLimit > 0 && rules.Gate(e.db.Now()) != sale.Closed:
		return "its limit per buyer is in force: it has to be closed first", nil
	}
	return "", nil
}
