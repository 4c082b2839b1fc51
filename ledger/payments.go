package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

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
	at      int64
}

func (r *paymentRow) append(s *script) {
	status := paymentFailed
	if r.Succeeded {
		status = paymentSucceeded
	}
	s.raw("INSERT INTO payments (event_id,order_id,outcome,status,amount,currency,at) VALUES ")
	s.values(r.EventID, r.OrderID[:], r.outcome.String(), status, r.Amount, r.Currency, r.at)
	s.end()
}

// readPayment returns nil when the event is not recorded.
func readPayment(ctx context.Context, conn *sql.Conn, eventID string) (*paymentRow, error) {
	var id []byte
	var outcome, status string
	r := paymentRow{Payment: sale.Payment{EventID: eventID}}
	err := conn.QueryRowContext(ctx, "SELECT order_id, outcome, status, amount, currency, at FROM payments WHERE event_id = ?", eventID).
		Scan(&id, &outcome, &status, &r.Amount, &r.Currency, &r.at)
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
	err := db.insist(ctx, func(ctx context.Context, t *try) (err error) {
		result, refusal, err = db.pay(ctx, t, p)
		return err
	})
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
	held, err := db.readHeld(ctx, on.conn, []sale.OrderID{p.OrderID})
	switch {
	case err != nil:
		return result, nil, err
	case recorded != nil && recorded.Payment != p:
		return result, sale.ErrPaymentMismatch, nil
	case len(held) == 0:
		return result, sale.ErrUnknownOrder, nil
	case recorded != nil:
		return sale.PaymentResult{Outcome: recorded.outcome, Order: held[0].Order, Repeated: !on.unsure}, nil, nil
	case p.Amount != held[0].Amount || p.Currency != held[0].Currency:
		return result, sale.ErrPaymentMismatch, nil
	}
	t := &transition{db: db, at: db.Now()}
	result, err = t.pay(ctx, on.conn, &held[0], p)
	if err != nil {
		return result, nil, err
	}
	return result, nil, t.write(ctx, on)
}

// pay decides what the event does to the order.
func (t *transition) pay(ctx context.Context, conn *sql.Conn, h *heldOrder, p sale.Payment) (sale.PaymentResult, error) {
	r := sale.PaymentResult{Order: h.Order}
	switch {
	case !p.Succeeded:
		r.Outcome = sale.PaymentFailed
	case h.Status == sale.StatusReserved:
		r.Outcome = sale.PaymentApplied
	case h.Status == sale.StatusCancelled || h.Status == sale.StatusExpired:
		taken, err := t.retake(ctx, conn, h)
		if err != nil {
			return r, err
		}
		r.Outcome = sale.PaymentRefund
		if taken {
			r.Outcome = sale.PaymentRetaken
		}
	default:
		r.Outcome = sale.PaymentRefund
	}
	switch r.Outcome {
	case sale.PaymentApplied, sale.PaymentRetaken:
		r.Order = t.change(h, sale.StatusPaid)
		t.tell(sale.KindPaid, []sale.Order{r.Order}, p.EventID)
		t.tell(sale.KindInventoryDeduct, []sale.Order{r.Order}, p.EventID)
	case sale.PaymentRefund:
		t.tell(sale.KindPaymentRefund, []sale.Order{r.Order}, p.EventID)
	}
	t.payment = &paymentRow{Payment: p, outcome: r.Outcome, at: t.at}
	return r, nil
}

// retake takes an ended order's units again, if stock and limit allow.
func (t *transition) retake(ctx context.Context, conn *sql.Conn, h *heldOrder) (bool, error) {
	// The stock is read first, and the transaction insists on its version: so the rules
	// that are read after it are no older.
	stock, versions, err := readStock(ctx, conn, h.SKU)
	if err != nil {
		return false, err
	}
	sku, err := scanSKU(conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?", h.SKU))
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var units int64
	err = conn.QueryRowContext(ctx, "SELECT units FROM buyers WHERE sku = ? AND user_id = ?", h.SKU, h.User).Scan(&units)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, err
	}
	if sku.PerUserLimit > 0 && units+h.Quantity > sku.PerUserLimit {
		return false, nil
	}
	after, ok := drawFrom(stock, h.Segment, h.Quantity)
	if !ok {
		return false, nil
	}
	if sku.PerUserLimit > 0 {
		t.buyers = append(t.buyers, buyerUnits{h.SKU, h.User, h.Quantity, sku.PerUserLimit})
	}
	t.moves = append(t.moves, stockMove{h.ID, retakeReason, h.SKU, h.Segment, -h.Quantity})
	for i, row := range after {
		if row.changed {
			t.stock = append(t.stock, stockDelta{
				sku: h.SKU, segment: row.segment, total: row.Total - stock[i].Total, sold: row.Sold - stock[i].Sold, version: versions[i],
			})
		}
	}
	return true, nil
}

// drawFrom takes units from just this segment, in which the order's log entries are,
// and moves units of the others there where it has too few.
func drawFrom(stock []segmentStock, segment int, units int64) ([]segmentStock, bool) {
	i := slices.IndexFunc(stock, func(s segmentStock) bool { return s.segment == segment })
	free := int64(0)
	for _, s := range stock {
		free += max(0, s.Available())
	}
	if i < 0 || free < units {
		return nil, false
	}
	after := slices.Clone(stock)
	if missing := units - after[i].Available(); missing > 0 {
		gather(after, i, missing)
	}
	after[i].Sold += units
	after[i].changed = true
	return after, true
}

// readStock reads the SKU's stock rows and the versions of the rules they know.
func readStock(ctx context.Context, conn *sql.Conn, sku string) (stock []segmentStock, versions []int64, err error) {
	rows, err := conn.QueryContext(ctx, "SELECT segment, total, reserved, sold, sku_version FROM stock WHERE sku = ? ORDER BY segment", sku)
	if err != nil {
		return nil, nil, err
	}
	for rows.Next() {
		var r segmentStock
		var version int64
		if err = rows.Scan(&r.segment, &r.Total, &r.Reserved, &r.Sold, &version); err != nil {
			break
		}
		stock, versions = append(stock, r), append(versions, version)
	}
	return stock, versions, closeRows(rows, err)
}
