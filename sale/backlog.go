package sale

import "time"

// Parked is a claim in the durable backlog, where it waits for the ledger's return. It
// is immutable once parked.
type Parked struct {
	Claim Claim
	// Took says that the shield took units for this very claim, out of Segment. A
	// repeat of a claim, which the shield had seen before, took none.
	Took    bool
	Segment int
	// ParkedAt is when it was parked (Unix ms, ledger's clock as far as the gateway
	// knew it).
	ParkedAt int64
	// Waited is for how long it has been in the backlog, by the backlog's own clock; 0 where
	// that is not known. It is for whoever drains it, and is not stored.
	Waited time.Duration
}

// QueuedOrder is the claim as buyers see it before it has a verdict.
func QueuedOrder(c *Claim) Order {
	return Order{
		ID: c.ID, SKU: c.SKU, User: c.User, Quantity: c.Quantity, Coupon: c.Coupon,
		Status: StatusQueued, Hash: c.Hash,
	}
}
