package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"maps"
	"slices"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// writes is everything a group's transaction writes, over all its SKUs. Each list is
// written in key order, and the lists in the order in which every transaction locks
// (DESIGN.md): orders, buyers, outbox, due, stock. Breaking it makes deadlocks by the
// dozen.
type writes struct {
	orders []*sale.Order
	buyers []buyerUnits
	outbox []sale.OutboxRow
	// sold are units to add to stock rows whose rules must be as offered; locked are
	// rows that are locked and get absolute figures. A transaction has one kind.
	sold   []dialect.SoldUnits
	locked []dialect.LockedStock
	// closes is when the first sale closes of those that may close before the commit; 0 =
	// none. The stock rows are locked when it is looked at: whoever refuses a claim because
	// the sale is over, and has looked for its order behind the same lock, is right.
	closes int64
	// at, where it is not 0, is the time of reservation, by this gateway's measure of the
	// database's clock. A transaction that was made by a measure of before that clock was set,
	// or of another server's, is refused before it has locked anything.
	at int64
}

// atWithin is how far, in ms, the time of reservation may be from the database's: more than a
// group may be tried for, and much less than anybody has to pay in.
const atWithin = 5000

// buyerUnits are units to add to a buyer of a SKU that has a limit.
type buyerUnits struct {
	sku, user    string
	units, limit int64
}

func compareIDs(a, b *sale.Order) int { return bytes.Compare(a.ID[:], b.ID[:]) }

// sell adds units of a stock row. Those of its SKU begin at from.
func (w *writes) sell(from int, t dialect.SoldUnits) {
	for i := from; i < len(w.sold); i++ {
		if w.sold[i].Segment == t.Segment {
			w.sold[i].Units += t.Units
			return
		}
	}
	w.sold = append(w.sold, t)
}

// sort brings every list into key order and merges buyers that occur twice. It reports
// whether two orders have the same id.
func (w *writes) sort() (repeated bool) {
	slices.SortFunc(w.orders, compareIDs)
	for i := 1; i < len(w.orders); i++ {
		if w.orders[i].ID == w.orders[i-1].ID {
			repeated = true
		}
	}
	slices.SortFunc(w.buyers, func(a, b buyerUnits) int {
		return cmp.Or(cmp.Compare(a.sku, b.sku), cmp.Compare(a.user, b.user))
	})
	n := 0
	for _, b := range w.buyers {
		if n > 0 && w.buyers[n-1].sku == b.sku && w.buyers[n-1].user == b.user {
			w.buyers[n-1].units += b.units
			continue
		}
		w.buyers[n] = b
		n++
	}
	w.buyers = w.buyers[:n]
	slices.SortFunc(w.sold, func(a, b dialect.SoldUnits) int {
		return cmp.Or(cmp.Compare(a.SKU, b.SKU), cmp.Compare(a.Segment, b.Segment))
	})
	slices.SortFunc(w.locked, func(a, b dialect.LockedStock) int {
		return cmp.Or(cmp.Compare(a.SKU, b.SKU), cmp.Compare(a.Segment, b.Segment))
	})
	return repeated
}

// append writes the statements, and the COMMIT directly behind the stock rows: those
// are what all buyers of a SKU wait for. It returns the mark by which the transaction
// is found when its outcome is unknown.
func (w *writes) append(s *dialect.Script) *attemptMark {
	if w.at != 0 {
		s.Dialect.NearClock(s, w.at, atWithin)
	}
	w.appendOrders(s)
	w.appendBuyers(s)
	appendInsertOutbox(s, w.outbox)
	mark := w.appendDue(s)
	if len(w.sold) > 0 {
		s.Dialect.AddSold(s, w.sold)
		if w.closes != 0 {
			s.Dialect.OpenBefore(s, w.closes)
		}
	}
	if len(w.locked) > 0 {
		s.Dialect.SetStock(s, w.locked)
	}
	s.Statement("COMMIT")
	return mark
}

// attemptMark names a transaction by a row of the due list that only it can have made.
type attemptMark struct {
	payBy int64
	slot  [8]byte
	order *sale.Order // one of its orders
}

// committed reports whether the marked transaction was committed. The row is deleted
// only when its orders expire; where that may have happened in between, the time of
// reservation tells.
func (m *attemptMark) committed(db *DB, conn *sql.Conn) (bool, error) {
	ctx := context.Background()
	var n int
	err := conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM due WHERE pay_by = ? AND slot = ?", m.payBy, m.slot[:]).Scan(&n)
	if err != nil || n > 0 || db.Now() < m.payBy {
		return n > 0, err
	}
	err = conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM orders WHERE order_id = ? AND reserved_at = ?", m.order.ID[:], m.order.ReservedAt).Scan(&n)
	return n > 0, err
}

func (w *writes) appendOrders(s *dialect.Script) {
	if len(w.orders) == 0 {
		return
	}
	s.Raw("INSERT INTO orders (order_id,sku,segment,user_id,quantity,amount,currency,coupon,request_hash,reserved_at,pay_by) VALUES ")
	for i, o := range w.orders {
		s.Row(i, o.ID[:], o.SKU, o.Segment, o.User, o.Quantity, o.Amount, o.Currency, o.Coupon, o.Hash[:], o.ReservedAt, o.PayBy)
	}
	s.End()
}

// appendBuyers adds units to buyers' rows, which come into being where they are missing.
func (w *writes) appendBuyers(s *dialect.Script) { appendUpsertBuyers(s, w.buyers, "buyers.units+") }

// appendUpsertBuyers writes buyers' rows; to what is there before, it is prefixed.
func appendUpsertBuyers(s *dialect.Script, buyers []buyerUnits, before string) {
	if len(buyers) == 0 {
		return
	}
	s.Raw("INSERT INTO buyers (sku,user_id,units,unit_limit) VALUES ")
	for i, b := range buyers {
		s.Row(i, b.sku, b.user, b.units, b.limit)
	}
	s.Raw(s.Dialect.OnConflict("sku,user_id"))
	s.Raw("units=" + before + s.Dialect.Inserted("units") + ",unit_limit=" + s.Dialect.Inserted("unit_limit"))
	s.End()
}

// appendDue writes one row per time at which orders of this transaction fall due:
// most often one in all, so that finding what is due costs an order 16 bytes. The mark
// is of the latest.
func (w *writes) appendDue(s *dialect.Script) *attemptMark {
	if len(w.orders) == 0 {
		return nil
	}
	byTime := make(map[int64][]byte)
	mark := &attemptMark{order: w.orders[0]}
	for _, o := range w.orders {
		byTime[o.PayBy] = append(byTime[o.PayBy], o.ID[:]...)
	}
	s.Raw("INSERT INTO due (pay_by,slot,ids) VALUES ")
	for i, at := range slices.Sorted(maps.Keys(byTime)) {
		mark.payBy = at
		_, _ = rand.Read(mark.slot[:])
		s.Row(i, at, mark.slot[:], byTime[at])
	}
	s.End()
	return mark
}
