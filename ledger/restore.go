package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"flashgate/sale"
)

// restoreChunk is how many orders one transaction puts back.
const restoreChunk = 500

// RestoreOrders puts published orders, each in the latest status that was published,
// into a ledger that may have lost some of them, and brings orders forward that it has
// in an earlier status. The results run parallel to the orders; those of orders behind
// a failure are zero, and the whole may be repeated. It never passes a constraint:
// what the ledger has sold since stays sold. Earlier orders of the list go first.
//
// It writes what the lost transactions wrote: orders, buyers, log, stock, the due
// list, and a paid order's payment, under the name of its event where the order tells
// it. Results are not published again, since that is where the orders come from;
// inventory.deduct and coupons.redeem or .release are, whose rows may have been lost unpublished.
// Errors wrap sale.ErrInvalid, before anything is done, or sale.ErrUnavailable.
func (db *DB) RestoreOrders(ctx context.Context, orders []sale.Order) ([]sale.RestoreResult, error) {
	results := make([]sale.RestoreResult, len(orders))
	bySKU := make(map[string][]int)
	var names []string
	for i := range orders {
		o := &orders[i]
		if err := checkRestorable(o); err != nil {
			return results, fmt.Errorf("%w: order %s: %w", sale.ErrInvalid, o.ID, err)
		}
		if bySKU[o.SKU] == nil {
			names = append(names, o.SKU)
		}
		bySKU[o.SKU] = append(bySKU[o.SKU], i)
	}
	var refusals []error
	for _, name := range names {
		for rest := bySKU[name]; len(rest) > 0; {
			n := distinctOrders(orders, rest)
			err := db.restore(ctx, orders, rest[:n], results)
			if err != nil && !errors.Is(err, errRefused) {
				return results, errors.Join(append(refusals, err)...)
			}
			if err != nil {
				refusals = append(refusals, err)
			}
			rest = rest[n:]
		}
	}
	return results, errors.Join(refusals...)
}

func checkRestorable(o *sale.Order) error {
	switch o.Status {
	case sale.StatusReserved, sale.StatusPaid, sale.StatusCancelled, sale.StatusExpired:
	default:
		return fmt.Errorf("status %q is not one of the ledger's", o.Status)
	}
	if err := sale.ValidateClaim(o.SKU, o.User, o.Coupon, o.Quantity); err != nil {
		return err
	}
	if !o.ID.Of(o.SKU) {
		return errors.New("its id is not that of an order of its SKU")
	}
	if p := (sale.Payment{EventID: o.Payment}); o.Payment != "" && p.Validate() != nil {
		return p.Validate()
	}
	if o.Amount < 0 || len(o.Currency) > 3 || o.ReservedAt <= 0 || o.PayBy <= 0 {
		return errors.New("amount, currency or times are not an order's")
	}
	return nil
}

// distinctOrders is how many of the orders go into one transaction: no id twice.
func distinctOrders(orders []sale.Order, indexes []int) int {
	seen := make(map[sale.OrderID]bool)
	for n, i := range indexes {
		if n == restoreChunk || seen[orders[i].ID] {
			return n
		}
		seen[orders[i].ID] = true
	}
	return len(indexes)
}

