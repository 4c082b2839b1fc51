package checkout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// parkedOf makes parked claims of users named by one letter each: capital letters took
// no units.
func parkedOf(users string, age time.Duration) []sale.Parked {
	var out []sale.Parked
	for i, c := range claims(users) {
		out = append(out, sale.Parked{Claim: *c, Took: !c.Keyed, Segment: i, ParkedAt: time.Now().Add(-age).UnixMilli()})
	}
	return out
}

// A claim has waited for too long when both clocks say so: another server's may be an hour
// ahead, or behind.
func TestOverdueByBothClocks(t *testing.T) {
	const most = 5 * time.Minute
	now := time.Now().UnixMilli()
	for _, c := range []struct {
		ledger, backlog time.Duration // how long it has waited
		overdue         bool
	}{
		{time.Second, time.Second, false},
		{most + time.Second, most + time.Second, true},
		{most + time.Second, 0, true}, // the backlog does not say
		{time.Hour, time.Second, false},
		{-time.Hour, most + time.Second, false},
		{time.Second, time.Hour, false},
	} {
		d := &draining{parked: []sale.Parked{{ParkedAt: now - c.ledger.Milliseconds(), Waited: c.backlog}}}
		if _, overdue := d.split(now, most); len(overdue) == 1 != c.overdue {
			t.Errorf("%v by the ledger, %v by the backlog: overdue is %v", c.ledger, c.backlog, !c.overdue)
		}
	}
}

func TestSettleParked(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(w *world)
		users string // capital letters took no units
		age   time.Duration
		fails bool
		// back and gone are the users whose refusal the shield hears of, with and
		// without their units; kept are those whose refusal is remembered.
		back, gone, kept string
		commits          int
	}{
		{name: "reserved", users: "ab", commits: 1},
		{name: "orders that exist keep their units", set: func(w *world) { w.ledger.commit = w.commits("DCR") }, users: "abc", commits: 1},
		{name: "refused", set: func(w *world) { w.ledger.commit = w.commits("L-pR") }, users: "abcd", back: "ac", gone: "b", kept: "abc", commits: 1},
		{name: "repeats took no units", set: func(w *world) { w.ledger.commit = w.commits("L-DR") }, users: "ABCD", kept: "AB", commits: 1},
		{name: "as old as it may be", users: "a", age: 5 * time.Minute, commits: 1},
		{name: "overdue", users: "aB", age: 5*time.Minute + time.Millisecond, back: "a", kept: "aB"},
		{name: "overdue and in the ledger", set: func(w *world) { w.existing("a", false) }, users: "ab", age: time.Hour, back: "b", kept: "b"},
		{name: "overdue, and the ledger fails", set: func(w *world) { w.ledger.away = errBroken }, users: "ab", age: time.Hour, fails: true},
		{name: "the ledger fails", set: func(w *world) { w.ledger.commit = failingCommit }, users: "ab", fails: true, commits: 1},
		{name: "the ledger's breaker is open", set: func(w *world) { w.sql.open = true }, users: "ab", fails: true},
		{name: "the SKU cannot be read", set: func(w *world) { w.ledger.skus, w.ledger.away = nil, errBroken }, users: "ab", fails: true},
		{name: "no such SKU any more", set: func(w *world) { w.ledger.skus = nil }, users: "ab", kept: "ab"},
		{name: "one that the ledger cannot take", set: func(w *world) {
			w.ledger.commit = func(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
				return sale.CommitResult{Verdicts: []sale.Verdict{{Err: sale.ErrInvalid}, {Outcome: sale.Reserved}}}, nil
			}
		}, users: "ab", back: "a", kept: "a", commits: 1},
		{name: "the shield is away", set: func(w *world) { w.shield.fail = errBroken; w.ledger.commit = w.commits("L") }, users: "a", commits: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := newParkingWorld(t)
				if c.set != nil {
					c.set(w)
				}
				err := w.SettleParked(t.Context(), "s", parkedOf(c.users, c.age))
				if (err != nil) != c.fails {
					t.Fatalf("error %v", err)
				}
				var back, gone, kept string
				for _, s := range w.shield.takeTold() {
					if s.Token != 0 {
						t.Errorf("told of batch %d: whoever parked its claims has settled it", s.Token)
					}
					for _, r := range s.Refused {
						if r.Keep {
							t.Errorf("%s is kept as an order", r.User)
						}
						if r.Restock {
							back += r.User
						} else {
							gone += r.User
						}
					}
				}
				for _, o := range w.shield.remembered {
					kept += o.User
					if o.Status != sale.StatusRejected || o.Reason == "" || w.shield.ttl != time.Hour {
						t.Errorf("remembered %+v for %v", o, w.shield.ttl)
					}
				}
				if back != c.back || gone != c.gone || kept != c.kept {
					t.Errorf("units back of %q, gone of %q, remembered %q; want %q, %q, %q", back, gone, kept, c.back, c.gone, c.kept)
				}
				if len(w.ledger.commits) != c.commits {
					t.Fatalf("%d commits, want %d", len(w.ledger.commits), c.commits)
				}
				for _, b := range w.ledger.commits {
					for k := range b.Claims {
						if want := map[bool]int{true: -1, false: k}[b.Claims[k].Keyed]; b.Segments[k] != want || !b.LockFirst {
							t.Errorf("%s is offered in segment %d, lock first %t", b.Claims[k].User, b.Segments[k], b.LockFirst)
						}
					}
				}
			})
		})
	}
}

