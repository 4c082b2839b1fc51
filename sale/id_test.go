package sale

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestOrderIDIsWhatTheContractSays(t *testing.T) {
	want16 := func(sku, user, key string) []byte {
		of, all := sha256.Sum256([]byte(sku)), sha256.Sum256([]byte(sku+"\x00"+user+"\x00"+key))
		return append(of[:5:5], all[:11]...)
	}
	id := DeriveOrderID("phone", "alice", "key-1")
	if [16]byte(want16("phone", "alice", "key-1")) != id {
		t.Errorf("the id is %x, want %x", id, want16("phone", "alice", "key-1"))
	}
	want := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]))
	if id.String() != want || string(id.AppendTo([]byte("x"))) != "x"+want {
		t.Errorf("outside it is %q, want %q", id, want)
	}
	// Long names too, of which none may run into another.
	sku, user, long := strings.Repeat("s", 64), strings.Repeat("u", 128), strings.Repeat("k", 255)
	if got := DeriveOrderID(sku, user, long); [16]byte(want16(sku, user, long)) != got {
		t.Errorf("the id of long names is %x", got)
	}
	other := DeriveOrderID("phone", "bob", "key-2")
	if id.String()[:8] != other.String()[:8] || DeriveOrderID("book", "bob", "key-2").String()[:8] == other.String()[:8] {
		t.Error("the first 8 characters do not tell the SKU")
	}
	first, last := OrderIDsOf("phone")
	if bytes.Compare(first[:], other[:]) > 0 || bytes.Compare(last[:], other[:]) < 0 || !other.Of("phone") || other.Of("book") {
		t.Errorf("%x is not between %x and %x", other, first, last)
	}
	if DeriveOrderID("a", "b", "c") == DeriveOrderID("ab", "", "c") || DeriveOrderID("a", "b", "c") == DeriveOrderID("a", "", "bc") {
		t.Error("names run into each other")
	}
}

func TestOrderIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := OrderID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		s := id.String()
		if len(s) != OrderIDLen {
			t.Fatalf("%q has %d characters", s, len(s))
		}
		back, err := ParseOrderID(s)
		if err != nil || back != id {
			t.Fatalf("%x became %q, then %x: %v", id, s, back, err)
		}
	})
}

func TestParseOrderIDRefuses(t *testing.T) {
	good := DeriveOrderID("s", "u", "k").String()
	for name, s := range map[string]string{
		"nothing": "", "too short": good[1:], "too long": good + "a", "capitals": strings.ToUpper(good),
		"padding": good[:25] + "=", "a line end": good[:25] + "\n", "digits outside": good[:25] + "1",
		"spare bits": strings.Repeat("a", 25) + "b",
	} {
		if id, err := ParseOrderID(s); err == nil || id != (OrderID{}) {
			t.Errorf("%s: %q was read as %x (%v)", name, s, id, err)
		}
	}
}

func FuzzParseOrderID(f *testing.F) {
	for _, s := range []string{"", "a", DeriveOrderID("s", "u", "k").String(), strings.Repeat("7", 26), strings.Repeat("a", 25) + "b", "\n" + strings.Repeat("a", 25)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseOrderID(s)
		if err == nil && id.String() != s {
			t.Errorf("%q was read as %q: an order with two names", s, id)
		}
		if err != nil && id != (OrderID{}) {
			t.Errorf("%q was refused but read as %q", s, id)
		}
	})
}

func TestHashRequest(t *testing.T) {
	sum := sha256.Sum256([]byte("12\x00SPRING"))
	if got := HashRequest(12, "SPRING"); got != RequestHash(sum[:8]) {
		t.Errorf("the hash is %x, want %x", got, sum[:8])
	}
	seen := map[RequestHash]string{}
	for _, q := range []int64{1, 2, 11, 1000} {
		for _, c := range []string{"", "1", "11", "A", strings.Repeat("x", maxCouponLen)} {
			h, what := HashRequest(q, c), fmt.Sprint(q, c)
			if other, ok := seen[h]; ok {
				t.Errorf("%s and %s have one hash", what, other)
			}
			seen[h] = what
		}
	}
}

// Every name leads back to its value; what is no member has no name.
func TestNames(t *testing.T) {
	for _, e := range []struct {
		what  string
		n     int
		name  func(int) string
		parse func(string) (int, error)
	}{
		{"status", int(StatusRejected), func(i int) string { return Status(i).String() }, func(s string) (int, error) { v, err := ParseStatus(s); return int(v), err }},
		{"outcome", int(Queued), func(i int) string { return Outcome(i).String() }, func(s string) (int, error) { return parseName(outcomeNames[:], s, "outcome") }},
		{"payment outcome", int(PaymentFailed), func(i int) string { return PaymentOutcome(i).String() }, func(s string) (int, error) { v, err := ParsePaymentOutcome(s); return int(v), err }},
		{"state", int(StateClosed), func(i int) string { return SaleState(i).String() }, func(s string) (int, error) { v, err := ParseSaleState(s); return int(v), err }},
		{"heat", int(HeatCold), func(i int) string { return Heat(i).String() }, func(s string) (int, error) { v, err := ParseHeat(s); return int(v), err }},
		{"archive", int(ArchiveDropped), func(i int) string { return Archive(i).String() }, func(s string) (int, error) { v, err := ParseArchive(s); return int(v), err }},
		{"mode", int(BreakerForcedClosed), func(i int) string { return BreakerMode(i).String() }, func(s string) (int, error) { v, err := ParseBreakerMode(s); return int(v), err }},
		{"scope", int(ScopeGateway), func(i int) string { return BreakerScope(i).String() }, func(s string) (int, error) { v, err := ParseBreakerScope(s); return int(v), err }},
	} {
		seen := map[string]bool{}
		for i := 1; i <= e.n; i++ {
			name := e.name(i)
			back, err := e.parse(name)
			if name == "" || seen[name] || err != nil || back != i {
				t.Errorf("%s %d is %q, which leads to %d (%v)", e.what, i, name, back, err)
			}
			seen[name] = true
		}
		for _, i := range []int{0, e.n + 1, 255} {
			if name := e.name(i); name != "" {
				t.Errorf("%s %d is no member but named %q", e.what, i, name)
			}
		}
		for _, s := range []string{"", "nonsense"} {
			if v, err := e.parse(s); err == nil || v != 0 {
				t.Errorf("%s %q was read as %d", e.what, s, v)
			}
		}
	}
	if _, err := ParseStatus("RESERVED"); err == nil {
		t.Error("names are lower case")
	}
}

func TestOutcomes(t *testing.T) {
	for o := NoOutcome; o <= Queued; o++ {
		want := false
		switch o {
		case Conflict, NotOpen, Paused, Closed, LimitReached, SoldOut, TimedOut:
			want = true
		}
		if o.Refusal() != want {
			t.Errorf("%q: refusal is %t", o, !want)
		}
	}
	for s := StatusQueued; s <= StatusRejected; s++ {
		if s.Live() != (s == StatusReserved || s == StatusPaid) {
			t.Errorf("%q: live is %t", s, s.Live())
		}
	}
}
