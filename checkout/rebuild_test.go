package checkout

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// running starts the world's rebuilders; the end of the test joins them.
func (w *world) running(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// loads counts the loads of each SKU, and how many run at a time.
type loads struct {
	mu      sync.Mutex
	of      map[string]int
	now     int
	most    int
	takes   time.Duration
	outcome error
}

func (l *loads) rebuild(ctx context.Context, name string) error {
	l.mu.Lock()
	if l.of == nil {
		l.of = map[string]int{}
	}
	l.of[name]++
	l.now++
	l.most = max(l.most, l.now)
	takes, outcome := l.takes, l.outcome
	l.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
	}
	l.mu.Lock()
	l.now--
	l.mu.Unlock()
	return outcome
}

func (l *loads) count(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[name]
}

func TestRebuildsAreNotAskedForTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{takes: time.Second}
		w.shield.rebuild = l.rebuild
		loaded := false
		admit := w.shield.deduct
		w.shield.deduct = func(ctx context.Context, cs []*sale.Claim) (sale.Deduction, error) {
			if loaded {
				return admit(ctx, cs)
			}
			return sale.Deduction{}, nil
		}
		w.running(t)
		for range 20 {
			w.settle(t, claims("ab"))
			pass(10 * time.Millisecond)
		}
		pass(2 * time.Second)
		if n := l.count("s"); n != 1 {
			t.Errorf("%d loads, want one", n)
		}
		// The shield forgot it all again: that is a fact, not a suspicion, and waits for
		// no pause.
		w.settle(t, claims("ab"))
		pass(2 * time.Second)
		if n := l.count("s"); n != 2 {
			t.Errorf("%d loads, want two", n)
		}
		loaded = true
		w.settle(t, claims("ab"))
		pass(2 * time.Second)
		if n := l.count("s"); n != 2 {
			t.Errorf("%d loads, want two still", n)
		}
	})
}

// A SKU that nobody buys yet is loaded all the same when its first load fails; one that
// cannot be loaded is left alone in the end.
func TestFailedLoadsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{outcome: errBroken}
		w.shield.rebuild = l.rebuild
		w.running(t)
		w.Changed(nil, w.sku, true)
		pass(time.Second)
		if n := l.count("s"); n < 2 || n > 3 {
			t.Errorf("%d attempts in the first second", n)
		}
		pass(time.Hour)
		if n := l.count("s"); n != 1+rebuildRetries {
			t.Errorf("%d attempts in all, want %d", n, 1+rebuildRetries)
		}
		w.Changed(nil, w.sku, true)
		pass(150 * time.Millisecond)
		l.mu.Lock()
		l.outcome = nil
		l.mu.Unlock()
		pass(time.Hour)
		if n := l.count("s"); n != 1+rebuildRetries+2 {
			t.Errorf("%d attempts after it can be loaded, want %d", n, 1+rebuildRetries+2)
		}
		w.rebuilds.mu.Lock()
		defer w.rebuilds.mu.Unlock()
		if len(w.rebuilds.last)+len(w.rebuilds.pending) > 0 {
			t.Errorf("remembered: %v, %v", w.rebuilds.last, w.rebuilds.pending)
		}
	})
}

func TestRebuildsPauseAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{outcome: errBroken}
		w.shield.rebuild = l.rebuild
		w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, nil }
		w.running(t)
		for range 1000 {
			w.settle(t, claims("a"))
			pass(time.Millisecond)
		}
		if n := l.count("s"); n < 4 || n > 6 {
			t.Errorf("%d attempts within a second, want one per 200 ms", n)
		}
		w.rebuilds.mu.Lock()
		defer w.rebuilds.mu.Unlock()
		if len(w.rebuilds.last) > 1 || len(w.rebuilds.pending) > 1 || len(w.rebuilds.bulk.urgent) > 1 {
			t.Errorf("the set holds %d, %d and %d SKUs", len(w.rebuilds.last), len(w.rebuilds.pending), len(w.rebuilds.bulk.urgent))
		}
	})
}

