package deduct

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"flashgate/sale"
)

// world is two gateways, one shield, one ledger, and everything that can go wrong
// between them. It plays what checkout does with a batch, step by step.
type world struct {
	t      *rapid.T
	ctx    context.Context
	redis  *miniredis.Miniredis
	client *redis.Client
	ledger *fakeLedger
	sku    *sale.SKU
	gates  []*Shield
	learnt [][]sale.Settlement // by gateway: what the shield has not been told yet
	open   []*openBatch        // batches between shield and ledger
	now    time.Time
	users  int
	// faults says that something happened after which the shield may be wrong.
	faults bool
	// careless gateways send claims to the ledger that are tentative in another batch;
	// others have them wait for that batch.
	careless bool
	saved    []func()
}

type openBatch struct {
	gate int
	d    sale.Deduction
	cs   []*sale.Claim
	born time.Time
}

func newWorld(t *rapid.T, m *miniredis.Miniredis, client *redis.Client, segments int) (*world, func()) {
	w := &world{t: t, ctx: context.Background(), redis: m, client: client, now: time.Unix(1_700_000_000, 0)}
	m.FlushAll()
	m.SetTime(w.now)
	sku := testSKU(rapid.SampledFrom([]int64{0, 2}).Draw(t, "limit"), segments)
	w.sku = &sku
	stock := make([]int64, segments)
	for i := range stock {
		stock[i] = rapid.Int64Range(0, 25).Draw(t, "stock")
	}
	w.ledger = newFakeLedger(sku, stock...)
	var stops []func()
	for home := range 2 {
		s, stop := startShield(t, m.Addr(), w.ledger, func(c *Config) { c.Home = uint32(home) })
		w.gates, stops = append(w.gates, s), append(stops, stop)
	}
	w.learnt = make([][]sale.Settlement, len(w.gates))
	return w, func() {
		for _, stop := range stops {
			stop()
		}
	}
}

func (w *world) gate() int { return rapid.IntRange(0, len(w.gates)-1).Draw(w.t, "gateway") }

// buy sends a batch through the shield, or around it when it is not loaded, and says
// whether it went through.
func (w *world) buy(gate int, cs []*sale.Claim) (through bool) {
	settled := w.learnt[gate]
	w.learnt[gate] = nil
	d, err := w.gates[gate].Deduct(w.ctx, w.sku, cs, settled)
	if err != nil {
		w.t.Fatal(err)
	}
	if !d.Loaded {
		w.ledger.commit(cs, nil)
		w.faults = true // the shield does not know of what goes around it
		return false
	}
	if len(admitted(d)) > 0 {
		w.open = append(w.open, &openBatch{gate, d, cs, w.now})
	}
	var seen []*sale.Claim
	refused := make(map[sale.OrderID]bool) // another payload is the ledger's alone to judge
	for i, a := range d.Answers {
		refused[cs[i].ID] = refused[cs[i].ID] || a == sale.ShieldLimit || a == sale.ShieldSoldOut
		if a == sale.Seen && (w.careless || !w.undecided(cs[i].ID) && !refused[cs[i].ID]) {
			seen = append(seen, cs[i])
		}
	}
	out, _ := w.ledger.commit(seen, nil)
	for _, o := range out {
		if o == sale.Reserved {
			w.faults = true // a batch that the shield has not settled took the units too
		}
	}
	return true
}

// undecided reports whether a batch that has the id is between shield and ledger.
func (w *world) undecided(id sale.OrderID) bool {
	for _, b := range w.open {
		for _, i := range admitted(b.d) {
			if b.cs[i].ID == id {
				return true
			}
		}
	}
	return false
}

// finish has the ledger decide a batch. When told is false the gateway dies before it
// can say so.
func (w *world) finish(b *openBatch, told bool) {
	sts := decide(w.ledger, b.d, b.cs)
	contradicted := len(sts) > 1 || len(sts[0].Refused) > 0
	if contradicted && !w.faults && w.sku.Segments == 1 {
		w.t.Fatalf("the shield let through what the ledger refuses, though nothing went wrong: %+v", sts)
	}
	if told {
		w.learnt[b.gate] = append(w.learnt[b.gate], sts...)
	} else {
		w.faults = true
	}
	if contradicted {
		w.gates[b.gate].Distrust(w.sku.Name, w.ledger.Now())
	}
}