// honest is a shield as the real one is: it takes units per batch, hears once how each
// batch ended, and knows every id it took units for.
type honest struct {
	fakeShield
	left      int64
	limit     int64
	taken     map[sale.OrderID]sale.BatchToken // 0 = in the ledger
	units     map[string]int64
	tentative map[sale.BatchToken][]*sale.Claim
	tokens    sale.BatchToken
	lost      func() bool // the answer of a call gets lost
	verdicts  map[sale.OrderID]sale.Order
}

func (s *honest) Deduct(_ context.Context, _ *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error) {
	s.hear(settled)
	s.tokens++
	d := sale.Deduction{Loaded: true, Token: s.tokens}
	for _, c := range claims {
		a := sale.Admitted
		_, seen := s.taken[c.ID]
		switch {
		case seen:
			a = sale.Seen
		case s.limit > 0 && s.units[c.User]+c.Quantity > s.limit:
			a = sale.ShieldLimit
		case s.left < c.Quantity:
			a = sale.ShieldSoldOut
		default:
			s.left -= c.Quantity
			s.units[c.User] += c.Quantity
			s.taken[c.ID] = s.tokens
			s.tentative[s.tokens] = append(s.tentative[s.tokens], c)
		}
		d.Answers, d.Segments = append(d.Answers, a), append(d.Segments, 0)
	}
	d.Left = s.left
	if s.lost() {
		return sale.Deduction{}, sale.ErrUnavailable
	}
	return d, nil
}

func (s *honest) Settle(_ context.Context, _ *sale.SKU, settled []sale.Settlement) error {
	s.hear(settled)
	return nil
}

func (s *honest) Remember(_ context.Context, orders []sale.Order, _ time.Duration) error {
	for _, o := range orders {
		s.verdicts[o.ID] = o
	}
	return nil
}

func (s *honest) hear(settled []sale.Settlement) {
	for _, st := range settled {
		if _, open := s.tentative[st.Token]; st.Token != 0 && !open {
			continue
		}
		delete(s.tentative, st.Token)
		for _, r := range st.Refused {
			token, known := s.taken[r.ID]
			if !known || (st.Token != 0 && token != st.Token) {
				continue
			}
			if r.Restock {
				s.left += r.Quantity
			}
			s.units[r.User] -= r.Quantity
			delete(s.taken, r.ID)
		}
		if st.LedgerLeft >= 0 {
			s.left = min(s.left, st.LedgerLeft)
		}
	}
}

