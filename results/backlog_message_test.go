package results

import (
	"testing"

	"flashgate/sale"

	"pgregory.net/rapid"
)

func TestParkedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := sale.Parked{
			Claim: sale.Claim{
				SKU:  rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`).Draw(t, "sku"),
				User: rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "user"), Coupon: rapid.StringMatching(`[!-~]{0,128}`).Draw(t, "coupon"),
				Quantity: rapid.Int64Range(1, sale.MaxQuantity).Draw(t, "quantity"), Keyed: rapid.Bool().Draw(t, "keyed"),
				QueuedAt: rapid.Int64Range(0, lastTime).Draw(t, "queued"),
			},
			Took: rapid.Bool().Draw(t, "took"), Segment: rapid.IntRange(0, sale.MaxSegments-1).Draw(t, "segment"),
			ParkedAt: rapid.Int64Range(0, lastTime).Draw(t, "parked"),
		}
		p.Claim.ID = sale.DeriveOrderID(p.Claim.SKU, p.Claim.User, rapid.String().Draw(t, "key"))
		copy(p.Claim.Hash[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "hash"))
		msg, err := plain.parkedMsg(&p, "call", 7)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeParked(msg.Data)
		if err != nil || got != p {
			t.Fatalf("%+v became %+v: %v", p, got, err)
		}
		if want := map[bool]int64{true: p.Claim.Quantity}[p.Took]; parkedUnits(msg.Header) != want {
			t.Fatalf("%d units in the header, want %d", parkedUnits(msg.Header), want)
		}
	})
}

func FuzzDecodeParked(f *testing.F) {
	for _, p := range wishes("shoe", 0, 2) {
		payload, err := encodeParked(&p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
		f.Add(append(payload, '1'))
		f.Add(payload[:len(payload)-1])
	}
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := decodeParked(payload)
		if err != nil {
			return
		}
		if err := validateParked(&p); err != nil {
			t.Fatalf("accepted %+v: %v", p, err)
		}
		again, err := encodeParked(&p)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := decodeParked(again); err != nil || q != p {
			t.Fatalf("%+v became %+v: %v", p, q, err)
		}
	})
}
