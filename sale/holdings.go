package sale

// Holdings is what the ledger holds of one SKU, for a copy of it.
type Holdings struct {
	Stock map[int]Stock // by segment
	// Orders are the ids of its orders, of any status, and Segments, parallel to them, the
	// segments they were sold from.
	Orders   []OrderID
	Segments []int
	// Users are buyers with units in live orders, and Units, parallel to them, how many.
	// They are kept of SKUs with a limit only.
	Users []string
	Units []int64
	// Partial says that there are more orders, or buyers, than were asked for.
	Partial bool
}
