package ledger

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"slices"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// transition is what one transaction does to orders after their reservation. Its
// parts are written in the order of all locks, which begins with the lease: orders,
// payments, buyer_work, buyers, stock_moves, outbox, due, stock.
type transition struct {
	db *DB
	at int64 // Unix ms, ledger's clock

	open bool // the transaction has begun already

	lease string // the lease that has to be held under token, or ""
	token int64

	kept     []sale.OrderID // archived orders that have to be there still
	changes  []statusChange
	orders   []sale.Order // new rows
	payments []paymentRow
	buyers   []buyerUnits // units < 0 are given back
	counted  []countedUnits
	moves    []stockMove
	outbox   []sale.OutboxRow
	due      []dueKey // rows to delete
	stock    []stockDelta
}

// statusChange is one order's.
type statusChange struct {
	id       sale.OrderID
	from, to sale.Status
	version  int64 // the new one
}

// compareWay is 0 for changes that one statement can make.
func (c statusChange) compareWay(d statusChange) int {
	return cmp.Or(cmp.Compare(c.from, d.from), cmp.Compare(c.to, d.to), cmp.Compare(c.version, d.version))
}

type stockMove struct {
	id      sale.OrderID
	reason  string
	sku     string
	segment int
	delta   int64
	at      int64 // Unix ms, ledger's clock; 0 is now
}

// stockDelta is what is added to a stock row, whose rules must be of the version.
type stockDelta struct {
	sku                 string
	segment             int
	total, sold, raises int64
	version             int64
}

// dueKey names a row of the due list.
type dueKey struct {
	payBy int64
	slot  [8]byte
}

// retakeReason is what the log says of units that a late payment took again; give-backs
// are entered under the status they lead to.
const retakeReason = "retake"

// change moves an order to another status and returns it as it is then.
func (t *transition) change(row *orderRow, to sale.Status) sale.Order {
	o := row.Order
	o.Status = to
	o.Version++
	t.changes = append(t.changes, statusChange{row.ID, row.Status, to, o.Version})
	return o
}

// giveBack ends reserved orders, cancelled or expired: their units go back to the
// stock and the buyers. It returns the orders as they are then.
func (t *transition) giveBack(found []orderRow, to sale.Status) []sale.Order {
	ended := make([]sale.Order, len(found))
	for i := range found {
		row := &found[i]
		ended[i] = t.change(row, to)
		t.addUnits(&row.Order, -row.Quantity, row.limit, row.counting)
		t.moves = append(t.moves, stockMove{row.ID, to.String(), row.SKU, row.Segment, row.Quantity, 0})
		t.stock = append(t.stock, stockDelta{sku: row.SKU, segment: row.Segment, sold: -row.Quantity, raises: 1, version: row.stockVersion})
	}
	t.tell(resultKind(to), ended, "")
	t.tell(sale.KindCouponRelease, withCoupons(ended), "")
	return ended
}

// withCoupons are those of the orders that have one.
func withCoupons(orders []sale.Order) []sale.Order {
	return slices.DeleteFunc(slices.Clone(orders), func(o sale.Order) bool { return o.Coupon == "" })
}

// resultKind is the kind of the events that tell of orders that reached the status.
func resultKind(s sale.Status) sale.Kind { return sale.Kind("results." + s.String()) }

// tell adds an event per order, in one row per SKU; payment is the event that it came
// from, if any.
func (t *transition) tell(kind sale.Kind, orders []sale.Order, payment string) {
	told := slices.Clone(orders)
	slices.SortStableFunc(told, func(a, b sale.Order) int { return cmp.Compare(a.SKU, b.SKU) })
	for len(told) > 0 {
		n := 0
		for n < len(told) && told[n].SKU == told[0].SKU {
			told[n].ChangedAt, told[n].Payment = t.at, payment
			n++
		}
		t.outbox = append(t.outbox, t.db.newOutboxRow(told[0].SKU, kind, told[:n], t.at))
		told = told[n:]
	}
}

// write sends the transaction in one packet. An error that is classified as violated
// says that something has changed since the reads that it was decided on.
func (t *transition) write(ctx context.Context, on *try) error {
	s := dialect.NewScript(t.db.dialect)
	if !t.open {
		s.Statement(t.db.dialect.Begin())
	}
	t.append(s)
	on.sent = true
	return t.db.dialect.Exec(ctx, on.conn, s)
}