// reconcile judges what is tentative, as rule a does.
func (s *honest) reconcile(l *truth) {
	for token, cs := range maps.Clone(s.tentative) {
		st := sale.Settlement{Token: token, LedgerLeft: -1}
		for _, c := range cs {
			if _, ok := l.orders[c.ID]; !ok {
				st.Refused = append(st.Refused, sale.Refused{ID: c.ID, User: c.User, Quantity: c.Quantity, Restock: true})
			}
		}
		s.hear([]sale.Settlement{st})
	}
}

// stream is a backlog in memory whose answers get lost and that is full at times.
type stream struct {
	rnd    *rand.Rand
	faults int
	parked []sale.Parked
}

func (b *stream) Usable() bool { return b.rnd.IntN(100) >= b.faults/2 }

func (b *stream) Park(_ context.Context, _ string, claims []sale.Parked) []error {
	errs := make([]error, len(claims))
	for i := range claims {
		switch {
		case b.rnd.IntN(100) >= b.faults:
			b.parked = append(b.parked, claims[i])
		case b.rnd.IntN(3) == 0:
			errs[i] = fmt.Errorf("full: %w", sale.ErrQueueFull)
		default:
			errs[i] = fmt.Errorf("no answer: %w", sale.ErrUnknown)
			if b.rnd.IntN(2) == 0 {
				b.parked = append(b.parked, claims[i])
			}
		}
	}
	return errs
}

func (b *stream) Waiting(string) int64                       { return int64(len(b.parked)) }
func (b *stream) Drained(ctx context.Context, _ string) bool { <-ctx.Done(); return len(b.parked) == 0 }

// Whatever fails while the ledger comes and goes: who is told "queued" gets the
// ledger's verdict, nothing is sold twice, and no unit stays taken for nobody.
func TestParkingAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := int64(rapid.IntRange(0, 3).Draw(rt, "limit"))
		stock := int64(rapid.IntRange(0, 40).Draw(rt, "stock"))
		faults := rapid.SampledFrom([]int{0, 10, 30}).Draw(rt, "faults")
		lossy := rapid.SampledFrom([]int{0, 10, 40}).Draw(rt, "lossy")
		repeats := rapid.Bool().Draw(rt, "repeats")
		seed := rapid.Uint64().Draw(rt, "seed")
		synctest.Test(t, func(t *testing.T) {
			sku := &sale.SKU{Name: "s", State: sale.StateOpen, Heat: sale.HeatHot, Segments: 1, PayWithin: 1000, PerUserLimit: limit}
			rnd := rand.New(rand.NewPCG(seed, 1))
			p := &parkingGame{
				rt: rt, rnd: rnd, repeats: repeats, lossy: lossy > 0, queued: map[sale.OrderID]bool{}, sql: &fakeBreaker{},
				l: &truth{rnd: rand.New(rand.NewPCG(seed, 2)), sku: sku, left: stock, units: map[string]int64{}, orders: map[sale.OrderID]sale.Order{}, faults: faults},
				s: &honest{left: stock, limit: limit, taken: map[sale.OrderID]sale.BatchToken{}, units: map[string]int64{},
					tentative: map[sale.BatchToken][]*sale.Claim{}, verdicts: map[sale.OrderID]sale.Order{}, lost: func() bool { return rnd.IntN(100) < faults/2 }},
				b: &stream{rnd: rand.New(rand.NewPCG(seed, 3)), faults: lossy},
			}
			cfg := config()
			cfg.MaxWait = time.Minute
			var err error
			p.Checkout, err = New(cfg, Deps{Shield: guardedShield{p.s, &fakeBreaker{}}, Ledger: guardedLedger{p.l, p.sql}, Ceiling: &fakeThrottle{}, Backlog: p.b})
			if err != nil {
				t.Fatal(err)
			}
			p.checkLimits(0) // a load, which this game has not, would follow
			for range 40 {
				p.step(t)
			}
			p.end(t)
		})
	})
}

