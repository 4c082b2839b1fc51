package deduct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"flashgate/sale"
)

// shelf is several SKUs and their ledgers.
type shelf struct {
	t       *testing.T
	skus    map[string]*sale.SKU
	ledgers fakeLedgers
}

func newShelf(t *testing.T) *shelf {
	return &shelf{t, make(map[string]*sale.SKU), make(fakeLedgers)}
}

// add puts a SKU with stock by segment, and has some buyers of one unit each.
func (s *shelf) add(name string, limit int64, buyers int, stock ...int64) *sale.SKU {
	s.t.Helper()
	sku := testSKU(limit, len(stock))
	sku.Name = name
	s.skus[name], s.ledgers[name] = &sku, newFakeLedger(sku, stock...)
	if buyers > 0 {
		s.ledgers[name].commit(s.claims(name, buyers, 0), nil)
	}
	return &sku
}

func (s *shelf) claims(name string, n, from int) []*sale.Claim {
	out := claims(n, from)
	for _, c := range out {
		c.SKU, c.ID = name, sale.DeriveOrderID(name, c.User, "k")
	}
	return out
}

func (s *shelf) all() (skus []*sale.SKU) {
	for _, sku := range s.skus {
		skus = append(skus, sku)
	}
	return skus
}

func nameSet(skus []*sale.SKU) map[string]bool {
	out := make(map[string]bool)
	for _, sku := range skus {
		out[sku.Name] = true
	}
	return out
}

// What is loaded in bulk is what Rebuild would have loaded; what is not is left to it, and
// not harmed.
func TestBulkLoad(t *testing.T) {
	m := startMini(t)
	w := newShelf(t)
	for i := range 30 {
		w.add(fmt.Sprintf("fresh-%d", i), 0, 0, 10)
	}
	few, limited := w.add("few", 0, 3, 10), w.add("limited", 2, 3, 10)
	spread := w.add("spread", 2, 4, 3, 3)
	parked := w.add("parked", 0, 1, 10)
	w.add("many", 0, bulkFew+1, 200)
	tentative, used, stale := w.add("tentative", 0, 0, 10), w.add("used", 0, 0, 10), w.add("stale", 0, 0, 10)
	s := newShield(t, m.Addr(), w.ledgers, func(c *Config) {
		c.Parked = func(context.Context, []string) (map[string]int64, error) { return map[string]int64{"parked": 4}, nil }
	})
	for _, sku := range []*sale.SKU{tentative, used, stale} {
		rebuild(t, s, sku)
	}
	wantAnswers(t, deduct(t, s, tentative, w.claims("tentative", 2, 0)), "11")
	wantAnswers(t, deduct(t, s, used, w.claims("used", 1, 0)), "1")
	for _, name := range []string{"tentative", "stale"} {
		s.Distrust(name, w.ledgers.Now())
	}
	w.ledgers["stale"].restock(0, 5)

	alone, failed := s.BulkLoad(t.Context(), w.all())
	if got := nameSet(alone); len(failed) != 0 || len(got) != 2 || !got["many"] || !got["tentative"] {
		t.Fatalf("left alone: %v; failed: %v", got, failed)
	}
	for name, want := range map[string]int64{"fresh-7": 10, "few": 7, "limited": 7, "spread": 2, "parked": 5, "used": 9, "stale": 15} {
		if n := left(t, s, w.skus[name]); n != want {
			t.Errorf("%s has %d units left, want %d", name, n, want)
		}
	}
	wantAnswers(t, deduct(t, s, few, w.claims("few", 4, 0)), "2221")
	more := w.claims("limited", 4, 0)
	for _, c := range more {
		c.ID, c.Quantity = sale.DeriveOrderID("limited", c.User, "more"), 2
	}
	wantAnswers(t, deduct(t, s, limited, more), "3331")
	wantAnswers(t, deduct(t, s, spread, w.claims("spread", 7, 0)), "2222114")
	wantAnswers(t, deduct(t, s, parked, w.claims("parked", 7, 0)), "2111114")
	for _, sku := range alone {
		rebuild(t, s, sku)
	}
	if n := left(t, s, tentative); n != 8 {
		t.Errorf("%d units left of the SKU with tentative claims, want 8", n)
	}
	if x := leftovers(m); x != nil {
		t.Errorf("left behind: %q", x)
	}
}

