package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// proxied is a bed whose ledgers reach the server through a proxy.
func proxied(t *testing.T) (*bed, *testenv.Proxy) {
	b := mariaBed(t)
	server := testenv.MariaDB(t)
	p := testenv.NewProxy(t, server.Addr)
	b.cfg.DSN = strings.Replace(b.cfg.DSN, server.Addr, p.Addr, 1)
	return b, p
}

func TestUnknownOutcome(t *testing.T) {
	needServers(t)
	type way struct {
		name string
		make func(*sale.SKU, ...*sale.Claim) sale.CommitBatch
	}
	for _, w := range []way{{"optimistic", admitted}, {"locked", direct}} {
		for _, trap := range []string{"reply lost", "request lost"} {
			t.Run(w.name+", "+trap, func(t *testing.T) {
				b, p := proxied(t)
				db := b.open()
				sku := b.sku("shoe", 100, 1)
				set := p.SwallowReply
				if trap == "request lost" {
					set = p.CutBefore
				}
				sprung := set(";COMMIT;")
				r, err := db.Commit(t.Context(), w.make(sku, claims(sku, "u", 20)...))
				if err != nil {
					t.Fatal(err)
				}
				disturbed(t, sprung)
				for _, v := range r.Verdicts {
					if v.Outcome != sale.Reserved || v.Order == nil {
						t.Fatalf("verdict %+v", v)
					}
				}
				if r.Contradicted {
					t.Error("our own attempt counts as a contradiction")
				}
				if n := b.number("SELECT COUNT(*) FROM orders"); n != 20 {
					t.Errorf("%d orders", n)
				}
				if n := b.number("SELECT COUNT(*) FROM outbox"); n != 1 {
					t.Errorf("%d outbox rows", n)
				}
				b.checkInvariants()
			})
		}
	}
}

func TestUnknownOutcomeOfManySKUs(t *testing.T) {
	b, p := proxied(t)
	db := b.open()
	var batches []sale.CommitBatch
	for i := range 5 {
		sku := b.sku(fmt.Sprintf("s%d", i), 100, 0)
		batches = append(batches, admitted(sku, claims(sku, "u", 3)...), direct(sku, claims(sku, "d", 2)...))
	}
	lost := []<-chan struct{}{p.SwallowReply(";COMMIT;"), p.SwallowReply(";COMMIT;")}
	for i, r := range settleGroup(t, db, batches...) {
		for _, v := range r.Verdicts {
			if v.Outcome != sale.Reserved {
				t.Fatalf("batch %d: %v", i, outcomes(r))
			}
		}
	}
	for _, done := range lost {
		disturbed(t, done)
	}
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 25 {
		t.Errorf("%d orders", n)
	}
	b.checkInvariants()
}

// TestCutWhileWaitingForARow cuts a committer off while the server still
// holds its packet behind a locked row. What the new connection decides must be final.
func TestCutWhileWaitingForARow(t *testing.T) {
	b, p := proxied(t)
	db := b.open()
	sku := b.sku("shoe", 1, 0)
	lock := b.lockStock("shoe")

	var wg sync.WaitGroup
	var result sale.CommitResult
	var err error
	wg.Go(func() { result, err = db.Commit(t.Context(), admitted(sku, claims(sku, "u", 1)...)) })
	old := b.executing("INSERT INTO stock")
	p.Cut()
	testenv.Eventually(t, func() bool {
		return b.number("SELECT COUNT(*) FROM information_schema.processlist WHERE id = ?", old) == 0
	}, "the committer comes back and ends its old session, which waits for the row")
	lock.exec("UPDATE stock SET sold = total", "COMMIT")
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, result, true, "sold_out")
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 0 {
		t.Fatalf("%d orders of a claim that was refused", n)
	}
}

// TestFence: whoever holds a committer's name has ended all earlier connections of it,
// so nothing that is still on its way on one of them can be committed later.
func TestFence(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	old, err := db.pools.control.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	other, err := db.pools.control.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	fresh, err := db.pools.control.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer discard(fresh)
	d := db.dialect
	for conn, name := range map[*sql.Conn]string{old: "a", other: "b"} {
		if _, err := d.Fence(t.Context(), conn, name); err != nil {
			t.Fatal(err)
		}
	}
	if step, err := d.Fence(t.Context(), fresh, "a"); err != nil || step != 1 {
		t.Fatal(step, err)
	}
	if _, err := old.ExecContext(t.Context(), "COMMIT"); err == nil {
		t.Error("the old connection still lives")
	}
	if _, err := other.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Errorf("another committer's connection was ended: %v", err)
	}
	discard(other)
}

func TestKilledConnection(t *testing.T) {
	for name, make := range map[string]func(*sale.SKU, ...*sale.Claim) sale.CommitBatch{"optimistic": admitted, "locked": direct} {
		t.Run(name, func(t *testing.T) {
			b := mariaBed(t)
			db := b.open()
			sku := b.sku("shoe", 10, 1)
			lock := b.lockStock("shoe")
			var wg sync.WaitGroup
			var result sale.CommitResult
			var err error
			wg.Go(func() { result, err = db.Commit(t.Context(), make(sku, claims(sku, "u", 3)...)) })
			waits := map[string]string{"optimistic": "INSERT INTO stock", "locked": "FROM stock"}[name]
			b.exec(fmt.Sprintf("KILL CONNECTION %d", b.executing(waits)))
			lock.exec("ROLLBACK")
			wg.Wait()
			if err != nil {
				t.Fatal(err)
			}
			expect(t, result, false, "reserved", "reserved", "reserved")
			b.checkInvariants()
		})
	}
}