// A SKU whose copy is lost, or whose rules change, all the time does not keep the loaders
// busy, and is loaded once more after the last time.
func TestRebuildsOfOneSKUHaveAShare(t *testing.T) {
	for name, trouble := range map[string]func(t *testing.T, w *world){
		"lost":    func(t *testing.T, w *world) { w.settle(t, claims("a")) },
		"changed": func(t *testing.T, w *world) { w.Changed(w.sku, w.sku, true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				l := &loads{takes: 50 * time.Millisecond}
				w.shield.rebuild = l.rebuild
				w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, nil }
				w.running(t)
				for range 1000 {
					trouble(t, w)
					pass(10 * time.Millisecond)
				}
				n := l.count("s")
				if most := 10*time.Second/(rebuildShare*l.takes) + 2; n < 10 || n > int(most) {
					t.Errorf("%d loads in ten seconds, want no more than %d", n, most)
				}
				pass(time.Minute)
				if after := l.count("s"); after > n+1 || name == "changed" && after == n {
					t.Errorf("%d loads afterwards, want the one that is owed", after-n)
				}
			})
		})
	}
}

func TestRebuildersWorkSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{takes: 100 * time.Millisecond}
		w.shield.rebuild = l.rebuild
		for i := range 20 {
			name := fmt.Sprint("s", i)
			w.ledger.skus[name] = &sale.SKU{Name: name}
			w.rebuilds.want(name)
		}
		w.rebuilds.want("unknown")
		began := time.Now()
		w.running(t)
		for l.count("s19") == 0 {
			pass(time.Millisecond)
		}
		if took := time.Since(began); took > 601*time.Millisecond {
			t.Errorf("the twentieth load began after %s; three at a time begin it after 600ms", took)
		}
		pass(time.Second)
		if l.most != rebuilders {
			t.Errorf("%d loads at a time, want %d", l.most, rebuilders)
		}
		for i := range 20 {
			if n := l.count(fmt.Sprint("s", i)); n != 1 {
				t.Errorf("s%d was loaded %d times", i, n)
			}
		}
	})
}

func TestChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{}
		w.shield.rebuild = l.rebuild
		w.running(t)
		w.shield.deduct = w.answers("-")
		w.settle(t, claims("a"))
		w.Changed(nil, w.sku, true)
		pass(time.Millisecond)
		if d := w.shield.takeDistrusted(); len(d) != 1 || d[0].sku != "s" || l.count("s") != 1 || w.SoldOut("s") {
			t.Errorf("after an operator's change: distrusted %v, %d loads, sold out %t", d, l.count("s"), w.SoldOut("s"))
		}
	})
}

// A load that is under way may have read the ledger before the change.
func TestChangedWhileLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{takes: 500 * time.Millisecond}
		w.shield.rebuild = l.rebuild
		w.running(t)
		w.Changed(nil, w.sku, true)
		pass(100 * time.Millisecond)
		w.Changed(nil, w.sku, true)
		w.Changed(nil, w.sku, true)
		pass(2 * time.Second)
		if n := l.count("s"); n != 2 {
			t.Errorf("%d loads, want another one after the one that was under way", n)
		}
	})
}

// With several segments a gateway that asks its own cannot know what was bought out of
// another, and no copy need know an order that has ended: no reason to load anything.
func TestWhatTheShieldCannotKnowIsNoContradiction(t *testing.T) {
	for _, c := range []struct {
		verdict           string
		segments, segment int // how many; of the order that exists
		status            sale.Status
		distrusted        int
	}{
		{"D", 1, 0, sale.StatusReserved, 1}, {"L", 1, 0, 0, 1}, {"D", 1, 0, sale.StatusPaid, 1},
		{"D", 4, 0, sale.StatusReserved, 1}, {"D", 4, 4, sale.StatusReserved, 1}, // once spread over more
		{"D", 4, 1, sale.StatusReserved, 0}, {"L", 4, 0, 0, 0},
		// Whose order has ended may be no buyer that the shield has to know.
		{"D", 1, 0, sale.StatusCancelled, 0}, {"D", 1, 0, sale.StatusExpired, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, config())
			w.sku.Segments = c.segments
			w.ledger.commit = func(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
				res, err := w.commits(c.verdict)(ctx, b)
				if o := res.Verdicts[0].Order; o != nil {
					o.Segment, o.Status = c.segment, c.status
				}
				return res, err
			}
			w.settle(t, claims("A"))
			if d := w.shield.takeDistrusted(); len(d) != c.distrusted {
				t.Errorf("%+v: distrusted %v", c, d)
			}
		})
	}
}

