package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"flashgate/sale"
)

// ExpireJob is the lease under which orders expire.
const ExpireJob = "expire"

const (
	// expireLimit bounds the orders that one call of expireDue ends, and with it the
	// memory that they take.
	expireLimit = 10_000
	// expireChunk is about how many orders one transaction ends: more make it long for
	// the buyers who wait for the stock rows, fewer cost a flush each.
	expireChunk = 1000
	// duePage is how many rows of the due list are read at once; a row holds as many
	// orders as one group commit made.
	duePage = 128
)

// dueRow is one row of the due list.
type dueRow struct {
	dueKey
	ids []sale.OrderID
}

// Expire ends reserved orders that were not paid by pay_by, and gives their units back,
// until nothing is due any more. Orders that were paid or cancelled in time, or are just
// being, stay so.
//
// The token is that of the caller's lease ExpireJob. Every transaction holds the lease
// to it, so that a gateway that was frozen past its lease and wakes up does nothing
// and gets sale.ErrLeaseLost. Other errors wrap sale.ErrUnavailable. A SKU whose rows
// contradict each other, or are held by another transaction, keeps its orders, and holds
// up no other: the error is sale.ErrPartly then too, and all others have been done.
func (db *DB) Expire(ctx context.Context, token int64) error {
	for {
		ended, err := db.expireDue(ctx, token, expireLimit, db.Now())
		db.released(ctx, ended)
		if len(ended) < expireLimit || err != nil && !errors.Is(err, sale.ErrPartly) {
			return err
		}
	}
}

// expireDue ends what is due at the time now and returns it. It stops soon after it has
// ended limit orders: fewer mean that nothing is left to do. The orders returned with an
// error have ended nonetheless.
func (db *DB) expireDue(ctx context.Context, token int64, limit int, now int64) ([]sale.Order, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	var ended []sale.Order
	broken := db.stillHeld(ctx)
	for after := (dueKey{}); len(ended) < limit; {
		page, err := db.readDue(ctx, after, now)
		if err != nil {
			return ended, db.away(ctx, err)
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].dueKey
		for len(page) > 0 && len(ended) < limit {
			n := someRows(page)
			orders, err := db.expireRows(ctx, token, page[:n], broken)
			ended = append(ended, orders...)
			if err != nil {
				return ended, err
			}
			page = page[n:]
		}
	}
	db.metrics.unexpired.Set(float64(len(broken)))
	for sku, err := range broken {
		return ended, fmt.Errorf("%w: orders of %d SKUs cannot expire, as of %s: %w", sale.ErrPartly, len(broken), sku, err)
	}
	return ended, nil
}

// someRows is how many of the rows make up a transaction: at least one.
func someRows(rows []dueRow) int {
	n, ids := 1, len(rows[0].ids)
	for n < len(rows) && ids+len(rows[n].ids) <= expireChunk {
		ids += len(rows[n].ids)
		n++
	}
	return n
}

func (db *DB) readDue(ctx context.Context, after dueKey, now int64) ([]dueRow, error) {
	rows, err := read(ctx, db.pools.control, `SELECT pay_by, slot, ids FROM due WHERE pay_by >= ? AND pay_by <= ? AND (pay_by > ? OR slot > ?)
		ORDER BY pay_by, slot LIMIT ?`, after.payBy, now, after.payBy, after.slot[:], duePage)
	return scanAll(rows, err, scanDue)
}

func scanDue(r scanner) (dueRow, error) {
	var d dueRow
	var slot, ids []byte
	if err := r.Scan(&d.payBy, &slot, &ids); err != nil {
		return d, err
	}
	const size = len(sale.OrderID{})
	if len(slot) != len(d.slot) || len(ids)%size != 0 {
		return d, fmt.Errorf("a row of the due list has a slot of %d and ids of %d bytes", len(slot), len(ids))
	}
	copy(d.slot[:], slot)
	d.ids = make([]sale.OrderID, 0, len(ids)/size)
	for id := range slices.Chunk(ids, size) {
		d.ids = append(d.ids, sale.OrderID(id))
	}
	return d, nil
}