// append writes everything behind BEGIN, and the COMMIT directly behind the stock
// rows: those are what all buyers of a SKU wait for.
func (t *transition) append(s *dialect.Script) {
	if t.lease != "" {
		t.db.dialect.Lease(s, t.lease, t.token)
	}
	for _, id := range t.kept {
		t.db.dialect.Holds(s, "orders_archive", id)
	}
	t.appendChanges(s)
	t.appendOrders(s)
	t.appendPayments(s)
	t.appendCounted(s)
	t.appendBuyers(s)
	t.appendMoves(s)
	appendInsertOutbox(s, t.outbox)
	for _, k := range t.due {
		s.Raw("DELETE FROM due WHERE pay_by=")
		s.Int(k.payBy)
		s.Raw(" AND slot=")
		s.Bytes(k.slot[:])
		s.End()
	}
	t.appendDue(s)
	t.appendStock(s)
	s.Statement("COMMIT")
}

// appendChanges writes one statement for all orders that go the same way, which is
// all of them.
func (t *transition) appendChanges(s *dialect.Script) {
	slices.SortFunc(t.changes, func(a, b statusChange) int {
		return cmp.Or(a.compareWay(b), bytes.Compare(a.id[:], b.id[:]))
	})
	for rest := t.changes; len(rest) > 0; {
		first, n := rest[0], 0
		s.Raw("UPDATE orders" + s.Dialect.ByPrimaryKey() + " SET status=")
		s.Str(first.to.String())
		s.Raw(",version=")
		s.Int(first.version)
		s.Raw(" WHERE status=")
		s.Str(first.from.String())
		s.Raw(" AND order_id IN (")
		for n < len(rest) && rest[n].compareWay(first) == 0 {
			s.Comma(n)
			s.Bytes(rest[n].id[:])
			n++
		}
		s.Raw(")")
		s.Dialect.EndExactly(s, n)
		rest = rest[n:]
	}
}

// addUnits adds units to the order's buyer, or takes them off, under the SKU's limit:
// without one nobody's units are kept.
func (t *transition) addUnits(o *sale.Order, units, limit int64, counting bool) {
	switch b := (buyerUnits{o.SKU, o.User, units, limit}); {
	case limit == 0:
	case counting:
		t.counted = append(t.counted, countedUnits{b, o.ID})
	default:
		t.buyers = append(t.buyers, b)
	}
}

// appendBuyers gives units back with one statement per SKU, and takes them with an
// upsert.
func (t *transition) appendBuyers(s *dialect.Script) {
	w := writes{buyers: t.buyers}
	w.sort()
	t.buyers = w.buyers
	for rest := t.buyers; len(rest) > 0; {
		n := 1
		for rest[0].units < 0 && n < len(rest) && rest[n].sku == rest[0].sku && rest[n].units < 0 {
			n++
		}
		if rest[0].units < 0 {
			appendReturn(s, rest[:n])
		} else {
			(&writes{buyers: rest[:1]}).appendBuyers(s)
		}
		rest = rest[n:]
	}
}

// appendReturn takes units off the rows of a SKU's buyers, in key order.
func appendReturn(s *dialect.Script, buyers []buyerUnits) {
	s.Raw("UPDATE buyers" + s.Dialect.ByPrimaryKey() + " SET units=units+CASE")
	for _, b := range buyers {
		if b.units != buyers[0].units {
			s.Raw(" WHEN user_id=")
			s.Str(b.user)
			s.Raw(" THEN ")
			s.Int(b.units)
		}
	}
	s.Raw(" WHEN 1=1 THEN ")
	s.Int(buyers[0].units)
	s.Raw(" END WHERE sku=")
	s.Str(buyers[0].sku)
	s.Raw(" AND user_id IN (")
	for i, b := range buyers {
		s.Comma(i)
		s.Str(b.user)
	}
	s.Raw(")")
	s.End()
}

func (t *transition) appendMoves(s *dialect.Script) {
	if len(t.moves) == 0 {
		return
	}
	slices.SortFunc(t.moves, func(a, b stockMove) int {
		return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.reason, b.reason))
	})
	s.Raw("INSERT INTO stock_moves (order_id,reason,sku,segment,delta,at) VALUES ")
	for i, m := range t.moves {
		s.Row(i, m.id[:], m.reason, m.sku, m.segment, m.delta, cmp.Or(m.at, t.at))
	}
	s.End()
}

