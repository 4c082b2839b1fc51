package results

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"flashgate/sale"

	"pgregory.net/rapid"
)

// sold is a reserved order as gateways make them.
func sold(sku, user string, n int64) sale.Order {
	c := &sale.Claim{
		ID: sale.DeriveOrderID(sku, user, "k"), SKU: sku, User: user, Quantity: n,
		Hash: sale.HashRequest(n, ""),
	}
	s := &sale.SKU{Name: sku, UnitPrice: 1999, Currency: "EUR", PayWithin: 900_000}
	return sale.NewOrder(c, s, 0, 1_700_000_000_123)
}

func TestEncodeWritesTheDocumentedEvent(t *testing.T) {
	o := sold("phone", "ada", 2)
	o.Coupon, o.Segment = "TEN", 3
	id := o.ID.String()
	got := string(Encode(sale.KindReserved, []sale.Order{o}))
	want := `[{"specversion":"1.0","source":"flashgate","type":"flashgate.order.reserved","id":"` + id + `/reserved",` +
		`"subject":"` + id + `","time":"2023-11-14T22:13:20.123Z","datacontenttype":"application/json","data":{` +
		`"order_id":"` + id + `","sku":"phone","user_id":"ada","quantity":2,"unit_price":1999,"amount":3998,"currency":"EUR",` +
		`"coupon":"TEN","status":"reserved","reserved_at":"2023-11-14T22:13:20.123Z","pay_by":"2023-11-14T22:28:20.123Z",` +
		`"request_hash":"` + hexOf(o.Hash) + `","segment":3,"version":1}}]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func hexOf(h sale.RequestHash) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range h {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// TestEventIDsAreUnique walks an order through all that can happen to it.
func TestEventIDsAreUnique(t *testing.T) {
	o := sold("phone", "ada", 1)
	seen := make(map[string]sale.Kind)
	see := func(kind sale.Kind, payment string) {
		o.Payment = payment
		if s, ok := strings.CutPrefix(string(kind), resultsPrefix); ok {
			o.Status, _ = sale.ParseStatus(s)
		}
		var events []event
		if err := json.Unmarshal(Encode(kind, []sale.Order{o}), &events); err != nil {
			t.Fatal(err)
		}
		if before, dup := seen[events[0].ID]; dup {
			t.Errorf("%s and %s share the event id %s", before, kind, events[0].ID)
		}
		seen[events[0].ID] = kind
	}
	for _, k := range []sale.Kind{
		sale.KindReserved, sale.KindCouponRedeem, sale.KindCancelled, sale.KindExpired, sale.KindInventoryReturn,
		sale.KindPaid, sale.KindInventoryDeduct, sale.KindCouponRelease,
	} {
		see(k, "")
	}
	see(sale.KindCouponRedeem, "evt_3")
	see(sale.KindPaymentRefund, `evt_"1"`)
	see(sale.KindPaymentRefund, "evt_2")
}

func TestSubject(t *testing.T) {
	tests := []struct {
		kind sale.Kind
		want string
	}{
		{sale.KindReserved, "flashgate.results.phone.reserved"},
		{sale.KindExpired, "flashgate.results.phone.expired"},
		{sale.KindCouponRedeem, "flashgate.coupons.redeem"},
		{sale.KindCouponRelease, "flashgate.coupons.release"},
		{sale.KindInventoryDeduct, "flashgate.inventory.deduct"},
		{sale.KindPaymentRefund, "flashgate.payments.refund"},
	}
	for _, tc := range tests {
		if got := plain.subject("phone", tc.kind); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.kind, got, tc.want)
		}
	}
}

func anyOrder(t *rapid.T, sku string, status sale.Status, kind sale.Kind) sale.Order {
	q := rapid.Int64Range(1, sale.MaxQuantity).Draw(t, "quantity")
	o := sale.Order{
		SKU: sku, Segment: rapid.IntRange(0, sale.MaxSegments-1).Draw(t, "segment"),
		User:     rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "user"),
		Quantity: q, Amount: q * rapid.Int64Range(0, sale.MaxUnitPrice).Draw(t, "price"), Currency: "EUR",
		Coupon: rapid.StringMatching(`[!-~]{0,20}`).Draw(t, "coupon"), Status: status,
		ReservedAt: rapid.Int64Range(0, lastTime).Draw(t, "reserved_at"),
		PayBy:      rapid.Int64Range(0, lastTime).Draw(t, "pay_by"),
		Version:    rapid.Int64Range(1, 9).Draw(t, "version"),
	}
	copy(o.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	copy(o.Hash[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "hash"))
	if kind == sale.KindPaymentRefund || kind == sale.KindPaid || kind == sale.KindInventoryDeduct || kind == sale.KindCouponRedeem {
		o.Payment = rapid.String().Draw(t, "payment")
	}
	if !ofReservation(&o, kind) {
		o.ChangedAt = rapid.Int64Range(0, lastTime).Draw(t, "changed_at")
	}
	return o
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		status := rapid.SampledFrom([]sale.Status{sale.StatusReserved, sale.StatusPaid, sale.StatusCancelled, sale.StatusExpired}).Draw(t, "status")
		kind := rapid.SampledFrom([]sale.Kind{
			sale.Kind(resultsPrefix + status.String()), sale.KindCouponRedeem, sale.KindCouponRelease, sale.KindInventoryDeduct,
			sale.KindInventoryReturn, sale.KindPaymentRefund,
		}).Draw(t, "kind")
		sku := rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`).Draw(t, "sku")
		orders := make([]sale.Order, rapid.IntRange(1, 4).Draw(t, "n"))
		for i := range orders {
			orders[i] = anyOrder(t, sku, status, kind)
		}
		payload := Encode(kind, orders)
		k, got, err := Decode(payload)
		if err != nil || k != kind || !slices.Equal(got, orders) {
			t.Fatalf("%v\nkind %s, want %s\ngot  %+v\nwant %+v\n%s", err, k, kind, got, orders, payload)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	good := string(Encode(sale.KindReserved, []sale.Order{sold("phone", "ada", 2)}))
	if _, _, err := Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	two := string(Encode(sale.KindReserved, []sale.Order{sold("phone", "ada", 2), sold("book", "ada", 2)}))
	tests := []struct{ name, payload string }{
		{"nothing", ""},
		{"no events", "[]"},
		{"no array", `{"specversion":"1.0"}`},
		{"another version", strings.Replace(good, `"1.0"`, `"0.3"`, 1)},
		{"an unknown type", strings.Replace(good, "flashgate.order.reserved", "flashgate.order.lost", 1)},
		{"a type that does not fit the status", strings.Replace(good, "flashgate.order.reserved", "flashgate.order.paid", 1)},
		{"an id of another event", strings.Replace(good, "/reserved", "/paid", 1)},
		{"a bad order id", strings.Replace(good, `"order_id":"`, `"order_id":"A`, 1)},
		{"an amount that is no price times quantity", strings.Replace(good, `"amount":3998`, `"amount":3999`, 1)},
		{"a quantity out of bounds", strings.Replace(good, `"quantity":2`, `"quantity":2000`, 1)},
		{"a user with a space", strings.Replace(good, `"ada"`, `"a da"`, 1)},
		{"a short hash", strings.Replace(good, `"request_hash":"`, `"request_hash":"ff`, 1)},
		{"a segment out of bounds", strings.Replace(good, `"segment":0`, `"segment":64`, 1)},
		{"a time that is none", strings.Replace(good, `"reserved_at":"2023`, `"reserved_at":"x`, 1)},
		{"two SKUs", two},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if tc.payload == good {
				t.Fatal("the case does not differ from a good payload")
			}
			if _, orders, err := Decode([]byte(tc.payload)); err == nil {
				t.Errorf("accepted as %+v", orders)
			}
		})
	}
}

// FuzzDecode: whatever is accepted means the same after it was written again.
func FuzzDecode(f *testing.F) {
	o := sold("phone", "ada", 2)
	f.Add(Encode(sale.KindReserved, []sale.Order{o, sold("phone", "bob", 1)}))
	o.Status, o.Version = sale.StatusPaid, 2
	f.Add(Encode(sale.KindPaid, []sale.Order{o}))
	o.Payment = "evt_1"
	f.Add(Encode(sale.KindPaymentRefund, []sale.Order{o}))
	f.Add([]byte(`[]`))
	f.Add([]byte(`[{}]`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		kind, orders, err := Decode(payload)
		if err != nil {
			return
		}
		again := Encode(kind, orders)
		k, got, err := Decode(again)
		if err != nil || k != kind || !slices.Equal(got, orders) {
			t.Fatalf("%v: %s decodes to %+v, then to %+v", err, again, orders, got)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	orders := make([]sale.Order, 256)
	for i := range orders {
		orders[i] = sold("phone", "user-"+string(rune('a'+i%26)), 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		Encode(sale.KindReserved, orders)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/order")
}
