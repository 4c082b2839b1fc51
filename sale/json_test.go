package sale

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// asJSON is an order as encoding/json would write it.
type asJSON struct {
	OrderID    string `json:"order_id"`
	SKU        string `json:"sku"`
	UserID     string `json:"user_id"`
	Quantity   int64  `json:"quantity"`
	UnitPrice  *int64 `json:"unit_price,omitempty"`
	Amount     *int64 `json:"amount,omitempty"`
	Currency   string `json:"currency,omitempty"`
	Coupon     string `json:"coupon,omitempty"`
	Status     string `json:"status"`
	Reason     string `json:"reason,omitempty"`
	ReservedAt string `json:"reserved_at,omitempty"`
	PayBy      string `json:"pay_by,omitempty"`
}

// times are what RFC 3339 can say, and Unix milliseconds since 1970.
var times = rapid.Int64Range(0, time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli())

func TestOrderJSON(t *testing.T) {
	text := rapid.StringMatching(`[!-~]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		o := Order{
			ID:  OrderID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
			SKU: text.Draw(t, "sku"), User: text.Draw(t, "user"), Coupon: text.Draw(t, "coupon"),
			Quantity: rapid.Int64Range(1, 1000).Draw(t, "quantity"),
			Status:   Status(rapid.IntRange(1, int(StatusRejected)).Draw(t, "status")),
			Reason:   rapid.SampledFrom([]string{"", "sold_out"}).Draw(t, "reason"),
			Currency: rapid.SampledFrom([]string{"", "EUR"}).Draw(t, "currency"),
		}
		price := rapid.Int64Range(0, MaxUnitPrice).Draw(t, "price")
		o.Amount = price * o.Quantity
		if rapid.Bool().Draw(t, "times") {
			o.ReservedAt, o.PayBy = times.Draw(t, "reserved"), times.Draw(t, "pay by")
		}
		want := asJSON{
			OrderID: o.ID.String(), SKU: o.SKU, UserID: o.User, Quantity: o.Quantity, Currency: o.Currency,
			Coupon: o.Coupon, Status: o.Status.String(), Reason: o.Reason,
		}
		if o.Currency != "" {
			want.UnitPrice, want.Amount = &price, &o.Amount
		}
		if o.ReservedAt != 0 {
			want.ReservedAt = time.UnixMilli(o.ReservedAt).UTC().Format("2006-01-02T15:04:05.000Z")
		}
		if o.PayBy != 0 {
			want.PayBy = time.UnixMilli(o.PayBy).UTC().Format("2006-01-02T15:04:05.000Z")
		}
		var buf strings.Builder
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(want); err != nil {
			t.Fatal(err)
		}
		if got := string(o.AppendJSON(nil)); got+"\n" != buf.String() {
			t.Fatalf("wrote %s\nwant  %s", got, buf.String())
		}
	})
}

func TestTimes(t *testing.T) {
	if s := FormatTime(1767225600123); s != "2026-01-01T00:00:00.123Z" {
		t.Errorf("the time is %s", s)
	}
	for s, want := range map[string]int64{
		"2026-01-01T00:00:00Z": 1767225600000, "2026-01-01T01:00:00.5+01:00": 1767225600500, "2026-01-01T00:00:00.0019Z": 1767225600001,
	} {
		if ms, err := ParseTime(s); err != nil || ms != want {
			t.Errorf("%s was read as %d (%v), want %d", s, ms, err, want)
		}
	}
	for _, s := range []string{"", "now", "2026-01-01", "2026-01-01 00:00:00Z", "2026-13-01T00:00:00Z", "1767225600"} {
		if ms, err := ParseTime(s); err == nil {
			t.Errorf("%q was read as %d", s, ms)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		ms := times.Draw(t, "ms")
		back, err := ParseTime(FormatTime(ms))
		if err != nil || back != ms {
			t.Fatalf("%d became %s, then %d (%v)", ms, FormatTime(ms), back, err)
		}
	})
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", `a"b\c`, "\x00\x1f\x7f", "é€😀", "\xff\xfe", "<&>", "\u2028", "line\nend\ttab"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := AppendString([]byte("x"), s)
		if out[0] != 'x' {
			t.Fatal("what was there is gone")
		}
		if !json.Valid(out[1:]) {
			t.Fatalf("%q became %s", s, out[1:])
		}
		var back string
		if err := json.Unmarshal(out[1:], &back); err != nil {
			t.Fatal(err)
		}
		if utf8.ValidString(s) && back != s {
			t.Fatalf("%q became %q", s, back)
		}
	})
}