func (w *world) popBatch() *openBatch {
	i := rapid.IntRange(0, len(w.open)-1).Draw(w.t, "open batch")
	b := w.open[i]
	w.open = append(w.open[:i], w.open[i+1:]...)
	return b
}

// advance moves Redis's clock. No batch stays undecided for as long as the grace.
func (w *world) advance(d time.Duration) {
	w.now = w.now.Add(d)
	kept := w.open[:0]
	for _, b := range w.open {
		if w.now.Sub(b.born) < testGrace {
			kept = append(kept, b)
		}
	}
	if len(kept) < len(w.open) {
		w.faults = true
	}
	w.open = kept
	w.redis.SetTime(w.now)
}

func (w *world) rebuild(gate int) {
	if err := w.gates[gate].Rebuild(w.ctx, w.sku); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reconcile(gate int) {
	// No waiting in the tests.
	w.gates[gate].checks = make(map[string]*raiseCheck)
	w.gates[gate].known.at = time.Time{}
	if _, err := w.gates[gate].Reconcile(w.ctx); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) claims() []*sale.Claim {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *sale.Claim {
		return claim(fmt.Sprintf("u%d", rapid.IntRange(0, 15).Draw(t, "user")), rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "key"), rapid.Int64Range(1, 2).Draw(t, "quantity"))
	}), 1, 6).Draw(w.t, "claims")
}

// save remembers everything that is in Redis; restore is a stale replica's promotion.
func (w *world) save() {
	w.saved = nil
	for _, key := range w.redis.Keys() {
		if w.client.Type(w.ctx, key).Val() == "hash" {
			h := w.client.HGetAll(w.ctx, key).Val()
			w.saved = append(w.saved, func() { w.client.HSet(w.ctx, key, h) })
		} else {
			v := w.client.Get(w.ctx, key).Val()
			w.saved = append(w.saved, func() { w.client.Set(w.ctx, key, v, 0) })
		}
	}
}

func (w *world) actions(faulty bool) map[string]func(*rapid.T) {
	acts := map[string]func(*rapid.T){
		"buy":     func(*rapid.T) { w.buy(w.gate(), w.claims()) },
		"buy too": func(*rapid.T) { w.buy(w.gate(), w.claims()) },
		"decided": func(*rapid.T) {
			if len(w.open) > 0 {
				w.finish(w.popBatch(), true)
			}
		},
		"cancel": func(t *rapid.T) {
			c := w.claims()[0]
			if o, ok := w.ledger.cancel(c.ID); ok {
				if faulty && rapid.Bool().Draw(t, "release lost") {
					w.faults = true
				} else if err := w.gates[w.gate()].Release(w.ctx, w.sku, []sale.Order{o}); err != nil {
					t.Fatal(err)
				}
			}
		},
		"quiet": func(*rapid.T) {
			g := w.gate()
			if err := w.gates[g].Settle(w.ctx, w.sku, w.learnt[g]); err != nil {
				w.t.Fatal(err)
			}
			w.learnt[g] = nil
		},
		"reconcile": func(*rapid.T) { w.reconcile(w.gate()) },
		"": func(t *rapid.T) {
			if err := w.ledger.check(); err != nil {
				t.Fatal(err)
			}
		},
	}
	if !faulty {
		return acts
	}
	fault := func(f func(*rapid.T)) func(*rapid.T) {
		return func(t *rapid.T) { w.faults = true; f(t) }
	}
	acts["decided, not told"] = fault(func(*rapid.T) {
		if len(w.open) > 0 {
			w.finish(w.popBatch(), false)
		}
	})
	acts["forgotten before decided"] = fault(func(*rapid.T) {
		if len(w.open) > 0 {
			w.popBatch()
		}
	})
	acts["settlements lost"] = fault(func(*rapid.T) { w.learnt[w.gate()] = nil })
	acts["flush"] = fault(func(*rapid.T) { w.redis.FlushAll() })
	acts["save"] = func(*rapid.T) { w.save() }
	acts["stale replica"] = fault(func(*rapid.T) {
		w.redis.FlushAll()
		for _, put := range w.saved {
			put()
		}
	})
	acts["distrust"] = fault(func(*rapid.T) { w.gates[w.gate()].Distrust(w.sku.Name, w.ledger.Now()) })
	acts["rebuild"] = fault(func(*rapid.T) { w.rebuild(w.gate()) })
	acts["restock"] = fault(func(t *rapid.T) { w.ledger.restock(0, rapid.Int64Range(1, 5).Draw(t, "units")) })
	acts["time"] = func(t *rapid.T) { w.advance(time.Duration(rapid.IntRange(1, 15).Draw(t, "seconds")) * time.Second) }
	acts["rules change"] = fault(func(t *rapid.T) {
		sku := *w.sku
		sku.Version++
		sku.PerUserLimit = 2 - sku.PerUserLimit
		if sku.PerUserLimit != 0 { // the ledger's back-fill
			w.ledger.mu.Lock()
			for u := range w.ledger.buyers {
				w.ledger.buyers[u] = 0
			}
			for _, o := range w.ledger.orders {
				if o.Status.Live() {
					w.ledger.buyers[o.User] += o.Quantity
				}
			}
			w.ledger.mu.Unlock()
		}
		w.ledger.sku, w.sku = sku, &sku
	})
	return acts
}

