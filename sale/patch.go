package sale

import "fmt"

// SKUPatch is an operator's change to a SKU and its stock: nil leaves a field as it
// is. Zero clears OpensAt and ClosesAt.
type SKUPatch struct {
	Title        *string
	UnitPrice    *int64
	Currency     *string
	PerUserLimit *int64
	OpensAt      *int64
	ClosesAt     *int64
	PayWithin    *int64
	State        *SaleState
	Heat         *Heat
	Segments     *int
	Total        *int64
	Reserved     *int64

	// Expect is what the SKU has to be like, or nothing is changed.
	Expect Expect
}

// Apply returns the SKU and its stock (all segments together) as the patch leaves
// them. It is called by the ledger in the transaction that locks the SKU, so that two
// patches never lose each other's fields. The error wraps ErrInvalid, or is ErrPrecondition,
// ErrArchived or a *StockBelowSoldError; Counting, Archive, Version, ChangedAt and Sold are left alone.
func (p *SKUPatch) Apply(sku SKU, stock Stock) (SKU, Stock, error) {
	if err := p.Expect.Check(sku, stock); err != nil {
		return SKU{}, Stock{}, err
	}
	was := sku
	set(&sku.Title, p.Title)
	set(&sku.UnitPrice, p.UnitPrice)
	set(&sku.Currency, p.Currency)
	set(&sku.PerUserLimit, p.PerUserLimit)
	set(&sku.OpensAt, p.OpensAt)
	set(&sku.ClosesAt, p.ClosesAt)
	set(&sku.PayWithin, p.PayWithin)
	set(&sku.State, p.State)
	set(&sku.Heat, p.Heat)
	set(&sku.Segments, p.Segments)
	if err := sku.Validate(); err != nil {
		return SKU{}, Stock{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	// What was sold of it is no longer there to be counted or dealt out again.
	if was.Archived() && (sku.State != was.State || sku.PerUserLimit != was.PerUserLimit || sku.Segments != was.Segments) {
		return SKU{}, Stock{}, ErrArchived
	}
	before := stock
	set(&stock.Total, p.Total)
	set(&stock.Reserved, p.Reserved)
	if err := stock.Validate(); err != nil {
		return SKU{}, Stock{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if stock.Available() < 0 && stock.Available() < before.Available() {
		return SKU{}, Stock{}, &StockBelowSoldError{MaxReduction: max(0, before.Available())}
	}
	return sku, stock, nil
}

func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

// Listing is a SKU together with its stock, all segments together.
type Listing struct {
	SKU   SKU
	Stock Stock
}
