package checkout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// truth is a ledger in the dumbest form: a map of orders, a number of units, a limit.
// It fails, and hides what it did, as a network does.
type truth struct {
	mu     sync.Mutex
	rnd    *rand.Rand
	sku    *sale.SKU
	left   int64
	units  map[string]int64
	orders map[sale.OrderID]sale.Order
	faults int // percent of calls
}

func (l *truth) Now() int64 { return time.Now().UnixMilli() }

func (l *truth) Opening(context.Context, int64, int64, int) ([]string, error) { return nil, nil }

func (l *truth) SKU(context.Context, string) (*sale.SKU, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sku, nil
}

func (l *truth) fault() bool { return l.rnd.IntN(100) < l.faults }

func (l *truth) Commit(_ context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
	l.mu.Lock()
	takes := time.Duration(l.rnd.IntN(30)) * time.Millisecond
	before, after := l.fault(), l.fault()
	l.mu.Unlock()
	pass(takes)
	if before {
		return sale.CommitResult{}, fmt.Errorf("nothing done: %w", sale.ErrUnavailable)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var res sale.CommitResult
	for _, c := range b.Claims {
		v := l.decide(c)
		if v.Outcome == sale.SoldOut {
			res.Left = map[int]int64{0: l.left}
		}
		if v.Outcome != sale.Reserved && !b.LockFirst {
			res.Contradicted = true
		}
		res.Verdicts = append(res.Verdicts, v)
	}
	if after {
		return sale.CommitResult{}, fmt.Errorf("done, but who knows: %w", sale.ErrUnavailable)
	}
	return res, nil
}

func (l *truth) decide(c *sale.Claim) sale.Verdict {
	if o, ok := l.orders[c.ID]; ok {
		if o.Hash != c.Hash {
			return sale.Verdict{Outcome: sale.Conflict}
		}
		return sale.Verdict{Outcome: sale.Duplicate, Order: &o}
	}
	if gate := l.sku.Gate(l.Now()); gate != sale.Reserved {
		return sale.Verdict{Outcome: gate}
	}
	if limit := l.sku.PerUserLimit; limit > 0 && l.units[c.User]+c.Quantity > limit {
		return sale.Verdict{Outcome: sale.LimitReached}
	}
	if l.left < c.Quantity {
		return sale.Verdict{Outcome: sale.SoldOut}
	}
	o := sale.NewOrder(c, l.sku, 0, l.Now())
	l.left -= c.Quantity
	l.units[c.User] += c.Quantity
	l.orders[c.ID] = o
	return sale.Verdict{Outcome: sale.Reserved, Order: &o}
}

func (l *truth) Find(_ context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault() {
		return nil, sale.ErrUnavailable
	}
	out := map[sale.OrderID]sale.Order{}
	for _, id := range ids {
		if o, ok := l.orders[id]; ok {
			out[id] = o
		}
	}
	return out, nil
}

func (l *truth) FindExhausted(ctx context.Context, _ string, ids []sale.OrderID) (map[sale.OrderID]sale.Order, bool, error) {
	l.mu.Lock()
	exhausted := l.left < 1
	l.mu.Unlock()
	if !exhausted {
		return nil, false, nil
	}
	found, err := l.Find(ctx, ids)
	return found, true, err
}

// liar is a shield that says anything: it admits what it should not, refuses what it
// should not, forgets, fails, loses its copy.
type liar struct {
	fakeShield
	rnd    *rand.Rand
	moods  []string // letters as in answers; ! fails, 0 not loaded
	tokens sale.BatchToken
	open   map[sale.BatchToken]int // admitted claims that no settlement told of
	twice  bool
}

func (s *liar) Deduct(_ context.Context, _ *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mood := s.moods[s.rnd.IntN(len(s.moods))]
	switch mood[s.rnd.IntN(len(mood))] {
	case '!':
		return sale.Deduction{}, sale.ErrUnavailable
	case '0':
		s.hear(settled) // there is no copy any more that could be told
		return sale.Deduction{}, nil
	}
	s.hear(settled)
	s.tokens++
	d := sale.Deduction{Loaded: true, Token: s.tokens, Left: int64(s.rnd.IntN(3))}
	admitted := 0
	for range claims {
		a := sale.Admitted
		switch mood[s.rnd.IntN(len(mood))] {
		case 'S':
			a = sale.Seen
		case 'L':
			a = sale.ShieldLimit
		case '-':
			a = sale.ShieldSoldOut
		case '?':
			a = sale.NoAnswer
		default:
			admitted++
		}
		d.Answers, d.Segments = append(d.Answers, a), append(d.Segments, 0)
	}
	if admitted > 0 {
		s.open[s.tokens] = admitted
	}
	return d, nil
}

func (s *liar) hear(settled []sale.Settlement) {
	for _, st := range settled {
		if st.Token == 0 {
			continue
		}
		if _, ok := s.open[st.Token]; !ok {
			s.twice = true
		}
		delete(s.open, st.Token)
	}
}

func (s *liar) Settle(_ context.Context, _ *sale.SKU, settled []sale.Settlement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hear(settled)
	return nil
}

// Whatever the shield says, buyers hear what the ledger says.
func TestSettleAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sku := &sale.SKU{Name: "s", State: sale.StateOpen, Heat: sale.HeatHot, Segments: 1, PayWithin: 1000,
			PerUserLimit: int64(rapid.IntRange(0, 3).Draw(rt, "limit"))}
		stock := int64(rapid.IntRange(0, 40).Draw(rt, "stock"))
		faults := rapid.SampledFrom([]int{0, 0, 10, 40}).Draw(rt, "faults")
		checks := rapid.SampledFrom([]int{0, 5}).Draw(rt, "checks")
		moods := rapid.SliceOfN(rapid.StringMatching(`[A!0SL\-?]{1,6}`), 1, 4).Draw(rt, "moods")
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			l := &truth{rnd: rand.New(rand.NewPCG(seed, 1)), sku: sku, left: stock, units: map[string]int64{}, orders: map[sale.OrderID]sale.Order{}, faults: faults}
			s := &liar{rnd: rand.New(rand.NewPCG(seed, 2)), moods: moods, open: map[sale.BatchToken]int{}}
			c, err := New(config(), Deps{Shield: guardedShield{s, &fakeBreaker{}}, Ledger: guardedLedger{l, &fakeBreaker{}}, Ceiling: &fakeThrottle{}})
			if err != nil {
				t.Fatal(err)
			}
			c.checkLimits(checks)
			g := &game{rt: rt, Checkout: c, l: l, s: s, stock: stock, rnd: rand.New(rand.NewPCG(seed, 3))}
			var wg sync.WaitGroup
			for range 2 { // as many batches as a queue keeps in flight
				wg.Go(func() {
					for range 12 {
						g.round()
					}
				})
			}
			wg.Wait()
			g.end(t)
		})
	})
}

