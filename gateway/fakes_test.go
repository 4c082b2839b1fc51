package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// fakeQueue answers each claim as its rule says; without a rule, claims wait.
type fakeQueue struct {
	mu      sync.Mutex
	rule    func(*sale.Claim) (sale.Verdict, bool)
	refuse  error
	waiting map[sale.OrderID]*sale.Ticket
	joined  []*sale.Claim
	async   []bool
	taken   atomic.Int64
	number  int64
	depth   int
	rate    float64
}

func (q *fakeQueue) Join(c *sale.Claim, async bool) (*sale.Ticket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refuse != nil {
		return nil, q.refuse
	}
	q.joined = append(q.joined, c)
	q.async = append(q.async, async)
	q.number++
	t := sale.NewTicket(c, q.number, &q.taken)
	if async {
		t.Detach()
	}
	if q.rule != nil {
		if v, ok := q.rule(c); ok {
			t.Resolve(v)
			return t, nil
		}
	}
	if q.waiting == nil {
		q.waiting = make(map[sale.OrderID]*sale.Ticket)
	}
	q.waiting[c.ID] = t
	return t, nil
}

func (q *fakeQueue) Find(id sale.OrderID) *sale.Ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting[id]
}

// forget takes the claim off its line, as its verdict does.
func (q *fakeQueue) forget(id sale.OrderID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, id)
}

func (q *fakeQueue) Depth(string) int    { return q.depth }
func (q *fakeQueue) Rate(string) float64 { return q.rate }
func (q *fakeQueue) last() *sale.Claim {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.joined[len(q.joined)-1]
}
func (q *fakeQueue) lastWasAsync() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.async[len(q.async)-1]
}
func (q *fakeQueue) answer(v sale.Verdict) {
	q.rule = func(*sale.Claim) (sale.Verdict, bool) { return v, true }
}

// fakeLedger is a ledger in maps.
type fakeLedger struct {
	mu     sync.Mutex
	now    int64
	skus   map[string]*sale.SKU
	stock  map[string]sale.Stock
	orders map[sale.OrderID]sale.Order
	err    error
	reads  int
	finds  [][]sale.OrderID
	paid   map[string]paidEvent
	added  map[string]int64 // by SKU and key
}

func (l *fakeLedger) Now() int64 { return l.now }

func (l *fakeLedger) SKU(_ context.Context, name string) (*sale.SKU, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := l.skus[name]; ok {
		return s, nil
	}
	if l.err != nil {
		return nil, l.err
	}
	return nil, fmt.Errorf("sku %s: %w", name, sale.ErrUnknownSKU)
}

func (l *fakeLedger) Order(_ context.Context, id sale.OrderID) (sale.Order, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return sale.Order{}, l.err
	}
	if o, ok := l.orders[id]; ok {
		return o, nil
	}
	return sale.Order{}, sale.ErrUnknownOrder
}

func (l *fakeLedger) Find(_ context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finds = append(l.finds, slices.Clone(ids))
	if l.err != nil {
		return nil, l.err
	}
	found := make(map[sale.OrderID]sale.Order)
	for _, id := range ids {
		if o, ok := l.orders[id]; ok {
			found[id] = o
		}
	}
	return found, nil
}

// put sets an order's row; its version rises.
func (l *fakeLedger) put(o sale.Order, status sale.Status) sale.Order {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write(o, status)
}

func (l *fakeLedger) write(o sale.Order, status sale.Status) sale.Order {
	if old, ok := l.orders[o.ID]; ok {
		o.Version = old.Version + 1
	}
	o.Status = status
	l.orders[o.ID] = o
	return o
}

func (l *fakeLedger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// Pay does what the ledger does, without stock.
func (l *fakeLedger) Pay(_ context.Context, p sale.Payment) (sale.PaymentResult, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return sale.PaymentResult{}, l.err
	}
	o, ok := l.orders[p.OrderID]
	old, again := l.paid[p.EventID]
	switch {
	case again && old.payment != p:
		return sale.PaymentResult{}, sale.ErrPaymentMismatch
	case !ok:
		return sale.PaymentResult{}, sale.ErrUnknownOrder
	case again:
		return sale.PaymentResult{Outcome: old.outcome, Order: o, Repeated: true}, nil
	case p.Amount != o.Amount || p.Currency != o.Currency:
		return sale.PaymentResult{}, sale.ErrPaymentMismatch
	}
	r := sale.PaymentResult{Outcome: sale.PaymentRefund, Order: o}
	switch {
	case !p.Succeeded:
		r.Outcome = sale.PaymentFailed
	case o.Status == sale.StatusReserved:
		r.Outcome, r.Order = sale.PaymentApplied, l.write(o, sale.StatusPaid)
	}
	if l.paid == nil {
		l.paid = make(map[string]paidEvent)
	}
	l.paid[p.EventID] = paidEvent{p, r.Outcome}
	return r, nil
}

