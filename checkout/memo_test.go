package checkout

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

func turnedDown(c *sale.Claim, restock, keep bool) sale.Refused {
	return sale.Refused{ID: c.ID, User: c.User, Quantity: c.Quantity, Restock: restock, Keep: keep}
}

// What the shield hears of a batch, with the next one.
func TestSettlements(t *testing.T) {
	for _, c := range []struct {
		name    string
		shield  string
		ledger  string
		refused []sale.Refused
		left    bool
	}{
		{"all reserved", "AAA", "RRR", nil, false},
		{"not those that were not admitted", "A-S", "R", nil, false},
		{"limit: given back", "AAA", "RLR", []sale.Refused{turnedDown(claims("b")[0], true, false)}, false},
		{"repeats: given back, known", "AAA", "DCR", []sale.Refused{turnedDown(claims("a")[0], true, true), turnedDown(claims("b")[0], true, true)}, false},
		{"state: given back", "AAA", "RRp", []sale.Refused{turnedDown(claims("c")[0], true, false)}, false},
		{"stock: not given back, and the ledger's figure", "AAA", "R--", []sale.Refused{turnedDown(claims("b")[0], false, false), turnedDown(claims("c")[0], false, false)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				w.shield.deduct, w.ledger.commit = w.answers(c.shield), w.commits(c.ledger)
				w.settle(t, claims("abc"))
				if told := w.shield.takeTold(); len(told) != 0 {
					t.Fatalf("told too early: %v", told)
				}
				w.shield.deduct, w.ledger.commit = w.answers("-"), w.commits("")
				w.settle(t, claims("z"))
				want := []sale.Settlement{{Token: 1, Refused: c.refused, LedgerLeft: -1}}
				if c.left {
					want = append(want, sale.Settlement{LedgerLeft: 0})
				}
				if told := w.shield.takeTold(); !reflect.DeepEqual(told, want) {
					t.Errorf("told %+v, want %+v", told, want)
				}
				w.settle(t, claims("y"))
				if told := w.shield.takeTold(); len(told) != 0 {
					t.Errorf("told again: %+v", told)
				}
			})
		})
	}
}

func TestSettlementsOfCommitsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		// The ledger saw the claims and did not say: the batch stays tentative.
		w.ledger.commit = func(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
			return sale.CommitResult{}, sale.ErrUnavailable
		}
		w.settle(t, claims("a"))
		w.Quiet(t.Context(), "s")
		if told := w.shield.takeTold(); len(told) != 0 {
			t.Errorf("told of an unknown outcome: %+v", told)
		}
		// Its breaker opened after the shield had taken the units: nothing can have
		// happened, they are given back.
		admit := w.shield.deduct
		w.shield.deduct = func(ctx context.Context, cs []*sale.Claim) (sale.Deduction, error) {
			w.sql.set(true)
			return admit(ctx, cs)
		}
		if got := w.settle(t, claims("b")); got != "u" {
			t.Errorf("the verdict is %q, want u", got)
		}
		w.Quiet(t.Context(), "s")
		want := []sale.Settlement{{Token: 2, Refused: []sale.Refused{turnedDown(claims("b")[0], true, false)}, LedgerLeft: -1}}
		if told := w.shield.takeTold(); !reflect.DeepEqual(told, want) {
			t.Errorf("told %+v, want %+v", told, want)
		}
	})
}

func TestSettlementsSurviveAFailedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.settle(t, claims("a"))
		w.settle(t, claims("b")) // carries a's
		ok := w.shield.deduct
		w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, errBroken }
		w.settle(t, claims("c")) // b's are not delivered
		w.redis.set(true)
		w.settle(t, claims("d"))
		w.redis.set(false)
		w.shield.deduct = ok
		w.shield.takeTold()
		w.settle(t, claims("e"))
		if told := w.shield.takeTold(); len(told) != 1 || told[0].Token != 2 {
			t.Errorf("told %+v, want the settlement of batch 2", told)
		}
		// What remains is flushed when the SKU goes quiet, once.
		w.Quiet(t.Context(), "s")
		if told := w.shield.takeTold(); len(told) != 1 || told[0].Token != 3 {
			t.Errorf("told %+v, want the settlement of batch 3", told)
		}
		w.Quiet(t.Context(), "s")
		w.Quiet(t.Context(), "never heard of")
		if told := w.shield.takeTold(); len(told) != 0 {
			t.Errorf("told again: %+v", told)
		}
		if _, ok := w.memos.Load("never heard of"); ok {
			t.Error("a SKU that went quiet is remembered for it")
		}
	})
}

func TestSettlementsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		for i := range maxLearned + 10 {
			w.keep("s", []sale.Settlement{{Token: sale.BatchToken(i + 1)}})
		}
		w.Quiet(t.Context(), "s")
		told := w.shield.takeTold()
		if len(told) != maxLearned || told[0].Token != 11 || told[len(told)-1].Token != maxLearned+10 {
			t.Errorf("%d settlements were kept, want the last %d", len(told), maxLearned)
		}
	})
}

// The sweep runs while batches end: no settlement may vanish with a memo.
func TestSettlementsAreNotSweptAway(t *testing.T) {
	w := newWorld(t, config())
	var wg sync.WaitGroup
	const writers, each = 4, 3000
	told := 0
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.sweep()
			}
		}
	})
	var adding sync.WaitGroup
	var mu sync.Mutex
	for range writers {
		adding.Go(func() {
			for range each {
				w.keep("s", []sale.Settlement{{Token: 1}})
				if m, ok := w.memos.Load("s"); ok {
					n := len(m.(*memo).drain())
					mu.Lock()
					told += n
					mu.Unlock()
				}
			}
		})
	}
	adding.Wait()
	close(stop)
	wg.Wait()
	told += len(w.memoOf("s").drain())
	if told != writers*each {
		t.Errorf("%d settlements of %d arrived", told, writers*each)
	}
}

func TestRemember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.Remember(t.Context(), claims("ab"), []sale.Verdict{{Outcome: sale.SoldOut}, {Outcome: sale.TimedOut}})
		if r := w.shield.remembered; len(r) != 2 || r[0].User != "a" || r[0].Status != sale.StatusRejected ||
			r[0].Reason != "sold_out" || r[1].Reason != "timeout" || w.shield.ttl != time.Hour {
			t.Errorf("remembered %+v for %s", r, w.shield.ttl)
		}
		w.shield.fail = errBroken // and nothing happens
		w.Remember(t.Context(), claims("a"), []sale.Verdict{{Outcome: sale.SoldOut}})
		w.settle(t, claims("a"))
		w.Quiet(t.Context(), "s")
	})
}

func TestSoldOutFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		if w.SoldOut("s") {
			t.Error("sold out before anybody looked")
		}
		w.shield.deduct = w.answers("-")
		if w.settle(t, claims("a")); !w.SoldOut("s") {
			t.Error("not sold out after the shield said so")
		}
		// While the look counts nobody passes; then one an interval, whose look makes
		// the next count for longer, up to the most.
		for _, want := range []int{200, 250, 312, 390, 488, 500, 500} {
			began := time.Now()
			for w.SoldOut("s") {
				pass(time.Millisecond)
			}
			took := int(time.Since(began) / time.Millisecond)
			if took < want || took > want+2 {
				t.Errorf("the next look came after %d ms, want %d", took, want)
			}
			if !w.SoldOut("s") {
				t.Error("a second claim passed with the first")
			}
			w.settle(t, claims("b"))
		}
		// A probe that is never settled does not open the gate; the next comes in time.
		for w.SoldOut("s") {
			pass(time.Millisecond)
		}
		passed := 0
		for range 1000 {
			if !w.SoldOut("s") {
				passed++
			}
			pass(time.Millisecond)
		}
		if passed < 1 || passed > 2 {
			t.Errorf("%d claims passed within a second after a probe that was lost, want one per 500 ms", passed)
		}
		// Stock came back, and went at once: looks that find nothing while the last one
		// still counts do not make it count for longer.
		w.shield.deduct = w.answers("")
		w.settle(t, claims("c"))
		w.shield.deduct = w.answers("-")
		w.ledger.exhausted = true
		for range 50 {
			w.settle(t, claims("D"))
			pass(10 * time.Millisecond)
		}
		began := time.Now()
		for w.SoldOut("s") {
			pass(time.Millisecond)
		}
		if took := time.Since(began); took > 201*time.Millisecond {
			t.Errorf("after looks in quick succession the next came after %s, want 200ms", took)
		}
		// Stock came back.
		w.shield.deduct = w.answers("")
		if got := w.settle(t, claims("c")); got != "R" || w.SoldOut("s") {
			t.Errorf("after a restock: %q, sold out %t", got, w.SoldOut("s"))
		}
	})
}

func TestSoldOutMemoryOfWhatGoesAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.redis.set(true)
		w.ledger.commit = w.commits("R-")
		if w.settle(t, claims("ab")); !w.SoldOut("s") {
			t.Error("not sold out after the ledger said so")
		}
		pass(time.Second)
		w.ledger.commit = w.commits("R")
		if w.settle(t, claims("c")); w.SoldOut("s") {
			t.Error("still sold out after the ledger had units again")
		}
		w.ledger.commit = func(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
			res, err := w.commits("-")(ctx, b)
			res.Left = map[int]int64{0: 0, 1: 3} // too few for this claim only
			return res, err
		}
		if w.settle(t, claims("d")); w.SoldOut("s") {
			t.Error("sold out though a segment has units")
		}
	})
}

// A SKU that the ledger says is exhausted costs one point read per batch.
func TestSoldOutBatchesSpareTheShield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.shield.deduct = w.answers("---")
		w.ledger.exhausted = true
		w.existing("B", false)
		for range 10 {
			if got := w.settle(t, claims("aBC")); got != "-D-" {
				t.Fatalf("the verdicts are %q, want -D-", got)
			}
			pass(100 * time.Millisecond)
		}
		if n := len(w.shield.asked); n != 1 {
			t.Errorf("the shield was asked %d times, want once", n)
		}
		// The ledger's word ends it, and a ledger that does not answer leaves it to the
		// shield.
		w.ledger.exhausted = false
		w.shield.deduct = w.answers("")
		if got := w.settle(t, claims("a")); got != "R" || w.SoldOut("s") {
			t.Errorf("after a restock: %q", got)
		}
		w.shield.deduct = w.answers("-")
		w.settle(t, claims("a"))
		w.ledger.away = errBroken
		if got := w.settle(t, claims("aB")); got != "-u" && got != "-R" {
			t.Errorf("with the ledger away: %q", got)
		}
		// A buyer at the limit is to hear of the limit first.
		w.ledger.away, w.ledger.exhausted = nil, true
		w.sku.PerUserLimit = 1
		w.shield.deduct = w.answers("L-")
		if got := w.settle(t, claims("ab")); got != "L-" {
			t.Errorf("with a limit: %q, want L-", got)
		}
	})
}

func TestMemosFollowWhatIsOnSale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		for i := range 1000 {
			name := fmt.Sprint("s", i)
			w.memoOf(name).soldOut.note(time.Now())
		}
		w.keep("s7", []sale.Settlement{{Token: 1}})
		pass(25 * time.Second)
		n := 0
		w.memos.Range(func(any, any) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d SKUs are remembered, want the one with something to tell", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A SKU that had four segments and has two keeps its orders in those two: each hears one
// figure, of all that it stands for.
func TestFiguresOfASKUThatHadMoreSegments(t *testing.T) {
	got := map[int]sale.Settlement{}
	for _, st := range figures(&sale.SKU{Segments: 2}, map[int]int64{0: 5, 1: 7, 2: 0, 3: 2}, map[int]string{0: "a", 1: "b"}) {
		if _, twice := got[st.Segment]; twice {
			t.Errorf("segment %d hears twice", st.Segment)
		}
		got[st.Segment] = st
	}
	want := map[int]sale.Settlement{0: {LedgerLeft: 5, Copy: "a"}, 1: {LedgerLeft: 9, Segment: 1, Copy: "b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("told %+v, want %+v", got, want)
	}
}
