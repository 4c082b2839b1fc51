package checkout

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/time/rate"

	"flashgate/sale"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets time go by, inside a synctest bubble only.
func pass(d time.Duration) { <-time.After(d) }

// fakeShield answers as told and notes what it is told.
type fakeShield struct {
	deduct  func(ctx context.Context, claims []*sale.Claim) (sale.Deduction, error)
	rebuild func(ctx context.Context, name string) error
	bulk    func(skus []*sale.SKU) (alone []*sale.SKU, failed map[*sale.SKU]error)

	mu         sync.Mutex
	fail       error // of Settle and Remember
	asked      [][]*sale.Claim
	told       []sale.Settlement // by Deduct and Settle, where they succeeded
	distrusted []distrust
	remembered []sale.Order
	ttl        time.Duration
	released   []sale.Order
	raised     []string // SKUs
}

type distrust struct {
	sku   string
	since int64
}

func (s *fakeShield) Deduct(ctx context.Context, _ *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error) {
	s.mu.Lock()
	s.asked = append(s.asked, claims)
	s.mu.Unlock()
	d, err := s.deduct(ctx, claims)
	if err == nil {
		s.mu.Lock()
		s.told = append(s.told, settled...)
		s.mu.Unlock()
	}
	return d, err
}

func (s *fakeShield) Settle(_ context.Context, _ *sale.SKU, settled []sale.Settlement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.told = append(s.told, settled...)
	}
	return s.fail
}

// BulkLoad leaves all to Rebuild unless told otherwise.
func (s *fakeShield) BulkLoad(_ context.Context, skus []*sale.SKU) (alone []*sale.SKU, failed map[*sale.SKU]error) {
	if s.bulk == nil {
		return skus, nil
	}
	return s.bulk(skus)
}

func (s *fakeShield) Rebuild(ctx context.Context, sku *sale.SKU) error {
	if s.rebuild == nil {
		return nil
	}
	return s.rebuild(ctx, sku.Name)
}

func (s *fakeShield) Distrust(sku string, since int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.distrusted = append(s.distrusted, distrust{sku, since})
}

func (s *fakeShield) Remember(_ context.Context, orders []sale.Order, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.remembered, s.ttl = append(s.remembered, orders...), ttl
	}
	return s.fail
}

func (s *fakeShield) Release(ctx context.Context, _ *sale.SKU, orders []sale.Order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil && ctx.Err() == nil {
		s.released = append(s.released, orders...)
	}
	return s.fail
}

func (s *fakeShield) Raise(_ context.Context, skus []*sale.SKU) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sku := range skus {
		s.raised = append(s.raised, sku.Name)
	}
	return s.fail
}

// takeRaised returns the looks since the last one.
func (s *fakeShield) takeRaised() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.raised
	s.raised = nil
	return r
}

// takeTold returns what the shield was told since the last look.
func (s *fakeShield) takeTold() []sale.Settlement {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.told
	s.told = nil
	return t
}

func (s *fakeShield) takeDistrusted() []distrust {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.distrusted
	s.distrusted = nil
	return d
}

// fakeLedger knows some orders and decides as told.
type fakeLedger struct {
	commit func(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error)

	mu        sync.Mutex
	skus      map[string]*sale.SKU
	away      error
	orders    map[sale.OrderID]sale.Order
	exhausted bool
	commits   []sale.CommitBatch
	finds     int // Find's calls
	points    int // FindExhausted's calls
}

// Now is the test's clock.
func (l *fakeLedger) Now() int64 { return time.Now().UnixMilli() }

func (l *fakeLedger) Opening(_ context.Context, from, to int64, limit int) (names []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, s := range l.skus {
		if s.OpensAt > from && s.OpensAt <= to && len(names) < limit {
			names = append(names, name)
		}
	}
	return names, l.away
}

func (l *fakeLedger) SKU(_ context.Context, name string) (*sale.SKU, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.skus[name]; s != nil {
		return s, nil
	}
	if l.away != nil {
		return nil, l.away
	}
	return nil, fmt.Errorf("catalogue: %w", sale.ErrUnknownSKU)
}

