package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"flashgate/sale"
)

// The statuses that a payment row keeps of its event.
const (
	paymentSucceeded = "succeeded"
	paymentFailed    = "failed"
)

// paymentRow is one row of payments.
type paymentRow struct {
	sale.Payment
	outcome sale.PaymentOutcome
	at      int64 // Unix ms, ledger's clock; 0 is now
}

// readPayment returns nil when the event is not recorded.
func readPayment(ctx context.Context, conn *sql.Conn, eventID string) (*paymentRow, error) {
	var id []byte
	var outcome, status string
	r := paymentRow{Payment: sale.Payment{EventID: eventID}}
	err := conn.QueryRowContext(ctx, "SELECT order_id, outcome, status, amount, currency FROM payments WHERE event_id = ?", eventID).
		Scan(&id, &outcome, &status, &r.Amount, &r.Currency)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	copy(r.OrderID[:], id)
	r.Succeeded = status == paymentSucceeded
	if r.outcome, err = sale.ParsePaymentOutcome(outcome); err != nil {
		return nil, err
	}
	return &r, nil
}

// Pay records a payment event and does what it asks for, in one transaction, once: a
// repeat of the event returns what is recorded. It does not look at the clock. A
// reserved order becomes paid; one that was cancelled or has expired takes its units
// again and becomes paid if stock and limit allow, whatever the SKU's state is. What
// an order cannot have, because it is paid already or its units are gone, is recorded,
// and a refund is published. Errors: sale.ErrUnknownOrder; sale.ErrPaymentMismatch,
// where amount or currency are not the order's or the event's name was used for
// something else, and sale.ErrInvalid, after which nothing is recorded; or one that
// wraps sale.ErrUnavailable, after which the event may be recorded or not.
func (db *DB) Pay(ctx context.Context, p sale.Payment) (sale.PaymentResult, error) {
	if err := p.Validate(); err != nil {
		return sale.PaymentResult{}, fmt.Errorf("%w: %w", sale.ErrInvalid, err)
	}
	var result sale.PaymentResult
	var refusal error
	sku := ""
	err := db.insist(ctx, db.pools.edge, about(keyOfOrder(p.OrderID)), func(ctx context.Context, t *try) (err error) {
		result, refusal, err = db.pay(ctx, t, p)
		sku = result.Order.SKU
		return err
	})
	db.suspects.note(sku, err)
	if err = cmp.Or(err, refusal); err != nil {
		return sale.PaymentResult{}, err
	}
	if !result.Repeated {
		db.metrics.changed(result.Outcome.String(), 1)
	}
	return result, nil
}

// pay is one attempt; refusal is a verdict on the event, err a failure.
func (db *DB) pay(ctx context.Context, on *try, p sale.Payment) (result sale.PaymentResult, refusal, err error) {
	// The payment is read first: an order read after it shows what it did.
	recorded, err := readPayment(ctx, on.conn, p.EventID)
	if err != nil {
		return result, nil, err
	}
	found, err := db.readOrders(ctx, on.conn, []sale.OrderID{p.OrderID})
	archived := err == nil && len(found) == 0
	if archived {
		found, err = db.archivedOrder(ctx, on.conn, p.OrderID)
	}
	switch {
	case err != nil:
		return result, nil, err
	case recorded != nil && recorded.Payment != p:
		return result, sale.ErrPaymentMismatch, nil
	case len(found) == 0:
		return result, sale.ErrUnknownOrder, nil
	case recorded != nil:
		return sale.PaymentResult{Outcome: recorded.outcome, Order: found[0].Order, Repeated: !on.unsure}, nil, nil
	case p.Amount != found[0].Amount || p.Currency != found[0].Currency:
		return result, sale.ErrPaymentMismatch, nil
	}
	t := &transition{db: db, at: db.Now()}
	if archived {
		t.kept = []sale.OrderID{p.OrderID} // or it is deleted, and its payments with it, meanwhile
	}
	result, err = t.pay(ctx, on.conn, &found[0], p)
	if err != nil {
		return result, nil, err
	}
	return result, nil, t.write(ctx, on)
}

// pay decides what the event does to the order.
func (t *transition) pay(ctx context.Context, conn *sql.Conn, row *orderRow, p sale.Payment) (sale.PaymentResult, error) {
	r := sale.PaymentResult{Order: row.Order}
	switch {
	case !p.Succeeded:
		r.Outcome = sale.PaymentFailed
	case row.Status == sale.StatusReserved:
		r.Outcome = sale.PaymentApplied
	case row.Status == sale.StatusCancelled || row.Status == sale.StatusExpired:
		retaken, err := t.retake(ctx, conn, row)
		if err != nil {
			return r, err
		}
		r.Outcome = sale.PaymentRefund
		if retaken {
			r.Outcome = sale.PaymentRetaken
		}
	default:
		r.Outcome = sale.PaymentRefund
	}
	switch r.Outcome {
	case sale.PaymentApplied, sale.PaymentRetaken:
		r.Order = t.change(row, sale.StatusPaid)
		t.tell(sale.KindPaid, []sale.Order{r.Order}, p.EventID)
		t.tell(sale.KindInventoryDeduct, []sale.Order{r.Order}, p.EventID)
		if r.Outcome == sale.PaymentRetaken { // it was released when the order ended
			t.tell(sale.KindCouponRedeem, withCoupons([]sale.Order{r.Order}), p.EventID)
		}
	case sale.PaymentRefund:
		t.tell(sale.KindPaymentRefund, []sale.Order{r.Order}, p.EventID)
	}
	t.payments = append(t.payments, paymentRow{p, r.Outcome, 0})
	return r, nil
}

// retake takes an ended order's units again, if stock and limit allow.
func (t *transition) retake(ctx context.Context, conn *sql.Conn, row *orderRow) (bool, error) {
	f, err := newShelf(ctx, conn, row.SKU)
	// Of an archived SKU nobody knows any more what its buyers hold.
	if err != nil || f.rules == nil || f.rules.Archived() {
		return false, err
	}
	var units int64
	err = conn.QueryRowContext(ctx, "SELECT units FROM buyers WHERE sku = ? AND user_id = ?", row.SKU, row.User).Scan(&units)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	f.units[row.User] = units
	if !f.withinLimit(row.User, row.Quantity) || !f.draw(row.User, row.Segment, row.Quantity) {
		return false, nil
	}
	t.enterRetake(row, f.rules, 0)
	t.stock = f.deltas()
	return true, nil
}

// enterRetake enters the units of an ended order that becomes paid with its buyer and
// into the log, as of then; 0 is now.
func (t *transition) enterRetake(row *orderRow, rules *sale.SKU, at int64) {
	t.addUnits(&row.Order, row.Quantity, rules.PerUserLimit, rules.Counting)
	t.moves = append(t.moves, stockMove{row.ID, retakeReason, row.SKU, row.Segment, -row.Quantity, at})
}