// expireRows ends the orders of these rows that are still reserved, and deletes the
// rows, in one transaction. SKUs whose rows are held are left out. Where the ledger's rows
// refuse that, or nobody can say whose rows are held, each SKU gets a transaction of its
// own; those that fail again are added to broken. The orders of broken SKUs are left
// alone, with the rows of the due list that name them.
func (db *DB) expireRows(ctx context.Context, token int64, rows []dueRow, broken map[string]error) ([]sale.Order, error) {
	e := &expiry{db: db, token: token, rows: rows, broken: broken, ended: make(map[sale.OrderID]sale.Order)}
	for _, r := range rows {
		e.ids = append(e.ids, r.ids...)
	}
	err := db.insist(ctx, db.pools.control, expireTerms, e.attempt)
	if errors.Is(err, errHeld) && e.leaveHeld(ctx) {
		err = db.insist(ctx, db.pools.control, expireTerms, e.attempt)
	}
	if errors.Is(err, errRefused) || errors.Is(err, errHeld) {
		err = e.bySKU(ctx)
	}
	orders := make([]sale.Order, 0, len(e.ended))
	for _, id := range e.ids {
		if o, ok := e.ended[id]; ok {
			orders = append(orders, o)
			delete(e.ended, id)
		}
	}
	if len(orders) > 0 {
		db.metrics.changed(sale.StatusExpired.String(), len(orders))
		db.metrics.late.Observe((time.Duration(db.Now()-rows[0].payBy) * time.Millisecond).Seconds())
	}
	if e.lost {
		return orders, sale.ErrLeaseLost
	}
	return orders, err
}

// expiry is what expireRows does, over all its attempts.
type expiry struct {
	db     *DB
	token  int64
	rows   []dueRow // to delete
	ids    []sale.OrderID
	broken map[string]error // by SKU
	locked bool             // lock the orders from the first attempt on

	tried []orderRow // what the last attempt was to end
	ended map[sale.OrderID]sale.Order
	lost  bool // the lease has passed on
}

// Payments at the last moment disturb what was read. From the third attempt on the
// orders are locked before they are read; only an operator can disturb those.
const expireUnlocked = 2

// expireTerms are those of a transaction of many SKUs, or of one: others wait behind it.
var expireTerms = terms{refused: 4, waited: 1}

func (e *expiry) attempt(ctx context.Context, on *try) error {
	l, err := readLease(ctx, on.conn, ExpireJob, "")
	if err != nil {
		return err
	}
	if e.lost = l.token != e.token; e.lost {
		if !on.unsure {
			return nil
		}
		// What an earlier attempt may have ended is still to be told of.
		found, err := e.db.readOrders(ctx, on.conn, e.ids)
		e.recognise(found)
		return err
	}
	t := &transition{db: e.db, at: e.db.Now(), lease: ExpireJob, token: e.token}
	if e.locked || on.refused >= expireUnlocked {
		if err := t.lock(ctx, on.conn, e.ids); err != nil {
			return err
		}
		defer discard(on.conn)
	}
	found, err := e.db.readOrders(ctx, on.conn, e.ids)
	if err != nil {
		return err
	}
	if on.unsure {
		e.recognise(found)
	}
	e.tried = e.tried[:0]
	left := make(map[sale.OrderID]bool)
	for _, row := range found {
		switch _, broken := e.broken[row.SKU]; {
		case row.Status != sale.StatusReserved:
		case broken:
			left[row.ID] = true
		default:
			e.tried = append(e.tried, row)
		}
	}
	for _, r := range e.rows {
		if !slices.ContainsFunc(r.ids, func(id sale.OrderID) bool { return left[id] }) {
			t.due = append(t.due, r.dueKey)
		}
	}
	orders := t.giveBack(e.tried, sale.StatusExpired)
	if len(orders) == 0 && len(t.due) == 0 {
		return nil
	}
	if err := t.write(ctx, on); err != nil {
		return err
	}
	for _, o := range orders {
		e.ended[o.ID] = o
	}
	return nil
}

// recognise finds the work of an earlier attempt whose outcome was unknown.
func (e *expiry) recognise(found []orderRow) {
	for _, was := range e.tried {
		i := slices.IndexFunc(found, func(row orderRow) bool { return row.ID == was.ID })
		if i >= 0 && found[i].Status == sale.StatusExpired && found[i].Version == was.Version+1 {
			e.ended[was.ID] = found[i].Order
		}
	}
}

// bySKU ends the orders of each SKU in a transaction of their own, so that no SKU can
// hold up another, and then deletes the rows that have done their duty.
func (e *expiry) bySKU(ctx context.Context) error {
	ids := make(map[string][]sale.OrderID)
	for _, row := range e.tried {
		ids[row.SKU] = append(ids[row.SKU], row.ID)
	}
	for _, sku := range slices.Sorted(maps.Keys(ids)) {
		part := &expiry{db: e.db, token: e.token, ids: ids[sku], locked: true, ended: e.ended}
		err := e.db.insist(ctx, e.db.pools.control, terms{refused: expireTerms.refused - expireUnlocked, waited: 1}, part.attempt)
		switch e.lost = part.lost; {
		case e.lost:
			return nil
		case errors.Is(err, errRefused), errors.Is(err, errHeld):
			e.broken[sku] = err
			e.db.suspects.note(sku, err)
		case err != nil:
			return err
		}
	}
	err := e.db.insist(ctx, e.db.pools.control, terms{refused: maxRefused, waited: 1}, e.attempt)
	if errors.Is(err, errHeld) {
		// The orders have ended; their rows of the list are deleted another time.
		e.broken["(the due list)"] = err
		return nil
	}
	return err
}