type paidEvent struct {
	payment sale.Payment
	outcome sale.PaymentOutcome
}

func (l *fakeLedger) Cancel(_ context.Context, id sale.OrderID, user string) (sale.Order, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return sale.Order{}, l.err
	}
	o, ok := l.orders[id]
	switch {
	case !ok || o.User != user:
		return sale.Order{}, sale.ErrUnknownOrder
	case o.Status == sale.StatusPaid:
		return sale.Order{}, sale.ErrAlreadyPaid
	case o.Status == sale.StatusExpired:
		return sale.Order{}, sale.ErrOrderExpired
	case o.Status == sale.StatusReserved:
		o = l.write(o, sale.StatusCancelled)
	}
	return o, nil
}

func (l *fakeLedger) Stock(_ context.Context, sku string) (map[int]sale.Stock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	return map[int]sale.Stock{0: l.stock[sku], 1: {}}, l.err
}

// fakeShield remembers in a map.
type fakeShield struct {
	mu   sync.Mutex
	kept map[sale.OrderID]sale.Order
	err  error
}

func (s *fakeShield) Remember(_ context.Context, orders []sale.Order, _ time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range orders {
		s.kept[o.ID] = o
	}
	return s.err
}

func (s *fakeShield) Recall(_ context.Context, id sale.OrderID) (sale.Order, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.kept[id]
	return o, ok, s.err
}

func (s *fakeShield) RecallAll(_ context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[sale.OrderID]sale.Order)
	for _, id := range ids {
		if o, ok := s.kept[id]; ok {
			out[id] = o
		}
	}
	return out, s.err
}

func (s *fakeShield) Left(context.Context, *sale.SKU) (int64, bool, error) {
	return 7, s.err == nil, s.err
}

func (s *fakeShield) keep(o sale.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[o.ID] = o
}

func (s *fakeShield) has(id sale.OrderID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.kept[id]
	return ok
}

type fakeSoldOut struct{ all atomic.Bool }

func (s *fakeSoldOut) SoldOut(string) bool { return s.all.Load() }

type fakeBreakers struct {
	status []sale.BreakerStatus
	err    error // of orders for all gateways
}

func (b *fakeBreakers) Breakers() []sale.BreakerStatus { return b.status }

func (b *fakeBreakers) ForceBreaker(_ context.Context, scope sale.BreakerScope, o sale.BreakerOrder) (sale.BreakerStatus, error) {
	if scope == sale.ScopeFleet && b.err != nil {
		return sale.BreakerStatus{}, b.err
	}
	for i := range b.status {
		if s := &b.status[i]; s.Name == o.Name {
			s.Mode, s.Scope, s.Reason, s.Until, s.By = o.Mode, scope, o.Reason, o.Until, "here/1"
			return *s, nil
		}
	}
	return sale.BreakerStatus{}, sale.ErrInvalid
}

type fakePaths struct{}

func (fakePaths) Path(*sale.SKU) string { return "shield" }

type fakeReadiness struct {
	ready   atomic.Bool
	details []string
}

func (r *fakeReadiness) Details() []string { return r.details }

func (r *fakeReadiness) Ready() bool { return r.ready.Load() }

// fakeLog keeps entries as the ledger does.
type fakeLog struct {
	entries []sale.LogEntry // by id
	err     error
}

func (l *fakeLog) OperatorLog(_ context.Context, target string, before int64, limit int) ([]sale.LogEntry, error) {
	var page []sale.LogEntry
	for _, e := range slices.Backward(l.entries) {
		if len(page) < limit && (before == 0 || e.ID < before) && (target == "" || e.Target == target) {
			page = append(page, e)
		}
	}
	return page, l.err
}

