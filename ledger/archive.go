package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// Orders of SKUs that have been closed for long move out of the way of those on sale, into
// orders_archive, and are deleted there after another age. Both are done in short
// transactions, in the order of the ids, so that a run may end anywhere and go on in another
// gateway. What a paid order holds of the stock is added to stock.archived in the
// transaction that moves it: sold stays what it is, and no unit is sold twice.

const (
	// archiveChunk is how many orders one transaction moves or deletes. It holds the SKU's
	// stock rows, of which nobody sells any more.
	archiveChunk = 500
	// retainPage is how many SKUs are looked at by one read, retainLook by one run: a
	// catalogue of millions is gone through in hours, and costs next to nothing.
	retainPage, retainLook = 1000, 10_000
	// retainFor bounds a run, so that others can lead.
	retainFor = 20 * time.Second
)

// Retain archives and deletes what is old enough, at most at the rate, for some seconds:
// the next run goes on. Zero ages do nothing. It may run in several gateways at once, though
// then faster than the rate. A SKU whose rows are held by another transaction, or contradict
// each other, holds up no other: the error is sale.ErrPartly then. Other errors wrap
// sale.ErrUnavailable.
func (db *DB) Retain(ctx context.Context, keep sale.Retention) error {
	if keep.Orders == 0 && keep.Archived == 0 {
		return nil
	}
	if !db.Ready() {
		return db.notReady()
	}
	a := &archivist{db: db, keep: keep, chunk: int(max(1, min(archiveChunk, keep.Rate))), until: time.Now().Add(retainFor)}
	if db.retained.pace == nil {
		db.retained.pace = rate.NewLimiter(rate.Limit(keep.Rate), a.chunk)
	}
	var left []error
	for looked := 0; looked < retainLook && !a.over(ctx); looked += retainPage {
		page, err := db.skusAfter(ctx, db.retained.after)
		if err != nil {
			return err
		}
		for _, sku := range page {
			err := a.handle(ctx, sku)
			switch {
			case errors.Is(err, errRefused), errors.Is(err, errHeld):
				left = append(left, fmt.Errorf("SKU %s: %w", sku.Name, err))
				db.suspects.note(sku.Name, err)
			case err != nil:
				return err
			}
			if a.over(ctx) {
				break
			}
			db.retained.after = sku.Name
		}
		if len(page) < retainPage {
			db.retained.after = ""
			break
		}
	}
	db.metrics.unarchived.Set(float64(len(left)))
	return notArchived(left)
}

// retained is how far this gateway's runs have come in the catalogue, and their rate. It
// belongs to the one run at a time.
type retained struct {
	after string
	pace  *rate.Limiter
}

func notArchived(left []error) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("%w: orders of %d SKUs cannot be archived, as of %w", sale.ErrPartly, len(left), left[0])
}

// skusAfter reads the next SKUs in the order of names.
func (db *DB) skusAfter(ctx context.Context, after string) ([]*sale.SKU, error) {
	rows, err := read(ctx, db.pools.control, "SELECT "+skuColumns+" FROM skus WHERE sku > ? ORDER BY sku LIMIT ?", after, retainPage)
	page, err := scanAll(rows, err, scanSKU)
	return page, db.away(ctx, err)
}

// archivist is one run of Retain.
type archivist struct {
	db    *DB
	keep  sale.Retention
	chunk int // orders in one transaction: at most a second's
	until time.Time
}

func (a *archivist) over(ctx context.Context) bool {
	return ctx.Err() != nil || time.Now().After(a.until)
}