// With the ledger away nothing is loaded, and nothing is taken out of use, whenever it
// goes.
func TestBulkLoadWhileTheLedgerIsAway(t *testing.T) {
	for _, at := range []string{"before", "in the middle"} {
		t.Run(at, func(t *testing.T) {
			m := startMini(t)
			w := newShelf(t)
			old, fresh := w.add("old", 0, 0, 10), w.add("fresh", 0, 0, 10)
			s, other := newShield(t, m.Addr(), w.ledgers), newShield(t, m.Addr(), w.ledgers)
			rebuild(t, s, old)
			s.Distrust("old", w.ledgers.Now())
			goAway := func() {
				for _, l := range w.ledgers {
					l.away = true
				}
			}
			if at == "before" {
				goAway()
			}
			for _, l := range w.ledgers {
				l.hooks["stock alone"] = goAway // after this read, which still succeeds
			}
			alone, failed := s.BulkLoad(t.Context(), []*sale.SKU{old, fresh})
			if len(alone) != 0 || !errors.Is(failed[old], errAway) || !errors.Is(failed[fresh], sale.ErrElsewhere) {
				t.Fatalf("left alone: %v; failed: %v", nameSet(alone), failed)
			}
			// The other gateway, which has no doubts, goes on with the copy.
			wantAnswers(t, deduct(t, other, old, w.claims("old", 1, 1)), "1")
			if x := leftovers(m); x != nil {
				t.Errorf("left behind: %q", x)
			}
		})
	}
}

// What commits while SKUs are loaded makes a copy too generous, never too poor.
func TestBulkLoadWhileOrdersCommit(t *testing.T) {
	m := startMini(t)
	w := newShelf(t)
	sku := w.add("shoe", 0, 2, 10)
	s := newShield(t, m.Addr(), w.ledgers)
	l := w.ledgers["shoe"]
	l.hooks["holdings"] = func() { l.commit(w.claims("shoe", 1, 100), nil) }
	if alone, failed := s.BulkLoad(t.Context(), w.all()); len(alone)+len(failed) != 0 {
		t.Fatal(alone, failed)
	}
	delete(l.hooks, "holdings")
	if n := left(t, s, sku); n != 7 {
		t.Errorf("%d units left, want 7", n)
	}
	wantAnswers(t, deduct(t, s, sku, w.claims("shoe", 1, 100)), "2")
}

// Two gateways that load the same SKUs at once load each once.
func TestTwoGatewaysBulkLoadAtOnce(t *testing.T) {
	m := startMini(t)
	m.SetTime(time.Unix(1_700_000_000, 0)) // so that the loader is never silent for long
	a, b := newShelf(t), newShelf(t)
	for i := range 20 {
		for _, w := range []*shelf{a, b} {
			w.add(fmt.Sprintf("s-%d", i), 0, 1, 10)
		}
	}
	entered, release := make(chan struct{}), make(chan struct{})
	a.ledgers["s-7"].hooks["holdings"] = func() { close(entered); <-release }
	sa, sb := newShield(t, m.Addr(), a.ledgers), newShield(t, m.Addr(), b.ledgers)
	var wg sync.WaitGroup
	wg.Go(func() {
		if alone, failed := sa.BulkLoad(t.Context(), a.all()); len(alone)+len(failed) != 0 {
			t.Errorf("the first: %v, %v", nameSet(alone), failed)
		}
	})
	<-entered
	// The second waits for a while, and leaves them to Rebuild, which waits for longer.
	alone, failed := sb.BulkLoad(t.Context(), b.all())
	if len(alone) != 20 || len(failed) != 0 {
		t.Fatalf("the second: %v, %v", nameSet(alone), failed)
	}
	close(release)
	wg.Wait()
	for _, l := range b.ledgers {
		l.hooks["holdings"] = func() { t.Error("the second gateway loads too") }
	}
	if alone, failed = sb.BulkLoad(t.Context(), b.all()); len(alone)+len(failed) != 0 {
		t.Fatalf("the second, again: %v, %v", nameSet(alone), failed)
	}
	wantAnswers(t, deduct(t, sb, b.skus["s-3"], b.claims("s-3", 2, 0)), "21")
}