type game struct {
	*Checkout
	rt    *rapid.T
	l     *truth
	s     *liar
	stock int64
	rnd   *rand.Rand

	mu       sync.Mutex
	reserved map[sale.OrderID]bool // somebody heard "reserved"
	failed   int
}

func (g *game) round() {
	g.mu.Lock()
	var cs []*sale.Claim
	for range 1 + g.rnd.IntN(8) {
		user := fmt.Sprint("u", g.rnd.IntN(10))
		c := &sale.Claim{SKU: "s", User: user, Quantity: 1 + int64(g.rnd.IntN(2)), Keyed: g.rnd.IntN(3) > 0, QueuedAt: time.Now().UnixMilli()}
		key := fmt.Sprint(g.rnd.Uint64())
		if c.Keyed {
			key = fmt.Sprint("k", g.rnd.IntN(3)) // repeats, and other payloads under one key
		}
		c.ID, c.Hash = sale.DeriveOrderID("s", user, key), sale.HashRequest(c.Quantity, "")
		cs = append(cs, c)
	}
	wait := time.Duration(g.rnd.IntN(200)) * time.Millisecond
	if g.rnd.IntN(6) == 0 {
		next := *g.l.sku // an operator pauses and resumes
		next.State = sale.StateOpen + sale.SaleState(g.rnd.IntN(2))
		g.l.mu.Lock()
		g.l.sku = &next
		g.l.mu.Unlock()
	}
	g.mu.Unlock()
	pass(wait)

	g.l.mu.Lock()
	before := make(map[sale.OrderID]sale.Order, len(g.l.orders))
	for id, o := range g.l.orders {
		before[id] = o
	}
	g.l.mu.Unlock()
	calls := 0
	verdicts := g.Settle(context.Background(), "s", cs, func() { calls++ })
	if calls != 1 || len(verdicts) != len(cs) {
		g.rt.Fatalf("admitted %d times, %d verdicts for %d claims", calls, len(verdicts), len(cs))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.l.mu.Lock()
	defer g.l.mu.Unlock()
	for i, v := range verdicts {
		g.judge(cs[i], v, before)
	}
}

// judge holds one verdict against the ledger; both locks are held.
func (g *game) judge(c *sale.Claim, v sale.Verdict, before map[sale.OrderID]sale.Order) {
	row, exists := g.l.orders[c.ID]
	_, existed := before[c.ID]
	switch {
	case v.Err != nil:
		g.failed++
		if v.Outcome != sale.NoOutcome || v.Order != nil {
			g.rt.Errorf("an error with %q and order %v", v.Outcome, v.Order)
		}
	case v.Outcome == sale.Reserved || v.Outcome == sale.Duplicate:
		if !exists || row.Hash != c.Hash || v.Order == nil || v.Order.ID != c.ID || v.Order.User != c.User || v.Order.Quantity != c.Quantity {
			g.rt.Errorf("%q without its row in the ledger: %+v", v.Outcome, v.Order)
		}
		if v.Outcome == sale.Reserved {
			if existed || g.reserved[c.ID] {
				g.rt.Errorf("reserved, though the order was there before")
			}
			if g.reserved == nil {
				g.reserved = map[sale.OrderID]bool{}
			}
			g.reserved[c.ID] = true
		}
	case v.Outcome == sale.Conflict:
		if !exists || row.Hash == c.Hash {
			g.rt.Errorf("a conflict with nothing: %t", exists)
		}
	case v.Outcome.Refusal():
		if existed && c.Keyed {
			g.rt.Errorf("a keyed claim was refused as %q though its order exists", v.Outcome)
		}
	default:
		g.rt.Errorf("no verdict: %+v", v)
	}
}

// end checks the ledger and what the shield was told.
func (g *game) end(t *testing.T) {
	var sold int64
	units := map[string]int64{}
	for _, o := range g.l.orders {
		sold += o.Quantity
		units[o.User] += o.Quantity
	}
	if sold > g.stock || sold != g.stock-g.l.left {
		g.rt.Errorf("%d of %d units were sold", sold, g.stock)
	}
	for u, n := range units {
		if limit := g.l.sku.PerUserLimit; limit > 0 && n > limit {
			g.rt.Errorf("%s holds %d units, the limit is %d", u, n, limit)
		}
	}
	g.Quiet(t.Context(), "s")
	if g.s.twice {
		g.rt.Error("the shield was told of a batch twice, or of none of its own")
	}
	if g.l.faults == 0 {
		if g.failed > 0 {
			// Only a shield without an answer makes an error here.
			for _, m := range g.s.moods {
				for _, r := range m {
					if r == '?' {
						return
					}
				}
			}
			g.rt.Errorf("%d errors though nothing failed", g.failed)
		}
		if len(g.s.open) > 0 {
			g.rt.Errorf("the shield never heard how %d batches ended", len(g.s.open))
		}
	}
}