// What the ledger says against the shield has it loaded anew only where it forgot, only
// the copy that was asked, and not in a loop.
func TestContradictions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{takes: 500 * time.Millisecond}
		w.shield.rebuild = l.rebuild
		w.running(t)
		last := func() sale.CommitBatch { return w.ledger.commits[len(w.ledger.commits)-1] }

		// Too few units: the settlement mends that. Meanwhile claims go the careful way.
		w.ledger.commit = w.commits("R-")
		w.settle(t, claims("ab"))
		if d := w.shield.takeDistrusted(); len(d) != 0 {
			t.Errorf("distrusted %v for stock", d)
		}
		w.ledger.commit = w.commits("")
		if w.settle(t, claims("c")); !last().LockFirst || last().Segments == nil {
			t.Errorf("after a contradiction: lock first %t, segments %v", last().LockFirst, last().Segments)
		}
		pass(time.Second)
		if w.settle(t, claims("d")); last().LockFirst {
			t.Error("lock first long after a contradiction")
		}

		// A repeat that another gateway committed meanwhile: nothing to have forgotten.
		began := time.Now().UnixMilli()
		admit := w.shield.deduct
		w.shield.deduct = func(ctx context.Context, cs []*sale.Claim) (sale.Deduction, error) {
			pass(20 * time.Millisecond)
			return admit(ctx, cs)
		}
		w.ledger.commit = func(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
			res, err := w.commits("D")(ctx, b)
			res.Verdicts[0].Order.ReservedAt = began + 10
			return res, err
		}
		w.settle(t, claims("e"))
		if d := w.shield.takeDistrusted(); len(d) != 0 {
			t.Errorf("distrusted %v for an order made after the shield was asked", d)
		}

		// It forgot an order, a buyer: the copy that was asked is distrusted.
		for _, verdict := range []string{"RD", "RL"} {
			pass(2 * time.Second)
			began = time.Now().UnixMilli()
			w.ledger.commit = func(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
				pass(300 * time.Millisecond)
				return w.commits(verdict)(ctx, b)
			}
			w.settle(t, claims("fg"))
			if d := w.shield.takeDistrusted(); len(d) != 1 || d[0] != (distrust{"s", began}) {
				t.Errorf("%s: distrusted %v, want what was loaded before %d", verdict, d, began)
			}
			// Loading takes half a second, so the next may come ten seconds after it.
			for time.Now().UnixMilli() < began+10_000 {
				pass(100 * time.Millisecond)
				w.settle(t, claims("hi"))
			}
			if d := w.shield.takeDistrusted(); len(d) != 0 {
				t.Errorf("%s: distrusted again: %v", verdict, d)
			}
		}
		if n := l.count("s"); n != 2 {
			t.Errorf("%d loads, want 2", n)
		}
	})
}

// Ids that the shield has seen and the ledger does not know are in flight somewhere, or
// were: no reason to load anything.
func TestSeenIsNoContradiction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.shield.deduct = w.answers("SS")
		if got := w.settle(t, claims("aB")); got != "RR" {
			t.Errorf("the verdicts are %q, want RR", got)
		}
		if d := w.shield.takeDistrusted(); len(d) != 0 {
			t.Errorf("distrusted %v", d)
		}
	})
}
