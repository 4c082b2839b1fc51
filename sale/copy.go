package sale

import "time"

// ShieldCopy is the shield's copy of one segment of a SKU at one moment.
type ShieldCopy struct {
	SKU     string
	Segment int
	// Generation names the loading that the copy comes from.
	Generation string
	Left       int64 // units
	// Tentative are the claims that took units and have not been settled.
	Tentative []Tentative
}

// Tentative is a claim that holds units in the shield until it is known what the
// ledger made of it.
type Tentative struct {
	ID       OrderID
	Quantity int64
	Age      time.Duration // by the shield's clock
}
