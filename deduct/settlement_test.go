package deduct

import (
	"testing"

	"flashgate/sale"
)

// What the ledger had left when it refused a batch is a figure about the copy that
// admitted it: units that came back since, and were loaded, stay for sale.
func TestAFigureIsAboutOneCopy(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 3)
	s := newShield(t, m.Addr(), l)
	rebuild(t, s, &sku)
	d := deduct(t, s, &sku, claims(2, 0))
	figure := func(left int64) sale.Settlement { return sale.Settlement{LedgerLeft: left, Copy: d.Copies[0]} }
	if err := s.Settle(t.Context(), &sku, []sale.Settlement{figure(0)}); err != nil {
		t.Fatal(err)
	}
	if n := left(t, s, &sku); n != 0 {
		t.Fatalf("%d units left, want the ledger's figure, 0", n)
	}
	l.restock(0, 10)
	s.Distrust("shoe", l.Now())
	rebuild(t, s, &sku)
	was := left(t, s, &sku)
	if err := s.Settle(t.Context(), &sku, []sale.Settlement{figure(0), figure(1)}); err != nil {
		t.Fatal(err)
	}
	if n := left(t, s, &sku); n != was || n < 11 {
		t.Errorf("%d units left, want %d as loaded", n, was)
	}
}
