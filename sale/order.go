package sale

// Status is where an order stands. Queued and Rejected are states of a claim that has
// no order row (yet); the ledger stores the other four.
type Status uint8

// The statuses, stored and shown as their names.
const (
	StatusQueued Status = iota + 1
	StatusReserved
	StatusPaid
	StatusCancelled
	StatusExpired
	StatusRejected
)

var statusNames = [...]string{
	StatusQueued: "queued", StatusReserved: "reserved", StatusPaid: "paid",
	StatusCancelled: "cancelled", StatusExpired: "expired", StatusRejected: "rejected",
}

// String is its name, as it is stored and shown.
func (s Status) String() string { return nameOf(statusNames[:], int(s)) }

// ParseStatus reads a status's name.
func ParseStatus(s string) (Status, error) {
	n, err := parseName(statusNames[:], s, "status")
	return Status(n), err
}

// Live reports whether an order of this status holds units of stock.
func (s Status) Live() bool { return s == StatusReserved || s == StatusPaid }

// Claim is a buyer's wish to buy, on its way to a verdict. It is immutable once
// queued, and every string in it is its own copy.
type Claim struct {
	ID       OrderID
	SKU      string
	User     string
	Coupon   string
	Quantity int64
	Hash     RequestHash
	// Keyed says that the buyer gave an Idempotency-Key, so that the claim may be
	// the repeat of an order that exists, and a refusal must be checked.
	Keyed bool
	// QueuedAt is when the gateway accepted the claim (Unix ms, gateway's clock).
	QueuedAt int64
}

// Order is a committed order: a row of the ledger. It is immutable once shared.
type Order struct {
	ID         OrderID
	SKU        string
	Segment    int
	User       string
	Quantity   int64
	Amount     int64 // minor units: unit price x quantity at the time of reservation
	Currency   string
	Coupon     string
	Status     Status
	Reason     string // only of rejected claims: the outcome's name
	Hash       RequestHash
	ReservedAt int64 // Unix ms, ledger's clock
	PayBy      int64 // Unix ms, ledger's clock
	Version    int64 // rises with every change of status, from 1
	// ChangedAt is when the status last changed (Unix ms, ledger's clock). Only events
	// of a change carry it.
	ChangedAt int64
	// Payment is the payment event that a paid, inventory.deduct or refund event came
	// from: two refunds of one order differ by it. Empty everywhere else.
	Payment string
}

// NewOrder is the order that a claim becomes when it is reserved at the time now out
// of the given segment.
func NewOrder(c *Claim, s *SKU, segment int, now int64) Order {
	return Order{
		ID: c.ID, SKU: c.SKU, Segment: segment, User: c.User,
		Quantity: c.Quantity, Amount: s.UnitPrice * c.Quantity, Currency: s.Currency,
		Coupon: c.Coupon, Status: StatusReserved, Hash: c.Hash,
		ReservedAt: now, PayBy: now + s.PayWithin, Version: 1,
	}
}

// UnitPrice is the price of one unit when the order was made.
func (o *Order) UnitPrice() int64 {
	if o.Quantity == 0 {
		return 0
	}
	return o.Amount / o.Quantity
}

// Rejected is what a buyer who comes back later is shown of a claim that was refused.
func Rejected(c *Claim, o Outcome) Order {
	return Order{
		ID: c.ID, SKU: c.SKU, User: c.User, Quantity: c.Quantity, Coupon: c.Coupon,
		Status: StatusRejected, Reason: o.String(), Hash: c.Hash,
	}
}
