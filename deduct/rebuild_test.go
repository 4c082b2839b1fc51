package deduct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"flashgate/sale"
)

func TestRebuildLoadsWhatTheLedgerKnows(t *testing.T) {
	for _, limit := range []int64{0, 2} {
		t.Run(fmt.Sprintf("limit=%d", limit), func(t *testing.T) {
			m := startMini(t)
			sku := testSKU(limit, 1)
			l := newFakeLedger(sku, 2000)
			bought := claims(1500, 0)
			l.commit(bought, nil)
			l.cancel(bought[0].ID)
			s := newShield(t, m.Addr(), l)
			wantAnswers(t, deduct(t, s, &sku, bought[:1]), "-")
			rebuild(t, s, &sku)
			if n := left(t, s, &sku); n != 501 {
				t.Fatalf("%d units left, want 501", n)
			}
			// Buyer 1 has one unit of two.
			d := deduct(t, s, &sku, []*sale.Claim{bought[1], claim(bought[1].User, "other", 2), claim(bought[1].User, "third", 1)})
			if limit == 0 {
				wantAnswers(t, d, "211")
			} else {
				wantAnswers(t, d, "231")
			}
			if x := leftovers(m); x != nil {
				t.Errorf("left behind: %q", x)
			}
			if m.TTL(pointerKey(familyTag("shoe", 0))) != idle {
				t.Error("a family that nobody asks for would stay for good")
			}
		})
	}
}

func TestTwoGatewaysRebuildAtOnce(t *testing.T) {
	m := startMini(t)
	m.SetTime(time.Unix(1_700_000_000, 0)) // so that the loader is never silent for long
	sku := testSKU(0, 1)
	la, lb := newFakeLedger(sku, 10), newFakeLedger(sku, 10)
	a, b := newShield(t, m.Addr(), la), newShield(t, m.Addr(), lb)
	entered, release := make(chan struct{}), make(chan struct{})
	la.hooks["orders"] = func() { close(entered); <-release }
	lb.hooks["orders"] = func() { t.Error("the second gateway loads too") }
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Rebuild(context.Background(), &sku); err != nil {
			t.Error(err)
		}
	})
	<-entered
	wantAnswers(t, deduct(t, b, &sku, claims(1, 0)), "-")
	wg.Go(func() {
		if err := b.Rebuild(context.Background(), &sku); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := b.Rebuild(ctx, &sku); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("waiting for another's load: %v", err)
	}
	close(release)
	wg.Wait()
	wantAnswers(t, deduct(t, a, &sku, claims(1, 0)), "1")
	wantAnswers(t, deduct(t, b, &sku, claims(2, 0)), "21")
}

func TestLoaderThatSleptIsReplacedAndLoses(t *testing.T) {
	m := startMini(t)
	now := time.Unix(1_700_000_000, 0)
	m.SetTime(now)
	sku := testSKU(2, 1)
	l := newFakeLedger(sku, 10)
	bought := claims(3, 0)
	l.commit(bought, nil)
	a, b := newShield(t, m.Addr(), l), newShield(t, m.Addr(), l)
	ctx := context.Background()

	// A begins, and is stopped.
	asleep, busy, err := a.begin(ctx, a.view("shoe"), &sku, 0)
	if err != nil || busy || asleep == nil {
		t.Fatal(asleep, busy, err)
	}
	if l2, busy, err := b.begin(ctx, b.view("shoe"), &sku, 0); l2 != nil || !busy || err != nil {
		t.Fatalf("B does not wait for A: %v %v %v", l2, busy, err)
	}
	m.SetTime(now.Add(loaderSilence + time.Millisecond))
	rebuild(t, b, &sku)
	d := deduct(t, b, &sku, claims(2, 10))
	wantAnswers(t, d, "11")

	// A wakes up a minute later, when its keys are gone, and goes on.
	m.FastForward(unfinishedTTL + time.Second)
	if err := a.load(ctx, a.view("shoe"), &sku, []*load{asleep}); !errors.Is(err, errLost) {
		t.Fatalf("the woken loader: %v", err)
	}
	rebuild(t, a, &sku)
	if n := left(t, a, &sku); n != 5 {
		t.Errorf("%d units left, want 5: B's generation was replaced", n)
	}
	wantAnswers(t, deduct(t, a, &sku, claims(3, 9)), "122")
	if x := leftovers(m); x != nil {
		t.Errorf("left behind: %q", x)
	}
}

