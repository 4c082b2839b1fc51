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

// That all claims of a batch are orders is told with one HDEL; where a load has carried
// the batch over meanwhile, in the copy that is in use now.
func TestConfirmations(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	s := newShield(t, m.Addr(), l)
	rebuild(t, s, &sku)
	tentative := func() (n int) {
		for _, key := range m.Keys() {
			if k, ok := parseFamilyKey(key); ok && k.kind == "t" {
				fields, err := m.HKeys(key)
				if err != nil {
					t.Fatal(err)
				}
				n += len(fields)
			}
		}
		return n
	}
	for name, meanwhile := range map[string]func(){
		"at once":        func() {},
		"after its load": func() { s.Distrust("shoe", l.Now()); rebuild(t, s, &sku) },
	} {
		d := deduct(t, s, &sku, claims(2, len(name)))
		if n := tentative(); n != 1 {
			t.Fatalf("%s: %d batches are tentative, want 1", name, n)
		}
		meanwhile()
		before := m.CommandCount()
		if err := s.Settle(t.Context(), &sku, []sale.Settlement{{Token: d.Token, LedgerLeft: -1}}); err != nil {
			t.Fatal(err)
		}
		if n := tentative(); n != 0 {
			t.Errorf("%s: %d batches are tentative after they were confirmed", name, n)
		}
		if n := m.CommandCount() - before; name == "at once" && n != 1 {
			t.Errorf("%s: %d commands, want 1", name, n)
		}
	}
}