func (l *fakeLedger) Commit(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
	l.mu.Lock()
	l.commits = append(l.commits, b)
	l.mu.Unlock()
	return l.commit(ctx, b)
}

func (l *fakeLedger) Find(_ context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finds++
	if l.away != nil {
		return nil, l.away
	}
	out := make(map[sale.OrderID]sale.Order)
	for _, id := range ids {
		if o, ok := l.orders[id]; ok {
			out[id] = o
		}
	}
	return out, nil
}

func (l *fakeLedger) FindExhausted(ctx context.Context, _ string, ids []sale.OrderID) (map[sale.OrderID]sale.Order, bool, error) {
	l.mu.Lock()
	l.points++
	exhausted, away := l.exhausted, l.away
	l.mu.Unlock()
	if !exhausted || away != nil {
		return nil, false, away
	}
	found, err := l.Find(ctx, ids)
	l.mu.Lock()
	l.finds--
	l.mu.Unlock()
	return found, true, err
}

// fakeThrottle lets pass or not.
type fakeThrottle struct {
	mu       sync.Mutex
	err      error
	passed   int
	deadline time.Time
}

func (t *fakeThrottle) Wait(_ context.Context, n int, deadline time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deadline = deadline
	if t.err == nil {
		t.passed += n
	}
	return t.err
}

// fakeStats counts refusals.
type fakeStats struct {
	mu    sync.Mutex
	count map[string]int
}

func (s *fakeStats) Count(sku string, o sale.Outcome, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = map[string]int{}
	}
	s.count[sku+"/"+o.String()] += n
}

// world is a checkout among fakes: a shield that admits all, a ledger that reserves
// all, one SKU "s" without a limit.
type world struct {
	*Checkout
	shield   *fakeShield
	ledger   *fakeLedger
	redis    *fakeBreaker
	sql      *fakeBreaker
	throttle *fakeThrottle
	stats    *fakeStats
	sku      *sale.SKU
	token    sale.BatchToken
}

func config() Config {
	return Config{
		MaxAge: 8 * time.Second, VerdictTTL: time.Hour,
	}
}

// checkLimits has so many limit refusals a second held against the ledger.
func (c *Checkout) checkLimits(n int) { c.limitChecks = rate.NewLimiter(rate.Limit(n), n) }