func TestRedisForgetsInTheMiddleOfALoad(t *testing.T) {
	tag := familyTag("shoe", 0)
	loaded := func(m *miniredis.Miniredis) string {
		for _, key := range m.Keys() {
			if k, ok := parseFamilyKey(key); ok && k.kind == "h" {
				return key
			}
		}
		return ""
	}
	for name, forget := range map[string]func(m *miniredis.Miniredis){
		"everything":          func(m *miniredis.Miniredis) { m.FlushAll() },
		"the last writes":     func(m *miniredis.Miniredis) { m.HDel(loaded(m), "o:"+string(claims(1, 3)[0].ID[:])) },
		"the loading mark":    func(m *miniredis.Miniredis) { m.Del(loadKey(tag)) },
		"the new generation":  func(m *miniredis.Miniredis) { m.Del(loaded(m)) },
		"all but the pointer": func(m *miniredis.Miniredis) { m.FlushAll(); m.Set(pointerKey(tag), "1-5-0-1-00000000") },
	} {
		for _, stage := range []string{"orders chunk", "buyers", "stock"} {
			t.Run(name+" at "+stage, func(t *testing.T) {
				m := startMini(t)
				sku := testSKU(2, 1)
				l := newFakeLedger(sku, 3000)
				bought := claims(1500, 0)
				l.commit(bought, nil)
				s := newShield(t, m.Addr(), l)
				once := sync.Once{}
				l.hooks[stage] = func() { once.Do(func() { forget(m) }) }
				rebuild(t, s, &sku)
				wantAnswers(t, deduct(t, s, &sku, bought[:4]), "2222")
				wantAnswers(t, deduct(t, s, &sku, bought[1496:]), "2222")
				if n := left(t, s, &sku); n != 1500 {
					t.Errorf("%d units left, want 1500", n)
				}
				m.FastForward(unfinishedTTL)
				if x := leftovers(m); x != nil {
					t.Errorf("left behind: %q", x)
				}
			})
		}
	}
}

func TestRedisThatKeepsForgettingIsAnError(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	s := newShield(t, m.Addr(), l)
	l.hooks["stock"] = func() { m.FlushAll() }
	if err := s.Rebuild(context.Background(), &sku); !errors.Is(err, sale.ErrUnavailable) {
		t.Fatal(err)
	}
}

