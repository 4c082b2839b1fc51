package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// sellBeside has callers sell the SKUs, one claim at a time and both ways, until each of
// them has sold n units. It returns how long the slowest claim took.
func (b *bed) sellBeside(db *DB, n int, skus ...*sale.SKU) (slowest time.Duration) {
	b.t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, sku := range skus {
		wg.Go(func() {
			for i := range n {
				make := admitted
				if i%2 == 1 {
					make = direct
				}
				began := time.Now()
				r, err := db.Commit(context.Background(), make(sku, claim(sku, fmt.Sprintf("buyer-%d", i), "k", 1)))
				took := time.Since(began)
				if err != nil || r.Verdicts[0].Outcome != sale.Reserved {
					b.t.Errorf("%s: %+v, %v", sku.Name, r.Verdicts, err)
					return
				}
				mu.Lock()
				slowest = max(slowest, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return slowest
}

// offer commits claims of the SKU from a goroutine of their own, both ways, and returns
// what waits for their verdicts.
func (b *bed) offer(ctx context.Context, db *DB, sku *sale.SKU, calls int) (wait func() (reserved int, errs []error)) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var reserved int
	var errs []error
	for i := range calls {
		make := admitted
		if i%2 == 1 {
			make = direct
		}
		wg.Go(func() {
			r, err := db.Commit(ctx, make(sku, claims(sku, fmt.Sprintf("waits-%d", i), 3)...))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			for _, v := range r.Verdicts {
				if v.Outcome == sale.Reserved {
					reserved++
				}
			}
		})
	}
	return func() (int, []error) {
		wg.Wait()
		return reserved, errs
	}
}

// others makes SKUs, some of whose names come before and some after those of the
// locked ones in the order of all locks.
func (b *bed) others(n int, limit int64) []*sale.SKU {
	skus := make([]*sale.SKU, n)
	for i := range skus {
		skus[i] = b.sku(fmt.Sprintf("%c-other-%d", "az"[i%2], i), 1000, limit)
	}
	return skus
}

// TestLockedSKUsHoldUpNoOthers holds the stock rows of several SKUs from outside, as an
// operator's transaction does: all others sell meanwhile, and those sell afterwards.
func TestLockedSKUsHoldUpNoOthers(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	others := b.others(6, 2)
	var locked []*sale.SKU
	var locks []*session
	for i := range 5 {
		locked = append(locked, b.sku(fmt.Sprintf("m-locked-%d", i), 1000, 2))
		locks = append(locks, b.lockStock(locked[i].Name))
	}
	var waits []func() (int, []error)
	for _, sku := range locked {
		waits = append(waits, b.offer(t.Context(), db, sku, 4))
	}
	slowest := b.sellBeside(db, 20, others...)
	testenv.Took(t, 4*time.Second, slowest, "the slowest claim of another SKU")
	if n := b.number("SELECT SUM(sold) FROM stock WHERE sku LIKE 'm-locked-%'"); n != 0 {
		t.Errorf("%d units were sold of locked rows", n)
	}
	for i, lock := range locks {
		lock.exec("COMMIT")
		freed := time.Now()
		if reserved, errs := waits[i](); reserved != 12 || len(errs) > 0 {
			t.Errorf("%s: %d of 12 reserved, %v", locked[i].Name, reserved, errs)
		}
		testenv.Took(t, 2*time.Second, time.Since(freed), "a SKU whose lock is gone is decided")
	}
	b.checkInvariants()
}

// apart is how many SKUs are in quarantine.
func (q *groupQueue) apart() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.quarantine)
}

// TestRowsHeldThatAreNotStock: what is held may be an order or a buyer, seen or, where
// somebody is just inserting it, not to be seen at all. Others sell meanwhile.
func TestRowsHeldThatAreNotStock(t *testing.T) {
	for what, query := range map[string]string{
		"an order":            "SELECT * FROM orders WHERE order_id = ? FOR UPDATE",
		"a buyer":             "SELECT * FROM buyers WHERE sku = 'm-held' FOR UPDATE",
		"an order to come":    "INSERT INTO orders SELECT ?, sku, segment, user_id, quantity, amount, currency, coupon, status, request_hash, reserved_at, pay_by, version FROM orders WHERE sku = 'm-held'",
		"an order that ended": "UPDATE orders SET status = 'cancelled' WHERE order_id = ?",
	} {
		t.Run(what, func(t *testing.T) {
			b := mariaBed(t)
			db := b.open()
			held := b.sku("m-held", 1000, 5)
			first := claim(held, "ann", "1", 1)
			settleGroup(t, db, admitted(held, first))
			again := first
			if what == "an order to come" {
				again = claim(held, "ann", "2", 1)
			}
			s := b.session()
			s.exec("START TRANSACTION")
			s.exec(strings.Replace(query, "?", fmt.Sprintf("x'%x'", again.ID[:]), 1))
			ways := []sale.CommitBatch{admitted(held, again), direct(held, again)}
			var wg sync.WaitGroup
			outcome := make([]sale.Outcome, len(ways))
			for i, way := range ways {
				wg.Go(func() {
					r, err := db.Commit(t.Context(), way)
					if err != nil {
						t.Error(err)
						return
					}
					outcome[i] = r.Verdicts[0].Outcome
				})
			}
			slowest := b.sellBeside(db, 10, b.others(6, 0)...)
			testenv.Took(t, 4*time.Second, slowest, "the slowest claim of another SKU")
			s.exec("ROLLBACK")
			wg.Wait()
			for _, o := range outcome {
				if o != sale.Duplicate && (o != sale.Reserved || what != "an order to come") {
					t.Errorf("%v", outcome)
				}
			}
			testenv.Eventually(t, func() bool { return db.queue.apart() == 0 }, "no SKU is left in quarantine")
			b.checkInvariants()
		})
	}
}

func gaugeOf(t *testing.T, g prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

// TestAHeldSKUAnswersInTime: a caller whose time ends hears that nothing was decided, and
// of no failure of the ledger; nothing is committed for it behind its back.
func TestAHeldSKUAnswersInTime(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	sku := b.sku("shoe", 100, 1)
	lock := b.lockStock("shoe")
	for round := range 2 { // in a group, and then in the line
		ctx, cancel := context.WithCancel(t.Context())
		wait := b.offer(ctx, db, sku, 4)
		testenv.Eventually(t, func() bool { return db.queue.apart() == 1 && gaugeOf(t, db.metrics.waiting) == 12 }, "all wait apart")
		began := time.Now()
		cancel()
		reserved, errs := wait()
		testenv.Took(t, 3*time.Second, time.Since(began), "round %d is answered", round)
		if reserved != 0 || len(errs) != 4 {
			t.Errorf("round %d: %d reserved, %v", round, reserved, errs)
		}
		for _, err := range errs {
			if !errors.Is(err, sale.ErrOverloaded) || !errors.Is(err, sale.ErrUnavailable) {
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
	if err := db.Err(); err != nil {
		t.Errorf("the ledger is said to have failed: %v", err)
	}
	yields := direct(sku, claims(sku, "y", 1)...)
	yields.Yield = true
	if _, err := db.Commit(t.Context(), yields); !errors.Is(err, errHeld) {
		t.Errorf("who yields: %v", err)
	}
	lock.exec("COMMIT")
	testenv.Eventually(t, func() bool { return db.queue.apart() == 0 }, "the SKU is let go, with nobody in its line")
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 0 {
		t.Errorf("%d orders of claims that were taken back", n)
	}
	if reserved, errs := b.offer(t.Context(), db, sku, 4)(); reserved != 12 || len(errs) > 0 {
		t.Errorf("afterwards %d reserved, %v", reserved, errs)
	}
	b.checkInvariants()
}

// TestUnknownOutcomeInQuarantine loses the reply to the commit that sets a SKU free.
func TestUnknownOutcomeInQuarantine(t *testing.T) {
	for name, set := range map[string]func(*testenv.Proxy, string) <-chan struct{}{
		"reply lost": (*testenv.Proxy).SwallowReply, "request lost": (*testenv.Proxy).CutBefore,
	} {
		t.Run(name, func(t *testing.T) {
			b, p := proxied(t)
			db := b.open()
			sku := b.sku("shoe", 100, 2)
			lock := b.lockStock("shoe")
			wait := b.offer(t.Context(), db, sku, 4)
			testenv.Eventually(t, func() bool { return db.queue.apart() == 1 }, "the SKU is in quarantine")
			sprung := set(p, ";COMMIT;")
			lock.exec("COMMIT")
			disturbed(t, sprung)
			if reserved, errs := wait(); reserved != 12 || len(errs) > 0 {
				t.Errorf("%d reserved, %v", reserved, errs)
			}
			if n := b.number("SELECT COUNT(*) FROM orders"); n != 12 {
				t.Errorf("%d orders", n)
			}
			b.checkInvariants()
		})
	}
}

// TestAHotRowIsNotHeld has several gateways queue for one row, as they do in any sale. That
// is no reason to wait apart; and who does all the same, loses nothing by it.
func TestAHotRowIsNotHeld(t *testing.T) {
	b := mariaBed(t)
	sku := b.sku("shoe", 100_000, 0)
	var ledgers []*DB
	for range 3 {
		ledgers = append(ledgers, b.open(func(c *Config) { c.MaxGroup = 32 }))
	}
	const calls, each = 60, 16
	var wg sync.WaitGroup
	for l, db := range ledgers {
		for caller := range 4 {
			wg.Go(func() {
				for i := range calls / 4 {
					batch := admitted(sku, claims(sku, fmt.Sprintf("%d-%d-%d", l, caller, i), each)...)
					if r, err := db.Commit(t.Context(), batch); err != nil || r.Verdicts[0].Outcome != sale.Reserved {
						t.Errorf("%v, %v", r.Verdicts, err)
					}
				}
			})
		}
		// One of them believes the rows to be held although nobody holds them.
		if l == 0 {
			db.queue.hold(&job{sku: sku}, wanted{sku: sku.Name}, true, shared)
		}
	}
	wg.Wait()
	for l, db := range ledgers {
		t.Logf("ledger %d: %v times in quarantine", l, count(t, db.metrics.quarantined))
		testenv.Eventually(t, func() bool { return db.queue.apart() == 0 }, "no SKU is left in quarantine")
	}
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 3*calls*each {
		t.Errorf("%d orders", n)
	}
	b.checkInvariants()
}

// TestStoppingWithAHeldSKU: a ledger that is told to stop answers what waits in
// quarantine, and ends.
func TestStoppingWithAHeldSKU(t *testing.T) {
	b := mariaBed(t)
	db := b.new()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- db.Run(ctx) }()
	testenv.Eventually(t, db.Ready, "the ledger is ready")
	sku := b.sku("shoe", 100, 1)
	b.lockStock("shoe")
	wait := b.offer(context.Background(), db, sku, 4)
	testenv.Eventually(t, func() bool { return db.queue.apart() == 1 }, "the SKU is in quarantine")
	cancel()
	if reserved, errs := wait(); reserved != 0 || len(errs) != 4 {
		t.Errorf("%d reserved, %v", reserved, errs)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestALineIsTriedByOneAtATime: a group that was begun before its SKU was put apart comes
// back while the quarantine is trying the SKU. Its calls wait their turn, and none is lost.
func TestALineIsTriedByOneAtATime(t *testing.T) {
	var q groupQueue
	q.init(100, 2)
	sku := &sale.SKU{Name: "shoe", Currency: "EUR", Segments: 1}
	begun := func(user string) *job {
		c, err := newCall(direct(sku, claim(sku, user, "1", 1)))
		if err != nil {
			t.Fatal(err)
		}
		q.arrivals++
		c.number, c.begun = q.arrivals, true
		return &job{sku: sku, parts: []part{{call: c}}}
	}
	first, second := begun("ann"), begun("bob")
	rows := wanted{sku: sku.Name}
	if !q.hold(first, rows, true, shared) {
		t.Error("the line is not new")
	}
	lines, calls := q.take([]string{sku.Name}, 10)
	if len(lines) != 1 || len(calls) != 1 {
		t.Fatalf("%d lines and %d calls are taken", len(lines), len(calls))
	}
	if q.hold(second, rows, true, shared) {
		t.Error("the line is new again")
	}
	if again, _ := q.take([]string{sku.Name}, 10); len(again) != 0 {
		t.Error("two try the line at once")
	}
	if q.hold(first, rows, false, freed); lines[0].taken || len(lines[0].calls) != 2 || lines[0].calls[0] != first.parts[0].call {
		t.Errorf("put back, the line has %d calls", len(lines[0].calls))
	}
	lines, calls = q.take([]string{sku.Name}, 1)
	if free := q.release(lines); len(calls) != 1 || len(free) != 1 || len(q.waiting.calls) != 1 || len(q.quarantine) != 0 {
		t.Errorf("%d lines are let go, and %d calls wait for a group", len(free), len(q.waiting.calls))
	}
}