// restore puts some orders of one SKU back in one transaction. Where the ledger's rows
// refuse that, it tries them in halves, so that one order holds up no other.
func (db *DB) restore(ctx context.Context, orders []sale.Order, indexes []int, results []sale.RestoreResult) error {
	r := &restoring{db: db}
	for _, i := range indexes {
		r.orders = append(r.orders, &orders[i])
	}
	err := db.insist(ctx, db.pools.control, terms{refused: maxRefused}, r.attempt)
	if errors.Is(err, errRefused) && len(indexes) > 1 {
		half := len(indexes) / 2
		err = db.restore(ctx, orders, indexes[:half], results)
		if err == nil || errors.Is(err, errRefused) {
			err = errors.Join(err, db.restore(ctx, orders, indexes[half:], results))
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("restore order %s: %w", orders[indexes[0]].ID, err)
	}
	for n, i := range indexes {
		results[i] = r.results[n]
		if r.results[n] == sale.RestoreDone {
			db.metrics.changed("restored", 1)
		}
	}
	return nil
}

// restoring is one transaction's work, over all its attempts.
type restoring struct {
	db      *DB
	orders  []*sale.Order // of one SKU, no id twice
	results []sale.RestoreResult

	// The present attempt's.
	t     *transition
	shelf *shelf
	found map[sale.OrderID]orderRow
	kept  map[sale.OrderID]sale.Order // in the archive
	wrote map[sale.OrderID]sale.Order // what it leaves of the orders it touches
}

func (r *restoring) attempt(ctx context.Context, on *try) error {
	before := r.wrote
	defer discard(on.conn)
	if err := r.read(ctx, on); err != nil {
		return err
	}
	r.results = make([]sale.RestoreResult, len(r.orders))
	r.wrote = make(map[sale.OrderID]sale.Order)
	for i, o := range r.orders {
		row, ok := r.found[o.ID]
		kept, archived := r.kept[o.ID]
		switch {
		case archived && (kept.Status == o.Status || kept.Version > o.Version):
			r.results[i] = sale.RestoreExists
		case archived:
			r.results[i] = sale.RestoreDifferent
		case !ok:
			r.results[i] = r.insert(o)
		case on.unsure && before[o.ID] == row.Order:
			// An attempt whose outcome was unknown had been committed.
			r.results[i] = sale.RestoreDone
		default:
			r.results[i] = r.bringForward(o, &row)
		}
	}
	if len(r.wrote) == 0 {
		return nil
	}
	r.t.stock = r.shelf.deltas()
	return r.t.write(ctx, on)
}

// read locks and reads all that decides, in the order of all locks.
func (r *restoring) read(ctx context.Context, on *try) error {
	r.t = &transition{db: r.db, at: r.db.Now()}
	ids := make([]sale.OrderID, len(r.orders))
	users := make([]string, len(r.orders))
	for i, o := range r.orders {
		ids[i], users[i] = o.ID, o.User
	}
	if err := r.t.lock(ctx, on.conn, ids); err != nil {
		return err
	}
	found, err := r.db.readOrders(ctx, on.conn, ids)
	if err != nil {
		return err
	}
	r.found = make(map[sale.OrderID]orderRow, len(found))
	for _, row := range found {
		r.found[row.ID] = row
	}
	slices.Sort(users)
	sku := r.orders[0].SKU
	units, err := r.db.buyerFigures(ctx, on.conn, "SELECT user_id, units FROM buyers"+r.db.dialect.ByPrimaryKey()+" WHERE sku = ?", []any{sku},
		slices.Compact(users), " ORDER BY user_id"+r.db.dialect.ForUpdate())
	if err != nil {
		return err
	}
	if _, err := r.db.lockStock(ctx, on.conn, sku); err != nil {
		return err
	}
	if r.shelf, err = newShelf(ctx, on.conn, sku); err != nil {
		return err
	}
	r.shelf.units, r.kept = units, make(map[sale.OrderID]sale.Order)
	if r.shelf.rules == nil || !r.shelf.rules.Archived() {
		return nil
	}
	for _, id := range ids {
		kept, err := r.db.archivedOrder(ctx, on.conn, id)
		if err != nil {
			return err
		}
		if len(kept) > 0 {
			r.kept[id] = kept[0].Order
		}
	}
	return nil
}

// insert puts an order back that the ledger does not have.
func (r *restoring) insert(published *sale.Order) sale.RestoreResult {
	f := r.shelf
	if f.rules == nil || len(f.stock) == 0 {
		return sale.RestoreUnknownSKU
	}
	// What was lost before it could be archived is put back where orders are made; what may
	// have been deleted for its age stays deleted.
	if f.rules.Archive > sale.ArchiveDone {
		return sale.RestoreArchived
	}
	o := *published
	o.Version = max(o.Version, 1)
	o.Payment, o.Reason, o.ChangedAt = "", "", 0
	if f.row(o.Segment) < 0 {
		o.Segment = f.stock[0].segment
	}
	if !o.Status.Live() {
		// It needs no units, but whoever knows all ids of an exhausted SKU has to look again.
		f.raised[f.row(o.Segment)] = true
		r.t.moves = append(r.t.moves, stockMove{o.ID, o.Status.String(), o.SKU, o.Segment, o.Quantity, publishedAt(published)})
	} else if refusal := r.draw(&o); refusal != 0 {
		return refusal
	} else {
		r.t.addUnits(&o, o.Quantity, f.rules.PerUserLimit, f.rules.Counting)
	}
	r.t.orders = append(r.t.orders, o)
	if o.Coupon != "" {
		r.t.tell(sale.KindCouponRedeem, []sale.Order{o}, "")
		if !o.Status.Live() {
			r.t.tell(sale.KindCouponRelease, []sale.Order{o}, "")
		}
	}
	r.paid(o, published)
	r.wrote[o.ID] = o
	return sale.RestoreDone
}

// publishedAt is when what is put back came about: it was told of then, and is not told of
// again, so that its rows must not look as if it were of today.
func publishedAt(o *sale.Order) int64 { return cmp.Or(o.ChangedAt, o.ReservedAt) }

// draw takes the order's units, or says why it cannot.
func (r *restoring) draw(o *sale.Order) sale.RestoreResult {
	switch {
	case !r.shelf.withinLimit(o.User, o.Quantity):
		return sale.RestoreOverLimit
	case !r.shelf.draw(o.User, o.Segment, o.Quantity):
		return sale.RestoreNoStock
	}
	return 0
}

// paid enters the payment of an order that is put back as paid, and tells the
// inventory of it again.
func (r *restoring) paid(o sale.Order, published *sale.Order) {
	if o.Status != sale.StatusPaid {
		return
	}
	event := published.Payment
	if event == "" {
		event = "restored/" + o.ID.String()
	}
	p := sale.Payment{EventID: event, OrderID: o.ID, Amount: o.Amount, Currency: o.Currency, Succeeded: true}
	r.t.payments = append(r.t.payments, paymentRow{p, sale.PaymentApplied, publishedAt(published)})
	r.t.tell(sale.KindInventoryDeduct, []sale.Order{o}, event)
}

// bringForward gives an order that the ledger has the status that was published, where
// that is a step an order can take.
func (r *restoring) bringForward(published *sale.Order, row *orderRow) sale.RestoreResult {
	same := row.SKU == published.SKU && row.BoughtBy(published.User) && row.Quantity == published.Quantity && row.Hash == published.Hash &&
		row.Amount == published.Amount && row.Currency == published.Currency && row.Coupon == published.Coupon
	switch {
	case !same:
		return sale.RestoreDifferent
	case row.Status == published.Status || published.Status == sale.StatusReserved || row.Version > published.Version:
		return sale.RestoreExists
	case row.Status == sale.StatusPaid:
		return sale.RestoreDifferent
	case r.shelf.rules == nil || r.shelf.row(row.Segment) < 0:
		return sale.RestoreUnknownSKU
	case published.Status == sale.StatusPaid && !row.Status.Live():
		// The ledger ended it, not knowing that it was paid.
		if refusal := r.draw(&row.Order); refusal != 0 {
			return refusal
		}
		r.t.enterRetake(row, r.shelf.rules, publishedAt(published))
	case published.Status == sale.StatusPaid:
	case row.Status == sale.StatusReserved:
		r.shelf.give(row.User, row.Segment, row.Quantity)
		r.t.addUnits(&row.Order, -row.Quantity, r.shelf.rules.PerUserLimit, r.shelf.rules.Counting)
		r.t.moves = append(r.t.moves, stockMove{row.ID, published.Status.String(), row.SKU, row.Segment, row.Quantity, publishedAt(published)})
	default:
		return sale.RestoreDifferent // cancelled here and expired there, or the other way round
	}
	before := *row
	before.Version = max(row.Version, published.Version-1)
	o := r.t.change(&before, published.Status)
	r.paid(o, published)
	r.wrote[o.ID] = o
	return sale.RestoreDone
}