// TestTentativeBatchIsCarriedOver: whenever the ledger commits a batch that was
// tentative when a rebuild began, the new copy is not too poor in the end.
func TestTentativeBatchIsCarriedOver(t *testing.T) {
	for _, limit := range []int64{0, 2} {
		for _, stage := range []string{"before", "orders", "buyers", "stock", "find", "after", "never"} {
			if limit == 0 && stage == "buyers" {
				continue // not read
			}
			t.Run(fmt.Sprintf("limit=%d/%s", limit, stage), func(t *testing.T) {
				m := startMini(t)
				now := time.Unix(1_700_000_000, 0)
				m.SetTime(now)
				sku := testSKU(limit, 1)
				l := newFakeLedger(sku, 10)
				a, b := newShield(t, m.Addr(), l), newShield(t, m.Addr(), l)
				rebuild(t, a, &sku)
				cs := claims(3, 0)
				d := deduct(t, a, &sku, cs)
				var settled []sale.Settlement
				commit := func() { settled = decide(l, d, cs) }
				switch stage {
				case "before":
					commit()
				case "after", "never":
				default:
					l.hooks[stage] = commit
				}
				b.Distrust("shoe", l.Now())
				rebuild(t, b, &sku)
				clear(l.hooks)
				switch stage {
				case "after":
					commit()
				case "never":
					if n := left(t, b, &sku); n != 7 {
						t.Errorf("%d units left while the batch is tentative, want 7", n)
					}
					m.SetTime(now.Add(testGrace + time.Second))
					if _, err := b.Reconcile(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
				if err := a.Settle(context.Background(), &sku, settled); err != nil {
					t.Fatal(err)
				}
				got, have := left(t, b, &sku), l.available()
				switch stage {
				case "find", "buyers", "orders": // read around the commit: may be too generous
					if got < have {
						t.Errorf("shield has %d, ledger %d: too poor", got, have)
					}
				default:
					if got != have {
						t.Errorf("shield has %d, ledger %d", got, have)
					}
				}
				// Nobody's units were counted twice: two each are allowed.
				if limit == 2 {
					wantAnswers(t, deduct(t, b, &sku, []*sale.Claim{claim(cs[0].User, "again", 1)}), "1")
				}
				if stage != "never" {
					wantAnswers(t, deduct(t, b, &sku, cs), "222")
				}
			})
		}
	}
}

func TestFailedLoadDoesNotHoldUpTheNext(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	s := newShield(t, m.Addr(), l)
	l.hooks["orders"] = func() { l.away = true }
	if err := s.Rebuild(context.Background(), &sku); !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	if keys := m.Keys(); len(keys) != 0 {
		t.Errorf("left behind: %q", keys)
	}
	l.away = false
	clear(l.hooks)
	rebuild(t, s, &sku)
}

// TestCopyStaysInUseWhenALoadFails: with the ledger away, the copy that other gateways
// trust is all there is to admit claims to the backlog by.
func TestCopyStaysInUseWhenALoadFails(t *testing.T) {
	m := startMini(t)
	sku := testSKU(2, 1)
	l := newFakeLedger(sku, 10)
	a, b := newShield(t, m.Addr(), l), newShield(t, m.Addr(), l)
	rebuild(t, a, &sku)
	wantAnswers(t, deduct(t, b, &sku, claims(2, 0)), "11")
	for _, stage := range []string{"buyers", "at once"} {
		a.Distrust("shoe", l.Now())
		if stage == "at once" {
			l.away = true
		}
		l.hooks[stage] = func() { l.away = true }
		if err := a.Rebuild(context.Background(), &sku); !errors.Is(err, errAway) {
			t.Fatal(err)
		}
		wantAnswers(t, deduct(t, a, &sku, claims(1, 9)), "-")
		wantAnswers(t, deduct(t, b, &sku, claims(2, 1)), map[string]string{"buyers": "21", "at once": "22"}[stage])
		if x := leftovers(m); x != nil {
			t.Errorf("left behind: %q", x)
		}
		l.away = false
	}
	clear(l.hooks)
	// A loader that was replaced puts nothing back into use.
	now := time.Now()
	m.SetTime(now)
	a.Distrust("shoe", l.Now())
	asleep, _, err := a.begin(context.Background(), a.view("shoe"), &sku, 0)
	if err != nil || asleep == nil {
		t.Fatal(asleep, err)
	}
	m.SetTime(now.Add(2 * loaderSilence))
	other, _, err := b.begin(context.Background(), b.view("shoe"), &sku, 0)
	if err != nil || other == nil {
		t.Fatal(other, err)
	}
	a.abort(context.Background(), []*load{asleep})
	wantAnswers(t, deduct(t, b, &sku, claims(1, 20)), "-")
}

func TestParkedUnitsAreGone(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 2)
	l := newFakeLedger(sku, 3, 4)
	s := newShield(t, m.Addr(), l, func(c *Config) {
		c.Parked = func(context.Context, []string) (map[string]int64, error) { return map[string]int64{"shoe": 5}, nil }
	})
	rebuild(t, s, &sku)
	if n := left(t, s, &sku); n != 2 {
		t.Fatalf("%d units left, want 2", n)
	}
}

// lateContext is past its deadline, and its timer has not fired yet.
type lateContext struct{ context.Context }

func (lateContext) Deadline() (time.Time, bool) { return time.Now(), true }

// Who gives up while loading leaves those who wait for it to see for themselves, also
// when the connection's deadline came before the context's.
func TestGivingUp(t *testing.T) {
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	s := newShield(t, startMini(t).Addr(), l)
	var flight *flight
	l.hooks["stock alone"] = func() { flight = s.view(sku.Name).loading }
	if err := s.Rebuild(lateContext{context.Background()}, &sku); !errors.Is(err, sale.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("not the connection's deadline: %v", err)
	}
	if !flight.gaveUp {
		t.Error("others would hear of a deadline that is not theirs")
	}
	rebuild(t, s, &sku)
}

// An order whose units were given back has none to give however often that is repeated, also
// to a copy that was loaded meanwhile, alone or with others.
func TestAGiveBackRepeatedAfterALoad(t *testing.T) {
	for _, limit := range []int64{0, 1} {
		for how, load := range map[string]func(*testing.T, *scene){
			"alone": func(t *testing.T, sc *scene) { rebuild(t, sc.s, &sc.sku) },
			"with others": func(t *testing.T, sc *scene) {
				if alone, failed := sc.s.BulkLoad(t.Context(), []*sale.SKU{&sc.sku}); len(alone)+len(failed) > 0 {
					t.Fatal(alone, failed)
				}
			},
		} {
			t.Run(fmt.Sprintf("limit %d, %s", limit, how), func(t *testing.T) {
				sc := newScene(t, limit, 10)
				gone, stays := claim("a", "1", 1), claim("b", "1", 1)
				d := deduct(t, sc.s, &sc.sku, []*sale.Claim{gone, stays})
				if err := sc.s.Settle(t.Context(), &sc.sku, decide(sc.l, d, []*sale.Claim{gone, stays})); err != nil {
					t.Fatal(err)
				}
				o, _ := sc.l.cancel(gone.ID)
				for range 3 {
					sc.s.Distrust(sc.sku.Name, sc.l.Now())
					load(t, sc)
					for range 2 {
						if err := sc.s.Release(t.Context(), &sc.sku, []sale.Order{o}); err != nil {
							t.Fatal(err)
						}
					}
					if left, _, err := sc.s.Left(t.Context(), &sc.sku); err != nil || left != 9 {
						t.Errorf("%d are left, %v; the ledger has 9", left, err)
					}
				}
			})
		}
	}
}
