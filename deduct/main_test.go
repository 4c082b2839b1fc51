package deduct

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func TestMain(m *testing.M) {
	SetClientLog(slog.New(slog.DiscardHandler))
	testenv.Main(m)
}

const testGrace = 10 * time.Second

func testSKU(limit int64, segments int) sale.SKU {
	return sale.SKU{Name: "shoe", UnitPrice: 100, Currency: "EUR", PerUserLimit: limit, PayWithin: 60_000,
		State: sale.StateOpen, Heat: sale.HeatHot, Segments: segments, Version: 1}
}

// newShield makes a running Shield on the server; it is stopped with the test.
func newShield(t testing.TB, addr string, ledger Ledger, change ...func(*Config)) *Shield {
	t.Helper()
	s, stop := startShield(t, addr, ledger, change...)
	t.Cleanup(stop)
	return s
}

func startShield(t interface {
	Fatal(...any)
	Error(...any)
}, addr string, ledger Ledger, change ...func(*Config)) (*Shield, func()) {
	cfg := Config{Addrs: []string{addr}, DialTimeout: testenv.Patience, ReadTimeout: testenv.Patience, PoolSize: 16, MaxBatch: maxBatch, Grace: testGrace}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg, ledger)
	if err != nil {
		t.Fatal(err)
	}
	s.quietFor = 0 // Redis' clock is not the tests'
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func startMini(t testing.TB) *miniredis.Miniredis {
	t.Helper()
	return miniredis.RunT(t)
}

func claim(user, key string, quantity int64) *sale.Claim {
	return &sale.Claim{ID: sale.DeriveOrderID("shoe", user, key), SKU: "shoe", User: user, Quantity: quantity,
		Hash: sale.HashRequest(quantity, ""), Keyed: true}
}

func claims(n int, from int) []*sale.Claim {
	out := make([]*sale.Claim, n)
	for i := range out {
		out[i] = claim(fmt.Sprintf("user-%06d", from+i), "k", 1)
	}
	return out
}

// settlement says to the shield what the ledger said.
func settlement(d sale.Deduction, cs []*sale.Claim, outcomes map[int]sale.Outcome, left map[int]int64) []sale.Settlement {
	st := sale.Settlement{Token: d.Token, LedgerLeft: -1}
	for i, o := range outcomes {
		if o == sale.Reserved {
			continue
		}
		st.Refused = append(st.Refused, sale.Refused{ID: cs[i].ID, User: cs[i].User, Quantity: cs[i].Quantity, Segment: d.Segments[i],
			Restock: o != sale.SoldOut, Keep: o == sale.Duplicate})
	}
	out := []sale.Settlement{st}
	for segment, n := range left {
		out = append(out, sale.Settlement{LedgerLeft: n, Segment: segment})
	}
	return out
}

// admitted are the places of the claims that took units.
func admitted(d sale.Deduction) []int {
	var out []int
	for i, a := range d.Answers {
		if a == sale.Admitted {
			out = append(out, i)
		}
	}
	return out
}

// decide has the ledger decide what the shield admitted.
func decide(l *fakeLedger, d sale.Deduction, cs []*sale.Claim) []sale.Settlement {
	var some []*sale.Claim
	var segments []int
	places := admitted(d)
	for _, i := range places {
		some, segments = append(some, cs[i]), append(segments, d.Segments[i])
	}
	out, left := l.commit(some, segments)
	outcomes := make(map[int]sale.Outcome)
	for k, i := range places {
		outcomes[i] = out[k]
	}
	return settlement(d, cs, outcomes, left)
}

func rebuild(t *testing.T, s *Shield, sku *sale.SKU) {
	t.Helper()
	if err := s.Rebuild(context.Background(), sku); err != nil {
		t.Fatal(err)
	}
}

func deduct(t *testing.T, s *Shield, sku *sale.SKU, cs []*sale.Claim, settled ...sale.Settlement) sale.Deduction {
	t.Helper()
	d, err := s.Deduct(context.Background(), sku, cs, settled)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func left(t *testing.T, s *Shield, sku *sale.SKU) int64 {
	t.Helper()
	n, loaded, err := s.Left(context.Background(), sku)
	if err != nil || !loaded {
		t.Fatalf("left: loaded %v, %v", loaded, err)
	}
	return n
}

// answers writes a deduction's answers as digits, "-" when not loaded.
func answers(d sale.Deduction) string {
	if !d.Loaded {
		return "-"
	}
	var b strings.Builder
	for _, a := range d.Answers {
		fmt.Fprint(&b, int(a))
	}
	return b.String()
}

func wantAnswers(t *testing.T, d sale.Deduction, want string) {
	t.Helper()
	if got := answers(d); got != want {
		t.Fatalf("answers %s, want %s", got, want)
	}
}

// leftovers are keys in Redis beyond the pointer, hash and tentative batches of the
// generation in use.
func leftovers(m *miniredis.Miniredis) (out []string) {
	for _, key := range m.Keys() {
		k, ok := parseFamilyKey(key)
		if !ok {
			continue
		}
		pointer, _ := m.Get(pointerKey(k.tag))
		if k.kind != "gen" && (k.gen == "" || k.gen != pointer) {
			out = append(out, key)
		}
	}
	return out
}

// The keys of an installation without a namespace.
const plain = keyspace("fg:")

func familyTag(sku string, segment int) string    { return plain.tag(sku, segment) }
func parseFamilyKey(key string) (familyKey, bool) { return plain.parse(key) }
func verdictKey(id sale.OrderID) string           { return plain.verdict(id) }