// TestFrozenGateway lets somebody stop inside a transaction that holds a SKU's rows,
// on a connection set up as ours are.
func TestFrozenGateway(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	sku, other := b.sku("shoe", 10, 0), b.sku("hat", 10, 0)
	conn, err := b.raw.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, q := range []string{"START TRANSACTION", "SELECT sold FROM stock WHERE sku = 'shoe' FOR UPDATE"} {
		if _, err := conn.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, s := range []*sale.SKU{sku, other} {
		wg.Go(func() {
			r, err := db.Commit(t.Context(), admitted(s, claims(s, "u", 2)...))
			if err != nil || r.Verdicts[1].Outcome != sale.Reserved {
				t.Errorf("%s: %v, %v", s.Name, r, err)
			}
		})
	}
	wg.Wait()
	testenv.Took(t, 5*time.Second, time.Since(start), "a SKU goes on whose rows a frozen gateway holds")
	b.checkInvariants()
}

// TestGroupLocksOnlyItsOwnRows holds rows next to those of a large group: a plan that
// scans a table would wait for them.
func TestGroupLocksOnlyItsOwnRows(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	sku, other := b.sku("shoe", 10_000, 2), b.sku("show", 10_000, 2)
	settleGroup(t, db, admitted(sku, claims(sku, "old", 3)...), admitted(other, claims(other, "old", 3)...))
	lock := b.lockStock("show")
	lock.exec("SELECT * FROM orders FOR UPDATE", "SELECT * FROM buyers FOR UPDATE", "SELECT * FROM outbox FOR UPDATE")
	for i, r := range settleGroup(t, db, direct(sku, claims(sku, "d", 1200)...), admitted(sku, claims(sku, "a", 1200)...)) {
		if v := r.Verdicts[1199]; v.Outcome != sale.Reserved {
			t.Errorf("batch %d: %v", i, v)
		}
	}
	if n := count(t, db.metrics.retries.WithLabelValues("contended")); n != 0 {
		t.Errorf("%v transactions waited in vain for rows of others", n)
	}
	lock.exec("ROLLBACK")
}

func TestDatabaseGoesAndComes(t *testing.T) {
	b, p := proxied(t)
	p.Refuse(true)
	// What was on its way when the database went is given up soon.
	db := b.new(func(c *Config) { c.Committers, c.RetryFor = 1, 100*time.Millisecond })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	defer wg.Wait()
	defer cancel()
	sku := b.sku("shoe", 100, 0)
	if _, err := db.Commit(t.Context(), admitted(sku, claims(sku, "a", 1)...)); !errors.Is(err, sale.ErrUnavailable) || db.Ready() {
		t.Fatalf("before the database was there: %v", err)
	}
	p.Refuse(false)
	testenv.Eventually(t, db.Ready, "ready")
	commit := func(prefix string) error {
		_, err := db.Commit(t.Context(), admitted(sku, claims(sku, prefix, 2)...))
		return err
	}
	if err := commit("b"); err != nil {
		t.Fatal(err)
	}
	p.Refuse(true)
	if err := commit("c"); !errors.Is(err, sale.ErrUnavailable) || db.Err() == nil {
		t.Fatalf("while the database is away: %v, %v", err, db.Err())
	}
	p.Refuse(false)
	testenv.Eventually(t, func() bool { return commit("c") == nil }, "commits again")
	if err := commit("d"); err != nil || db.Err() != nil {
		t.Fatal(err, db.Err())
	}
	b.checkInvariants()
}

func TestServerCrash(t *testing.T) {
	needServers(t)
	server := testenv.OwnMariaDB(t)
	b := newBed(t, Config{Driver: "mysql", DSN: server.DSN})
	db := b.open()
	sku := b.sku("shoe", 1_000_000, 0)
	var mu sync.Mutex
	reserved := map[sale.OrderID]bool{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for caller := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				r, err := db.Commit(context.Background(), admitted(sku, claims(sku, fmt.Sprintf("%d-%d", caller, i), 10)...))
				if err != nil {
					continue
				}
				mu.Lock()
				for _, v := range r.Verdicts {
					if v.Outcome != sale.Reserved {
						t.Errorf("verdict %v", v)
					}
					reserved[v.Order.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(reserved)
	}
	for range 2 {
		before := count()
		testenv.Eventually(t, func() bool { return count() > before+200 }, "orders are committed")
		server.Restart(t)
	}
	before := count()
	testenv.Eventually(t, func() bool { return count() > before }, "orders are committed again")
	close(stop)
	wg.Wait()
	ids := make([]sale.OrderID, 0, len(reserved))
	for id := range reserved {
		ids = append(ids, id)
	}
	found, err := db.Find(t.Context(), ids)
	if err != nil || len(found) != len(ids) {
		t.Fatalf("%d of %d reserved orders are left: %v", len(found), len(ids), err)
	}
	b.checkInvariants()
}