func newWorld(t *testing.T, cfg Config) *world {
	t.Helper()
	w := &world{
		shield: &fakeShield{}, redis: &fakeBreaker{}, sql: &fakeBreaker{}, throttle: &fakeThrottle{}, stats: &fakeStats{},
		sku: &sale.SKU{Name: "s", State: sale.StateOpen, Heat: sale.HeatHot, Segments: 1, PayWithin: 900_000},
	}
	w.ledger = &fakeLedger{skus: map[string]*sale.SKU{"s": w.sku}, orders: map[sale.OrderID]sale.Order{}}
	w.shield.deduct = w.answers("")
	w.ledger.commit = w.commits("")
	c, err := New(cfg, Deps{
		Shield: guardedShield{w.shield, w.redis}, Ledger: guardedLedger{w.ledger, w.sql}, Ceiling: w.throttle, Stats: w.stats,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.checkLimits(0)
	w.Checkout = c
	return w
}

// answers makes a shield that says, per claim: A admitted, S seen, L limit, - sold out.
// Claims beyond the text are admitted. It has nothing left once it says "-".
func (w *world) answers(text string) func(context.Context, []*sale.Claim) (sale.Deduction, error) {
	return func(_ context.Context, claims []*sale.Claim) (sale.Deduction, error) {
		w.token++
		d := sale.Deduction{Loaded: true, Token: w.token, Left: 10}
		for i := range claims {
			a := sale.Admitted
			if i < len(text) {
				a = map[byte]sale.Answer{'A': sale.Admitted, 'S': sale.Seen, 'L': sale.ShieldLimit, '-': sale.ShieldSoldOut, '?': sale.NoAnswer}[text[i]]
			}
			if a == sale.ShieldSoldOut {
				d.Left = 0
			}
			d.Answers, d.Segments = append(d.Answers, a), append(d.Segments, 0)
		}
		return d, nil
	}
}

// commits makes a ledger that says, per claim: R reserved, D duplicate, C conflict,
// L limit, - sold out, p paused. Claims beyond the text are reserved.
func (w *world) commits(text string) func(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
	return func(_ context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
		var res sale.CommitResult
		for i, c := range b.Claims {
			v := sale.Verdict{Outcome: sale.Reserved}
			if i < len(text) {
				v.Outcome = map[byte]sale.Outcome{'R': sale.Reserved, 'D': sale.Duplicate, 'C': sale.Conflict, 'L': sale.LimitReached, '-': sale.SoldOut, 'p': sale.Paused}[text[i]]
			}
			switch v.Outcome {
			case sale.Reserved, sale.Duplicate:
				o := sale.NewOrder(c, b.SKU, 0, time.Now().UnixMilli())
				v.Order = &o
			case sale.SoldOut:
				res.Left = map[int]int64{0: 0}
				fallthrough
			case sale.LimitReached, sale.Conflict:
				res.Contradicted = !b.LockFirst
			}
			if v.Outcome == sale.Duplicate {
				v.Order.ReservedAt -= 60_000
				res.Contradicted = !b.LockFirst
			}
			res.Verdicts = append(res.Verdicts, v)
		}
		return res, nil
	}
}

// claims makes claims of users named by one letter each: capital letters gave a key.
func claims(users string) []*sale.Claim {
	var out []*sale.Claim
	for _, u := range users {
		user := string(u)
		out = append(out, &sale.Claim{
			ID: sale.DeriveOrderID("s", user, "key"), SKU: "s", User: user, Quantity: 1, Hash: sale.HashRequest(1, ""),
			Keyed: u < 'a', QueuedAt: time.Now().UnixMilli(),
		})
	}
	return out
}

// existing makes the ledger know an order of the user; other says that it is for
// another payload.
func (w *world) existing(user string, other bool) {
	c := claims(user)[0]
	o := sale.NewOrder(c, w.sku, 0, time.Now().UnixMilli()-1000)
	if other {
		o.Hash = sale.HashRequest(7, "other")
	}
	w.ledger.orders[c.ID] = o
}

// settle settles one batch and says what came of it, one letter per claim as commits
// has them, and: u unavailable, d degraded, ? unknown SKU, o not open, x closed.
func (w *world) settle(t *testing.T, cs []*sale.Claim) string {
	t.Helper()
	admitted := 0
	verdicts := w.Settle(t.Context(), "s", cs, func() { admitted++ })
	if admitted > 1 {
		t.Errorf("admitted was called %d times", admitted)
	}
	if len(verdicts) != len(cs) {
		t.Fatalf("%d verdicts for %d claims", len(verdicts), len(cs))
	}
	var out strings.Builder
	for _, v := range verdicts {
		if (v.Outcome == sale.NoOutcome) == (v.Err == nil) {
			t.Errorf("a verdict with outcome %q and error %v", v.Outcome, v.Err)
		}
		if (v.Outcome == sale.Reserved || v.Outcome == sale.Duplicate) && v.Order == nil {
			t.Errorf("%q without its order", v.Outcome)
		}
		switch v.Err {
		case sale.ErrUnavailable:
			out.WriteByte('u')
		case sale.ErrDegraded:
			out.WriteByte('d')
		case sale.ErrUnknownSKU:
			out.WriteByte('?')
		case nil:
			out.WriteString(map[sale.Outcome]string{
				sale.Reserved: "R", sale.Duplicate: "D", sale.Conflict: "C", sale.LimitReached: "L", sale.SoldOut: "-",
				sale.Paused: "p", sale.NotOpen: "o", sale.Closed: "x",
			}[v.Outcome])
		default:
			t.Errorf("an error that the edge does not know: %v", v.Err)
		}
	}
	return out.String()
}