type parkingGame struct {
	*Checkout
	rt      *rapid.T
	rnd     *rand.Rand
	l       *truth
	s       *honest
	b       *stream
	sql     *fakeBreaker
	queued  map[sale.OrderID]bool // by what was said last: nobody knows of those that failed
	twice   bool                  // a drainer died, so that claims were settled twice
	repeats bool
	lossy   bool // answers of the backlog get lost
	keys    int
}

func (p *parkingGame) step(t *testing.T) {
	switch p.rnd.IntN(6) {
	case 0:
		p.sql.set(!p.sql.open)
	case 1:
		pass(time.Duration(p.rnd.IntN(30)) * time.Second)
	case 2:
		p.drain(t)
	default:
		p.batch(t)
	}
}

func (p *parkingGame) batch(t *testing.T) {
	var cs []*sale.Claim
	for range 1 + p.rnd.IntN(5) {
		user, key := fmt.Sprint("u", p.rnd.IntN(6)), fmt.Sprint("k", p.rnd.IntN(4))
		if p.keys++; !p.repeats {
			key = fmt.Sprint(p.keys)
		}
		c := &sale.Claim{SKU: "s", User: user, Quantity: 1, Keyed: true, QueuedAt: time.Now().UnixMilli()}
		c.ID, c.Hash = sale.DeriveOrderID("s", user, key), sale.HashRequest(1, "")
		if !slices.ContainsFunc(cs, func(o *sale.Claim) bool { return o.ID == c.ID }) {
			cs = append(cs, c)
		}
	}
	for i, v := range p.Settle(t.Context(), "s", cs, func() {}) {
		p.queued[cs[i].ID] = v.Outcome == sale.Queued
	}
}

// drain settles some of what is parked, and at times dies before it deletes them.
func (p *parkingGame) drain(t *testing.T) {
	n := p.rnd.IntN(len(p.b.parked) + 1)
	if p.sql.open || n == 0 {
		return
	}
	err := p.SettleParked(t.Context(), "s", slices.Clone(p.b.parked[:n]))
	if err == nil && p.rnd.IntN(4) > 0 {
		p.b.parked = p.b.parked[n:]
	} else {
		p.twice = true
	}
	if err != nil && !errors.Is(err, sale.ErrUnavailable) {
		p.rt.Fatal(err)
	}
}

func (p *parkingGame) end(t *testing.T) {
	calm := p.l.faults == 0
	p.l.faults, p.sql.open = 0, false
	for len(p.b.parked) > 0 {
		p.drain(t)
	}
	p.Quiet(t.Context(), "s")
	p.s.reconcile(p.l)
	for id, queued := range p.queued {
		_, sold := p.l.orders[id]
		if v := p.s.verdicts[id]; queued && !sold && v.Status != sale.StatusRejected {
			p.rt.Errorf("%s was told queued and has no verdict: %v", id, v.Status)
		}
	}
	if p.l.left < 0 {
		p.rt.Errorf("%d units too many were sold", -p.l.left)
	}
	if p.s.left < p.l.left {
		p.rt.Errorf("the shield has %d left, the ledger %d: units are taken for nobody", p.s.left, p.l.left)
	}
	// The repeat of a claim whose units went back may still become an order. And where it is
	// not known whether a claim was parked, its units are taken in the shield for a while, in
	// which the ledger may sell them to somebody whom the shield refused.
	if calm && !p.lossy && !p.twice && !p.repeats && p.s.left != p.l.left {
		p.rt.Errorf("the shield has %d left, the ledger %d, though nothing failed", p.s.left, p.l.left)
	}
	for u, n := range p.s.units {
		if n > p.l.units[u] {
			p.rt.Errorf("the shield holds %d units against %s, the ledger %d", n, u, p.l.units[u])
		}
	}
}
