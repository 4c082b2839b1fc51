package sale

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func goodSKU() SKU {
	return SKU{Name: "phone-1_A", Title: "Phone", UnitPrice: 100, Currency: "EUR", PayWithin: 900_000, State: StateOpen, Heat: HeatAuto, Segments: 1}
}

// Closed beats paused beats not open, whatever the times say.
func TestGate(t *testing.T) {
	for _, c := range []struct {
		name           string
		state          SaleState
		opens, closes  int64
		before, during Outcome // at 50 and 150
		after          Outcome // at 250
	}{
		{"always", StateOpen, 0, 0, Reserved, Reserved, Reserved},
		{"for a while", StateOpen, 100, 200, NotOpen, Reserved, Closed},
		{"paused", StatePaused, 100, 200, Paused, Paused, Closed},
		{"paused, always", StatePaused, 0, 0, Paused, Paused, Paused},
		{"closed", StateClosed, 100, 200, Closed, Closed, Closed},
		{"closed, always", StateClosed, 0, 0, Closed, Closed, Closed},
	} {
		s := SKU{State: c.state, OpensAt: c.opens, ClosesAt: c.closes}
		for at, want := range map[int64]Outcome{50: c.before, 150: c.during, 250: c.after} {
			if got := s.Gate(at); got != want {
				t.Errorf("%s, at %d: %q, want %q", c.name, at, got, want)
			}
		}
	}
	s := SKU{State: StateOpen, OpensAt: 100, ClosesAt: 200}
	for at, want := range map[int64]Outcome{99: NotOpen, 100: Reserved, 199: Reserved, 200: Closed} {
		if got := s.Gate(at); got != want {
			t.Errorf("at %d: %q, want %q", at, got, want)
		}
	}
}

// While its buyers are counted, a SKU that is open is paused, and a closed one closed.
func TestCountingPauses(t *testing.T) {
	for _, c := range []struct {
		state, shown SaleState
		gate         Outcome
	}{{StateOpen, StatePaused, Paused}, {StatePaused, StatePaused, Paused}, {StateClosed, StateClosed, Closed}} {
		s := SKU{State: c.state, Counting: true}
		if s.ShownState() != c.shown || s.Gate(1) != c.gate {
			t.Errorf("%v is shown as %v, its gate says %v", c.state, s.ShownState(), s.Gate(1))
		}
	}
}

