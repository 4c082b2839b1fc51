package sale

// HeldOrder is what a copy of a SKU has to know of an order.
type HeldOrder struct {
	ID      OrderID
	Segment int // that its units were taken from
	// Ended says that its units were given back: it holds none, and a repeat of the
	// give-back must give none.
	Ended bool
}

// Holdings is what the ledger holds of one SKU, for a copy of it.
type Holdings struct {
	Stock  map[int]Stock // by segment
	Orders []HeldOrder   // live ones, and those that ended lately (RepeatsFor)
	// Users are buyers with units in live orders, and Units, parallel to them, how many.
	// They are kept of SKUs with a limit only.
	Users []string
	Units []int64
	// Partial says that there are more orders, or buyers, than were asked for.
	Partial bool
}
