package sale

import "fmt"

// maxEventIDLen bounds the name a payment provider gives an event.
const maxEventIDLen = 255

// Payment is what a payment provider says happened to an order's payment. The event's
// id makes it recognisable: the same id is the same payment, however often it comes.
type Payment struct {
	EventID   string
	OrderID   OrderID
	Amount    int64 // minor units
	Currency  string
	Succeeded bool
}

// Validate refuses an event that could not be recorded.
func (p *Payment) Validate() error {
	if len(p.EventID) == 0 || len(p.EventID) > maxEventIDLen || !visible(p.EventID) {
		return fmt.Errorf("event_id must be 1..%d visible ASCII characters", maxEventIDLen)
	}
	return nil
}

// PaymentOutcome is what a payment event did: a closed set.
type PaymentOutcome uint8

// The outcomes, stored and shown as their names.
const (
	PaymentApplied PaymentOutcome = iota + 1 // the reserved order became paid
	PaymentRetaken                           // the order had been given back; its units were taken again, and it became paid
	PaymentRefund                            // the order cannot have it: recorded, and a refund is asked for
	PaymentFailed                            // it did not succeed: recorded, nothing else
)

var paymentOutcomeNames = [...]string{
	PaymentApplied: "paid", PaymentRetaken: "retaken", PaymentRefund: "refund", PaymentFailed: "failed",
}

// String is its name, as it is stored and shown.
func (o PaymentOutcome) String() string { return nameOf(paymentOutcomeNames[:], int(o)) }

// ParsePaymentOutcome reads an outcome's name.
func ParsePaymentOutcome(s string) (PaymentOutcome, error) {
	n, err := parseName(paymentOutcomeNames[:], s, "payment outcome")
	return PaymentOutcome(n), err
}

// PaymentResult is what is recorded of a payment event.
type PaymentResult struct {
	Outcome PaymentOutcome
	// Order is the order as it stands after the event.
	Order Order
	// Repeated says that the event had been recorded before, so nothing happened now.
	Repeated bool
}

// Refund is a payment that the order could not have, and that has to be given back.
type Refund struct {
	OrderID OrderID
	EventID string // the payment's
	At      int64  // when it was recorded, Unix ms
}