func TestValidate(t *testing.T) {
	good := goodSKU()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*SKU){
		"sku":            func(s *SKU) { s.Name = "a b" },
		"title":          func(s *SKU) { s.Title = strings.Repeat("x", MaxTitleLen+1) },
		"title ":         func(s *SKU) { s.Title = "\xff" },
		"unit_price":     func(s *SKU) { s.UnitPrice = -1 },
		"unit_price ":    func(s *SKU) { s.UnitPrice = MaxUnitPrice + 1 },
		"currency":       func(s *SKU) { s.Currency = "eur" },
		"currency ":      func(s *SKU) { s.Currency = "EURO" },
		"per_user_limit": func(s *SKU) { s.PerUserLimit = -1 },
		"opens_at":       func(s *SKU) { s.OpensAt = -1 },
		"closes_at":      func(s *SKU) { s.OpensAt, s.ClosesAt = 5, 5 },
		"pay_within":     func(s *SKU) { s.PayWithin = 999 },
		"pay_within ":    func(s *SKU) { s.PayWithin = 1 << 60 },
		"segments":       func(s *SKU) { s.Segments = 0 },
		"segments ":      func(s *SKU) { s.Segments = MaxSegments + 1 },
		"state":          func(s *SKU) { s.State = 0 },
		"heat":           func(s *SKU) { s.Heat = 9 },
	} {
		s := goodSKU()
		spoil(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateNames(t *testing.T) {
	for s, ok := range map[string]bool{"a": true, "Z9_-": true, strings.Repeat("a", 64): true, "": false, strings.Repeat("a", 65): false, "a.b": false, "a{b}": false, "a*": false, "é": false, "a\n": false} {
		if err := ValidateSKUName(s); (err == nil) != ok {
			t.Errorf("sku %q: %v", s, err)
		}
	}
	for s, ok := range map[string]bool{"a": true, "user@example.com": true, "!~": true, strings.Repeat("u", 128): true, "": false, strings.Repeat("u", 129): false, "a b": false, "a\x7f": false, "é": false, "a\t": false} {
		if err := ValidateUser(s); (err == nil) != ok {
			t.Errorf("user %q: %v", s, err)
		}
	}
	for s, ok := range map[string]bool{"": true, "SPRING-10%": true, strings.Repeat("c", 128): true, strings.Repeat("c", 129): false, "a b": false, "\x00": false} {
		if err := ValidateCoupon(s); (err == nil) != ok {
			t.Errorf("coupon %q: %v", s, err)
		}
	}
	for n, ok := range map[int64]bool{1: true, 1000: true, 0: false, -1: false, 1001: false} {
		if err := ValidateQuantity(n); (err == nil) != ok {
			t.Errorf("quantity %d: %v", n, err)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestPatchApply(t *testing.T) {
	sku, stock := goodSKU(), Stock{Total: 100, Reserved: 10, Sold: 40}
	sku.Version, sku.ChangedAt, sku.Ordinal, sku.OpensAt = 7, 8, 9, 10
	for _, c := range []struct {
		name  string
		patch SKUPatch
		want  func(*SKU, *Stock)
		below int64 // a StockBelowSoldError with this reduction; -1 = ErrInvalid
	}{
		{name: "nothing", want: func(*SKU, *Stock) {}},
		{name: "everything", patch: SKUPatch{
			Title: ptr("T"), UnitPrice: ptr(int64(5)), Currency: ptr("USD"), PerUserLimit: ptr(int64(2)), OpensAt: ptr(int64(20)),
			ClosesAt: ptr(int64(30)), PayWithin: ptr(int64(5000)), State: ptr(StatePaused), Heat: ptr(HeatHot), Segments: ptr(4),
			Total: ptr(int64(200)), Reserved: ptr(int64(20)),
		}, want: func(s *SKU, st *Stock) {
			s.Title, s.UnitPrice, s.Currency, s.PerUserLimit, s.OpensAt = "T", 5, "USD", 2, 20
			s.ClosesAt, s.PayWithin, s.State, s.Heat, s.Segments = 30, 5000, StatePaused, HeatHot, 4
			st.Total, st.Reserved = 200, 20
		}},
		{name: "a time cleared", patch: SKUPatch{OpensAt: ptr(int64(0))}, want: func(s *SKU, _ *Stock) { s.OpensAt = 0 }},
		{name: "down to what is sold", patch: SKUPatch{Total: ptr(int64(50))}, want: func(_ *SKU, st *Stock) { st.Total = 50 }},
		{name: "below what is sold", patch: SKUPatch{Total: ptr(int64(49))}, below: 50},
		{name: "withheld up to what is sold", patch: SKUPatch{Reserved: ptr(int64(60))}, want: func(_ *SKU, st *Stock) { st.Reserved = 60 }},
		{name: "withheld beyond", patch: SKUPatch{Reserved: ptr(int64(61))}, below: 50},
		{name: "total and withheld", patch: SKUPatch{Total: ptr(int64(40)), Reserved: ptr(int64(0))}, want: func(_ *SKU, st *Stock) { st.Total, st.Reserved = 40, 0 }},
		{name: "negative", patch: SKUPatch{Total: ptr(int64(-1))}, below: -1},
		{name: "too much", patch: SKUPatch{Total: ptr(int64(MaxStock + 1))}, below: -1},
		{name: "no state", patch: SKUPatch{State: ptr(SaleState(0))}, below: -1},
		{name: "closes before it opens", patch: SKUPatch{ClosesAt: ptr(int64(9))}, below: -1},
	} {
		gotSKU, gotStock, err := c.patch.Apply(sku, stock)
		var below *StockBelowSoldError
		switch {
		case c.below > 0:
			if !errors.As(err, &below) || below.MaxReduction != c.below {
				t.Errorf("%s: %v, want a largest reduction of %d", c.name, err, c.below)
			}
		case c.below < 0:
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", c.name, err)
			}
		default:
			wantSKU, wantStock := sku, stock
			c.want(&wantSKU, &wantStock)
			if err != nil || !reflect.DeepEqual(gotSKU, wantSKU) || gotStock != wantStock {
				t.Errorf("%s: %+v %+v (%v), want %+v %+v", c.name, gotSKU, gotStock, err, wantSKU, wantStock)
			}
		}
	}
	// Every field of a SKU that operators may set can be patched.
	patched := reflect.TypeFor[SKUPatch]()
	for _, f := range reflect.VisibleFields(reflect.TypeFor[SKU]()) {
		switch f.Name {
		case "Name", "Ordinal", "Counting", "Archive", "Version", "ChangedAt":
			continue
		}
		if p, ok := patched.FieldByName(f.Name); !ok || p.Type != reflect.PointerTo(f.Type) {
			t.Errorf("%s cannot be patched", f.Name)
		}
	}
}

func TestNewOrder(t *testing.T) {
	s := goodSKU()
	c := &Claim{ID: DeriveOrderID("s", "u", "k"), SKU: s.Name, User: "u", Coupon: "C", Quantity: 3, Hash: HashRequest(3, "C")}
	o := NewOrder(c, &s, 2, 1000)
	want := Order{
		ID: c.ID, SKU: s.Name, Segment: 2, User: "u", Quantity: 3, Amount: 300, Currency: "EUR", Coupon: "C",
		Status: StatusReserved, Hash: c.Hash, ReservedAt: 1000, PayBy: 901_000, Version: 1,
	}
	if o != want || o.UnitPrice() != 100 {
		t.Errorf("the order is %+v, want %+v", o, want)
	}
	if r := Rejected(c, SoldOut); r.Status != StatusRejected || r.Reason != "sold_out" || r.ID != c.ID || r.UnitPrice() != 0 {
		t.Errorf("rejected, the claim is %+v", r)
	}
	if (&Order{}).UnitPrice() != 0 {
		t.Error("an empty order has a price")
	}
}