// forgetEmpty stands for the moment after which a segment seen empty is asked again.
func (w *world) forgetEmpty() {
	for _, g := range w.gates {
		for _, f := range g.view(w.sku.Name).families {
			f.leftAt = time.Time{}
		}
	}
}

// sellOut buys for new buyers, one unit each, until nobody gets one any more although
// the repair rules had every chance; then nothing may be left in the ledger.
func (w *world) sellOut() {
	for len(w.open) > 0 {
		w.finish(w.open[0], true)
		w.open = w.open[1:]
	}
	for idle := 0; idle < 3; {
		before := w.ledger.available()
		gate := w.users % len(w.gates)
		cs := claims(7, 1000+w.users)
		w.users += len(cs)
		if w.buy(gate, cs) {
			for len(w.open) > 0 {
				w.finish(w.open[0], true)
				w.open = w.open[1:]
			}
		} else {
			w.rebuild(gate)
		}
		if w.ledger.available() == before {
			idle++
			w.advance(testGrace + time.Second)
			w.reconcile(gate)
			w.forgetEmpty()
		} else {
			idle = 0
		}
	}
	if n := w.ledger.available(); n != 0 {
		left, loaded, err := w.gates[0].Left(w.ctx, w.sku)
		w.t.Fatalf("%d units leaked; the shield says %d left (loaded %v, %v)\n%q", n, left, loaded, err, strings.ReplaceAll(w.redis.Dump(), "\n", " | "))
	}
	if err := w.ledger.check(); err != nil {
		w.t.Fatal(err)
	}
}

func simulate(t *testing.T, segments int, faulty bool, end func(*world)) {
	m := startMini(t)
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { client.Close() })
	rapid.Check(t, func(r *rapid.T) {
		w, stop := newWorld(r, m, client, segments)
		w.careless = faulty
		defer stop()
		w.rebuild(0)
		w.faults = false
		acts := w.actions(faulty)
		for name, act := range acts {
			if name != "" {
				acts[name] = func(t *rapid.T) { w.t = t; act(t) }
			}
		}
		r.Repeat(acts)
		w.t = r
		end(w)
	})
}

func TestNothingLeaksWhateverFails(t *testing.T) {
	for _, segments := range []int{1, 3} {
		t.Run(fmt.Sprintf("segments=%d", segments), func(t *testing.T) {
			simulate(t, segments, true, (*world).sellOut)
		})
	}
}

// TestShieldIsExactWhenNothingFails: as long as nothing goes wrong the ledger refuses
// nothing that the shield let through (finish checks it), and once all is settled the
// two agree to the unit.
func TestShieldIsExactWhenNothingFails(t *testing.T) {
	simulate(t, 1, false, func(w *world) {
		for len(w.open) > 0 {
			w.finish(w.open[0], true)
			w.open = w.open[1:]
		}
		for g := range w.gates {
			if err := w.gates[g].Settle(w.ctx, w.sku, w.learnt[g]); err != nil {
				w.t.Fatal(err)
			}
		}
		left, loaded, err := w.gates[0].Left(w.ctx, w.sku)
		if err != nil || !loaded {
			w.t.Fatal(loaded, err)
		}
		if !w.faults && left != w.ledger.available() {
			w.t.Fatalf("shield has %d, ledger %d", left, w.ledger.available())
		}
	})
}