// handle takes one SKU as far as it is due, and the run's time allows.
func (a *archivist) handle(ctx context.Context, sku *sale.SKU) error {
	next := a.keep.Due(sku, a.db.Now())
	if next == sale.ArchiveUnderWay {
		if err := a.advance(ctx, sku.Name, sku.Archive, next); err != nil {
			return err
		}
		next = sale.ArchiveDone
	}
	if next == sale.ArchiveDropping {
		// Said before the first is deleted, so that nobody counts what is left.
		if err := a.advance(ctx, sku.Name, sku.Archive, next); err != nil {
			return err
		}
		next = sale.ArchiveDropped
	}
	var chunk func(context.Context, string, int) (int, error)
	switch next {
	case sale.ArchiveDone:
		chunk = a.db.archiveChunk
	case sale.ArchiveDropped:
		chunk = a.db.dropChunk
	default:
		return nil
	}
	for !a.over(ctx) {
		if err := a.db.retained.pace.WaitN(ctx, a.chunk); err != nil {
			return nil //nolint:nilerr // asked to stop
		}
		n, err := chunk(ctx, sku.Name, a.chunk)
		if err != nil {
			return err
		}
		if n > 0 {
			a.db.metrics.changed(next.String(), n)
			continue
		}
		ready, err := a.ready(ctx, sku.Name, next)
		if err != nil || !ready {
			return err
		}
		return a.advance(ctx, sku.Name, sale.ArchiveNone, next)
	}
	return nil
}

// ready reports whether nothing is left of the SKU's orders: one that is still reserved has
// to be paid or to expire first.
func (a *archivist) ready(ctx context.Context, sku string, next sale.Archive) (bool, error) {
	if next != sale.ArchiveDone {
		return true, nil
	}
	of := a.db.ordersOf(sku)
	var some int
	rows, err := read(ctx, a.db.pools.control, "SELECT COUNT(*) FROM (SELECT 1"+of+" LIMIT 1) AS some")
	err = each(rows, err, func(r scanner) error { return r.Scan(&some) })
	return some == 0, a.db.away(ctx, err)
}

// errNotDue abandons a change that is no longer due: somebody changed the SKU meanwhile.
var errNotDue = errors.New("the SKU is no longer to be archived")

// advance puts the SKU into the next stage, by a change as an operator's. The first one
// looks again, under the SKU's lock, whether it is due.
func (a *archivist) advance(ctx context.Context, name string, from, to sale.Archive) error {
	c := &skuChange{name: name, action: "archive." + to.String(), apply: func(sku sale.SKU, stock sale.Stock) (sale.SKU, sale.Stock, error) {
		if from == sale.ArchiveNone && to == sale.ArchiveUnderWay && a.keep.Due(&sku, a.db.Now()) != to && sku.Archive != to {
			return sku, stock, errNotDue
		}
		sku.State = sale.StateClosed
		sku.Archive = max(sku.Archive, to)
		return sku, stock, nil
	}}
	if err := a.db.change(ctx, c); err != nil && !errors.Is(err, errNotDue) {
		return err
	}
	return nil
}