func (l *fakeLog) NoteOperator(ctx context.Context, action, target, became string) error {
	o := sale.OperatorOf(ctx)
	l.entries = append(l.entries, sale.LogEntry{ID: int64(len(l.entries) + 1), At: testNow, By: o.Name, Why: o.Why, Action: action, Target: target, After: became})
	return l.err
}

type fakeAuditor struct {
	err   error
	since sale.AuditPosition
	// endless, when set, has an audit last until its context ends; it is told when one begins
	// and when it ends.
	endless chan string
}

func (a *fakeAuditor) Audit(ctx context.Context, since sale.AuditPosition) ([]byte, error) {
	a.since = since
	if a.endless != nil {
		a.endless <- "begins"
		<-ctx.Done()
		a.endless <- "ends"
		return nil, sale.ErrUnavailable
	}
	return []byte(`{"broken":[]}`), a.err
}

// world is a gateway and the fakes around it.
type world struct {
	queue    *fakeQueue
	ledger   *fakeLedger
	shield   *fakeShield
	soldOut  *fakeSoldOut
	breakers *fakeBreakers
	ready    *fakeReadiness
	auditor  *fakeAuditor
	log      *fakeLog
	g        *Gateway
}

const (
	testAdminKey = "operators-key"
	testNow      = 1_700_000_000_000
)

func testSKU(name string) *sale.SKU {
	s := newSKU(name, 15*time.Minute)
	s.UnitPrice, s.Currency = 1999, "EUR"
	return &s
}

const testWriteTimeout = 30 * time.Second

func testConfig() Config {
	return Config{
		Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", AdminKey: testAdminKey,
		Wait: 2 * time.Second, MaxWait: 4 * time.Second, VerdictTTL: 10 * time.Minute, PayWithin: 15 * time.Minute,
		BodyLimit: 16 << 10, HeaderLimit: 4 << 10, MaxConnections: 16384,
		ReadTimeout: testenv.Patience, WriteTimeout: testWriteTimeout, IdleTimeout: testenv.Patience, ShutdownTimeout: testenv.Patience,
		Limits: Limits{MaxEntries: 1 << 16}, Payments: Payments{Tolerance: 5 * time.Minute},
		TrustedProxies: []string{"127.0.0.0/8", "0.0.0.0"}, Auth: Auth{Mode: authHeader},
		Logger: slog.New(slog.DiscardHandler),
	}
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	early, paused, closed := testSKU("early"), testSKU("paused"), testSKU("closed")
	early.OpensAt = testNow + 60_000
	paused.State = sale.StatePaused
	closed.ClosesAt = testNow - 1
	w := &world{
		queue: &fakeQueue{},
		ledger: &fakeLedger{
			added:  map[string]int64{},
			now:    testNow,
			skus:   map[string]*sale.SKU{"phone": testSKU("phone"), "early": early, "paused": paused, "closed": closed},
			stock:  map[string]sale.Stock{"phone": {Total: 100, Reserved: 10, Sold: 40}, "early": {Total: 1}, "paused": {Total: 1}, "closed": {Total: 1}},
			orders: map[sale.OrderID]sale.Order{},
		},
		shield:   &fakeShield{kept: map[sale.OrderID]sale.Order{}},
		soldOut:  &fakeSoldOut{},
		breakers: &fakeBreakers{status: []sale.BreakerStatus{{Name: "redis", State: "closed", Mode: sale.BreakerAuto, Since: testNow}}},
		ready:    &fakeReadiness{},
		auditor:  &fakeAuditor{},
		log:      &fakeLog{},
	}
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg, w.deps())
	if err != nil {
		t.Fatal(err)
	}
	w.g = g
	return w
}

func (w *world) deps() Deps {
	return Deps{
		Queue: w.queue, SoldOut: w.soldOut, Ledger: w.ledger, Orders: w.ledger, Catalogue: w.ledger, Shield: w.shield,
		Breakers: w.breakers, Paths: fakePaths{}, Readiness: w.ready, Auditor: w.auditor, Log: w.log,
	}
}

// reserved is what the queue answers when the ledger took the claim.
func reserved(c *sale.Claim) (sale.Verdict, bool) {
	o := sale.NewOrder(c, testSKU(c.SKU), 0, testNow)
	return sale.Verdict{Outcome: sale.Reserved, Order: &o}, true
}

var errElse = errors.New("something else")
