package audit

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// goingOn is an auditor whose positions are those of the world's own time.
func (w *world) goingOn(t testing.TB, change ...func(*Auditor)) *Auditor {
	return w.auditor(t, append(change, func(a *Auditor) { a.margin = 0 })...)
}

// Audits that go on where the one before ended find nothing where nothing is wrong, however
// orders, changes and publications fall between them, and what is broken after one is found
// by the next.
func TestAuditsGoOnWhereTheLastEnded(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		w.total = 100_000
		w.copies[0].Left = w.total
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		most := rapid.SampledFrom([]int{2, 10, 1000}).Draw(rt, "most")
		a := w.goingOn(t, func(a *Auditor) { a.cfg.MaxOrders = most })
		var all []sale.Order
		var at sale.AuditPosition
		work := func() {
			for range rng.IntN(30) {
				switch n := rng.IntN(4); {
				case n == 0 || len(all) == 0:
					all = append(all, w.reserve([]string{"", "TEN"}[rng.IntN(2)]))
				case n == 1:
					i := rng.IntN(len(all))
					if o := all[i]; o.Status == sale.StatusReserved {
						all[i] = w.change(o, []sale.Status{sale.StatusPaid, sale.StatusCancelled, sale.StatusExpired}[rng.IntN(3)])
					} else if o.Status == sale.StatusExpired {
						all[i] = w.change(o, sale.StatusPaid)
					}
				case n == 2:
					w.publish(rng.IntN(len(w.outbox) + 1)) // and again, later
				default:
					n := rng.IntN(len(w.outbox) + 1)
					w.publish(n)
					w.ack(n)
				}
			}
		}
		for range rapid.IntRange(1, 6).Draw(rt, "audits") {
			work()
			f, r := foundSince(t, a, at)
			if len(f) != 0 || r.Since != at || r.Position.At <= 0 {
				rt.Fatalf("found %v since %v, %+v", f, at, r)
			}
			at = r.Position
			if _, err := sale.ParseAuditPosition(at.String()); err != nil {
				rt.Fatal(err)
			}
		}
		// What was published has been looked at; another order is made, and lost.
		w.publishAll()
		_, r := foundSince(t, a, at)
		at = r.Position
		lost := w.reserve("")
		w.publishAll()
		check := "results_published"
		if rapid.Bool().Draw(rt, "the ledger loses it") {
			check = "results_known"
			delete(w.orders, lost.ID)
			w.sold--
			w.copies[0].Left++
		} else {
			w.stream = w.stream[:len(w.stream)-1]
			w.touched = []string{"shoe"} // it waits for a payment
		}
		for range 2 { // it is found until it is mended
			f, r := foundSince(t, a, at)
			if len(f) != 1 || f[check] != 1 || r.Position != at {
				rt.Fatalf("found %v, want %s; goes on at %v, was %v", f, check, r.Position, at)
			}
		}
	})
}

// What is read follows what was done since, and not what there is.
func TestAnAuditSinceReadsLittle(t *testing.T) {
	w := newWorld()
	w.fill(300)
	w.publishAll()
	a := w.goingOn(t)
	_, r := found(t, a)
	at := r.Position
	w.fill(6)
	w.publishAll()
	f, r := foundSince(t, a, at)
	if len(f) != 0 || r.Orders > 6 || r.Events > 25 {
		t.Errorf("found %v, read %d orders and %d events", f, r.Orders, r.Events)
	}
	// Nothing was done: nothing but the shield is looked at.
	f, r = foundSince(t, a, r.Position)
	if len(f) != 0 || r.Orders != 0 || r.Events != 0 {
		t.Errorf("found %v, read %d orders and %d events", f, r.Orders, r.Events)
	}
	// The ledger's own checks are of the SKUs of which something was done.
	w.checks = []sale.Checked{{Check: "stock_sold", Findings: []sale.Finding{{SKU: "shoe", Detail: "d"}}}}
	if f, _ := foundSince(t, a, r.Position); len(f) != 0 {
		t.Errorf("found %v of SKUs that nobody touched", f)
	}
	w.touched = []string{"shoe"}
	if f, _ := foundSince(t, a, r.Position); f["stock_sold"] != 1 {
		t.Errorf("found %v", f)
	}
}

// A change of an old order has to be told, and nothing of what it was before.
func TestAnOldOrderThatChanged(t *testing.T) {
	w := newWorld()
	all := w.fill(24)
	w.publishAll()
	a := w.goingOn(t)
	_, r := found(t, a)
	var o sale.Order
	for _, o = range all {
		if o.Status == sale.StatusReserved {
			break
		}
	}
	w.change(o, sale.StatusPaid)
	w.publishAll()
	if f, _ := foundSince(t, a, r.Position); len(f) != 0 {
		t.Errorf("found %v", f)
	}
	last := len(w.stream) - 2
	w.stream = append(w.stream[:last:last], w.stream[last+1])
	if f, _ := foundSince(t, a, r.Position); len(f) != 1 || f["results_published"] != 1 {
		t.Errorf("found %v", f)
	}
}

// A position of a stream that is gone is refused, and none is given where a part was away.
func TestPositionsThatCannotBe(t *testing.T) {
	w := newWorld()
	w.fill(6)
	w.publishAll()
	a := w.goingOn(t)
	_, r := found(t, a)
	at := r.Position
	w.away["nats"] = sale.ErrUnavailable
	if _, r := foundSince(t, a, at); r.Position != at || r.OK() {
		t.Errorf("%+v", r)
	}
	delete(w.away, "nats")
	for name, change := range map[string]func(w *world){
		"a shorter stream":            func(w *world) { w.stream = w.stream[:1] },
		"another stream":              func(w *world) { w.made++ },
		"a ledger that has gone back": func(w *world) { w.changes-- },
	} {
		saved := *w
		change(w)
		if _, err := a.Audit(context.Background(), at); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		*w = saved
	}
	// A clock that was set back keeps the position, as long as that lasts.
	last := w.last
	w.last -= 100_000
	if f, r := foundSince(t, a, at); len(f) != 0 || r.Position != at {
		t.Errorf("found %v, position %v, was %v", f, r.Position, at)
	}
	w.last = last
	for _, s := range []string{"", "1", "1-2", "1-2-3", "1-2-3-4-5", "-1-2-3-4", "1-2-x-4", "01-2-3-4", "0-1-1-1"} {
		if p, err := sale.ParseAuditPosition(s); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
}