// archiveChunk deletes buyers of the SKU, and when there are none left moves finished
// orders, and returns how many rows it took: 0 when there are no more.
func (db *DB) archiveChunk(ctx context.Context, sku string, most int) (moved int, err error) {
	err = db.repairLocked(ctx, func(ctx context.Context, on *try) (bool, error) {
		moved = 0
		rules, err := scanSKU(on.conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?", sku))
		if err != nil || !rules.Archived() {
			return false, err
		}
		s := dialect.NewScript(db.dialect)
		users, err := db.someBuyers(ctx, on.conn, sku, most)
		if err != nil {
			return false, err
		}
		if moved = len(users); moved > 0 {
			appendDeleteBuyers(s, sku, users)
		} else {
			f, err := db.finishedOrders(ctx, on.conn, sku, most)
			if moved = len(f.ids); err != nil || moved == 0 {
				return false, err
			}
			f.appendMove(s, sku)
		}
		on.sent = true
		return true, db.dialect.Exec(ctx, on.conn, s)
	})
	return moved, err
}

// finished are orders that can be archived.
type finished struct {
	ids  []sale.OrderID
	sold map[int]int64 // units of paid ones by segment
}

// finishedOrders locks the first finished orders of the SKU.
func (db *DB) finishedOrders(ctx context.Context, conn *sql.Conn, sku string, most int) (finished, error) {
	f := finished{sold: make(map[int]int64)}
	of := db.ordersOf(sku)
	rows, err := conn.QueryContext(ctx, "SELECT order_id, segment, quantity, status"+of+" AND status <> 'reserved' ORDER BY order_id LIMIT ?"+db.dialect.ForUpdate(), most)
	return f, each(rows, err, func(r scanner) error {
		var id []byte
		var segment int
		var quantity int64
		var status string
		if err := r.Scan(&id, &segment, &quantity, &status); err != nil {
			return err
		}
		f.ids = append(f.ids, sale.OrderID(id))
		if status == sale.StatusPaid.String() {
			f.sold[segment] += quantity
		}
		return nil
	})
}

// appendMove moves the orders with their entries of the log, and their units within the
// stock rows, in the order of all locks.
func (f *finished) appendMove(s *dialect.Script, sku string) {
	s.Raw("INSERT INTO orders_archive (" + orderColumns + ") SELECT " + orderColumns + " FROM orders" + s.Dialect.ByPrimaryKey() + " WHERE order_id IN (")
	s.IDs(f.ids)
	s.Raw(")")
	s.End()
	s.Raw(s.Dialect.DeleteFrom("orders", "PRIMARY") + " WHERE order_id IN (")
	s.IDs(f.ids)
	s.Raw(")")
	s.Dialect.EndExactly(s, len(f.ids))
	s.Raw(s.Dialect.DeleteFrom("stock_moves", "PRIMARY") + " WHERE order_id IN (")
	s.IDs(f.ids)
	s.Raw(") AND reason <> '" + operatorReason + "'")
	s.End()
	for segment := range sale.MaxSegments {
		if units := f.sold[segment]; units > 0 {
			s.Raw("UPDATE stock SET archived=archived+")
			s.Int(units)
			s.WhereStock(sku, segment)
		}
	}
}

// dropChunk deletes archived orders and their payments, and returns how many orders.
func (db *DB) dropChunk(ctx context.Context, sku string, most int) (dropped int, err error) {
	err = db.insist(ctx, db.pools.control, terms{refused: maxRefused, waited: 1}, func(ctx context.Context, on *try) error {
		ids, err := db.archivedOf(ctx, on.conn, sku, most)
		if dropped = len(ids); err != nil || dropped == 0 {
			return err
		}
		s := dialect.NewScript(db.dialect)
		s.Statement(db.dialect.Begin())
		// The archive first, as a late payment locks it (transition.kept).
		for _, from := range [][2]string{{"orders_archive", "PRIMARY"}, {"payments", "payments_order"}} {
			s.Raw(db.dialect.DeleteFrom(from[0], from[1]) + " WHERE order_id IN (")
			s.IDs(ids)
			s.Raw(")")
			s.End()
		}
		s.Statement("COMMIT")
		on.sent = true
		return db.dialect.Exec(ctx, on.conn, s)
	})
	return dropped, err
}

// archivedOf reads the first ids of the SKU's archive.
func (db *DB) archivedOf(ctx context.Context, conn *sql.Conn, sku string, most int) ([]sale.OrderID, error) {
	first, last := sale.OrderIDsOf(sku)
	rows, err := conn.QueryContext(ctx, "SELECT order_id FROM orders_archive WHERE order_id >= ? AND order_id <= ? AND sku = ? ORDER BY order_id LIMIT ?",
		first[:], last[:], sku, most)
	return scanAll(rows, err, scanOrderID)
}

// FindEver returns those of the orders that have a row, also in the archive. Errors wrap
// sale.ErrUnavailable.
func (db *DB) FindEver(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return db.find(ctx, db.pools.control, ids, "orders", "orders_archive")
}