// appendStock adds to the stock rows. A row that is missing, or whose rules have
// changed since, refuses.
func (t *transition) appendStock(s *dialect.Script) {
	for _, d := range mergeStock(t.stock) {
		s.Raw("UPDATE stock SET total=total+")
		s.Int(d.total)
		s.Raw(",sold=CASE WHEN sku_version=")
		s.Int(d.version)
		s.Raw(" THEN sold+(")
		s.Int(d.sold)
		s.Raw(") ELSE -1 END,raises=raises+")
		s.Int(d.raises)
		s.WhereStock(d.sku, d.segment)
	}
}

// mergeStock sorts the rows by key and joins those of the same row.
func mergeStock(deltas []stockDelta) []stockDelta {
	slices.SortFunc(deltas, func(a, b stockDelta) int {
		return cmp.Or(cmp.Compare(a.sku, b.sku), cmp.Compare(a.segment, b.segment))
	})
	n := 0
	for _, d := range deltas {
		if n > 0 && deltas[n-1].sku == d.sku && deltas[n-1].segment == d.segment {
			last := &deltas[n-1]
			last.total, last.sold, last.raises = last.total+d.total, last.sold+d.sold, max(last.raises, d.raises)
			if last.version != d.version {
				last.version = -1 // read before and after a change: no version fits
			}
			continue
		}
		deltas[n] = d
		n++
	}
	return deltas[:n]
}

// appendOrders writes new rows as they are, in whatever status.
func (t *transition) appendOrders(s *dialect.Script) {
	if len(t.orders) == 0 {
		return
	}
	slices.SortFunc(t.orders, func(a, b sale.Order) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	s.Raw("INSERT INTO orders (" + orderColumns + ") VALUES ")
	for i := range t.orders {
		o := &t.orders[i]
		s.Row(i, o.ID[:], o.SKU, o.Segment, o.User, o.Quantity, o.Amount, o.Currency, o.Coupon, o.Status.String(), o.Hash[:],
			o.ReservedAt, o.PayBy, o.Version)
	}
	s.End()
}

// appendDue puts new orders that are reserved on the due list.
func (t *transition) appendDue(s *dialect.Script) {
	var w writes
	for i := range t.orders {
		if t.orders[i].Status == sale.StatusReserved {
			w.orders = append(w.orders, &t.orders[i])
		}
	}
	w.appendDue(s)
}

// lock begins the transaction early and locks the orders, in a session that the server
// ends soon after this process freezes: the caller throws the connection away. A
// database with one writer needs none of it.
func (t *transition) lock(ctx context.Context, conn *sql.Conn, ids []sale.OrderID) error {
	d := t.db.dialect
	if d.SingleWriter() {
		return nil
	}
	t.open = true
	sorted := slices.SortedFunc(slices.Values(ids), compareOrderIDs)
	s := dialect.NewScript(d)
	s.Statement("SET SESSION wait_timeout=3")
	s.Statement(d.Begin())
	if t.lease != "" {
		d.Lease(s, t.lease, t.token)
	}
	s.Raw("SELECT order_id FROM orders" + d.ByPrimaryKey() + " WHERE order_id IN (")
	s.IDs(sorted)
	s.Raw(") ORDER BY order_id" + d.ForUpdate())
	s.EndWith(dialect.Selects, 0)
	return d.Query(ctx, conn, s, func(*sql.Rows) error { return nil })
}

func (t *transition) appendPayments(s *dialect.Script) {
	if len(t.payments) == 0 {
		return
	}
	slices.SortFunc(t.payments, func(a, b paymentRow) int { return cmp.Compare(a.EventID, b.EventID) })
	s.Raw("INSERT INTO payments (event_id,order_id,outcome,status,amount,currency,at) VALUES ")
	for i := range t.payments {
		p := &t.payments[i]
		status := paymentFailed
		if p.Succeeded {
			status = paymentSucceeded
		}
		s.Row(i, p.EventID, p.OrderID[:], p.outcome.String(), status, p.Amount, p.Currency, cmp.Or(p.at, t.at))
	}
	s.End()
}

// appendCounted changes units of buyers whose SKU's orders are being counted, order by
// order, in the order of SKUs: behind the lock of the work, and where the order has been
// counted.
func (t *transition) appendCounted(s *dialect.Script) {
	slices.SortStableFunc(t.counted, func(a, b countedUnits) int { return cmp.Or(cmp.Compare(a.sku, b.sku), cmp.Compare(a.user, b.user)) })
	locked := ""
	for _, c := range t.counted {
		if c.sku != locked {
			locked = c.sku
			s.Raw("UPDATE buyer_work SET steps=steps+1 WHERE sku=")
			s.Str(c.sku)
			s.End()
		}
		c.append(s)
	}
}
