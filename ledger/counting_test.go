package ledger

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// openCounting is a ledger to which a handful of orders is many.
func (b *bed) openCounting(change ...func(*Config)) *DB {
	b.t.Helper()
	db := b.new(change...)
	db.buyersChunk = 3
	b.run(db)
	return db
}

// crowded makes a SKU without a limit that n orders of some buyers have been made of.
func (b *bed) crowded(db *DB, n int) (sale.SKU, []sale.Order) {
	b.t.Helper()
	wished, stock := b.wish("shoe", 1000)
	sku, _, _ := b.put(db, wished, stock)
	orders := make([]sale.Order, n)
	for i := range orders {
		orders[i] = b.reserve(db, &sku, fmt.Sprint("user-", i%5), fmt.Sprint(i), 1+int64(i%2))
	}
	return sku, orders
}

// limit sets the SKU's limit.
func (b *bed) limit(db *DB, n int64) sale.SKU {
	b.t.Helper()
	sku, _, err := db.PatchSKU(b.t.Context(), "shoe", sale.SKUPatch{PerUserLimit: &n})
	if err != nil {
		b.t.Fatal(err)
	}
	return sku
}

func (b *bed) commit(db *DB, batch sale.CommitBatch) sale.CommitResult {
	b.t.Helper()
	r, err := db.Commit(b.t.Context(), batch)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bed) step(db *DB) {
	b.t.Helper()
	if err := db.countStep(b.t.Context(), "shoe"); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) count(db *DB) {
	b.t.Helper()
	if err := db.CountBuyers(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if n := b.number("SELECT COUNT(*) FROM buyer_work"); n != 0 {
		b.t.Errorf("%d SKUs have work left", n)
	}
}

// The first limit of a SKU with many orders is answered at once; until they are counted
// nobody can buy, whatever a gateway has heard of, and then the limit holds.
func TestFirstLimitOnManyOrders(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.openCounting()
		free, orders := b.crowded(db, 20)
		limited := b.limit(db, 7)
		if !limited.Counting || limited.ShownState() != sale.StatePaused || limited.State != sale.StateOpen || limited.Version != 2 {
			t.Errorf("%+v", limited)
		}
		if n := b.number("SELECT COUNT(*) FROM buyers"); n != 0 {
			t.Errorf("%d buyers were counted inside the call", n)
		}
		wish, stock := limited, sale.Stock{Total: 1000}
		if again, _, _, err := db.PutSKU(t.Context(), wish, stock, sale.Expect{}); err != nil || again != limited {
			t.Errorf("repeated: %+v, %v", again, err)
		}
		for _, sku := range []*sale.SKU{&free, &limited} {
			expect(t, b.commit(db, admitted(sku, claim(sku, "new", "1", 1))), false, "paused")
		}
		for b.number("SELECT COUNT(*) FROM buyer_work") > 0 {
			b.step(db)
			b.clean(db)
		}
		sku, err := db.SKU(t.Context(), "shoe")
		if err != nil || sku.Counting || sku.ShownState() != sale.StateOpen || sku.Version != 3 || sku.PerUserLimit != 7 {
			t.Fatalf("%+v, %v", sku, err)
		}
		// user-0 has 6 units: two orders of one and two of two.
		expect(t, b.commit(db, admitted(sku, claim(sku, "user-0", "x", 2))), true, "limit_reached")
		expect(t, b.commit(db, admitted(sku, claim(sku, "user-0", "y", 1), claim(sku, "new", "1", 7))), false, "reserved", "reserved")
		b.cancel(db, &orders[0])
		b.checkInvariants()
		b.checkBuyers()
		b.clean(db)
	})
}

// Whoever holds more than the limit keeps it.
func TestWhoHoldsMoreThanAFirstLimit(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.openCounting()
		b.crowded(db, 20)
		b.limit(db, 2)
		b.count(db)
		if n := b.number("SELECT COUNT(*) FROM buyers WHERE unit_limit = units AND units = 6"); n != 5 {
			t.Errorf("%d buyers are as they should be", n)
		}
		b.clean(db)
	})
}

// What becomes of orders while they are counted is counted, wherever the counting has
// come to, and so is whatever operators do meanwhile: the audit finds nothing wrong at
// any moment.
func TestOrdersChangeWhileTheyAreCounted(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			onEach(t, func(t *testing.T, b *bed) { changeWhileCounting(t, b, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func changeWhileCounting(t *testing.T, b *bed, r *rand.Rand) {
	db := b.openCounting()
	_, orders := b.crowded(db, 24)
	token := b.lead(db)
	b.limit(db, 3)
	for i := range 60 {
		o := &orders[r.IntN(len(orders))]
		what := "step"
		var err error
		switch r.IntN(12) {
		case 0, 1:
			what = "cancel"
			if _, err = db.Cancel(t.Context(), o.ID, o.User); errors.Is(err, sale.ErrAlreadyPaid) || errors.Is(err, sale.ErrOrderExpired) {
				err = nil
			}
		case 2, 3:
			what = "pay" // or take again
			_, err = db.Pay(t.Context(), paymentOf(o, fmt.Sprint("event-", i)))
		case 4:
			what = "expire"
			b.exec("UPDATE orders SET pay_by = 1 WHERE order_id = ?", o.ID[:])
			b.exec("UPDATE due SET pay_by = 1 WHERE ids = ?", o.ID[:])
			err = db.Expire(t.Context(), token)
		case 5:
			what = "restore"
			lost := sale.Order{
				ID: sale.DeriveOrderID("shoe", "lost", fmt.Sprint(i)), SKU: "shoe", User: fmt.Sprint("user-", i%5), Quantity: 1, Amount: 500,
				Currency: "EUR", Status: sale.StatusReserved, ReservedAt: o.ReservedAt, PayBy: db.Now() + 900_000, Version: 1,
			}
			var results []sale.RestoreResult
			if results, err = db.RestoreOrders(t.Context(), []sale.Order{lost}); err == nil && results[0] == sale.RestoreDone {
				orders = append(orders, lost)
			}
		case 6:
			what = "limit"
			b.limit(db, int64(r.IntN(4)))
		default:
			b.step(db)
		}
		if err != nil {
			t.Fatalf("%d, %s: %v", i, what, err)
		}
		if found := b.findings(db); len(found) > 0 {
			t.Fatalf("%d, after %s: %v", i, what, found)
		}
	}
	b.limit(db, 3)
	b.count(db)
	b.clean(db)
	b.checkBuyers()
	if sku, err := db.SKU(t.Context(), "shoe"); err != nil || sku.Counting || sku.Gate(db.Now()) != sale.Reserved {
		t.Errorf("%+v, %v", sku, err)
	}
}

// Two gateways count at once, while buyers cancel and pay.
func TestTwoCountWhileBuyersGoOn(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		dbs := []*DB{b.openCounting(), nil}
		if dbs[1] = dbs[0]; b.cfg.Driver != "sqlite" { // which one process has to itself
			dbs[1] = b.openCounting()
		}
		_, orders := b.crowded(dbs[0], 90)
		b.limit(dbs[0], 10)
		var wg sync.WaitGroup
		for w, db := range dbs {
			wg.Go(func() {
				if err := db.CountBuyers(t.Context()); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				for i := w; i < len(orders); i += 2 {
					o := &orders[i]
					if _, err := db.Cancel(t.Context(), o.ID, o.User); err != nil {
						t.Error(err)
					}
					if i%3 == 0 {
						if _, err := db.Pay(t.Context(), paymentOf(o, fmt.Sprint(i))); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		b.count(dbs[0])
		b.clean(dbs[0])
		b.checkInvariants()
		b.checkBuyers()
	})
}

// The gateway that counts dies in the middle, before and after a commit; another one goes
// on, and counts no order twice.
func TestWhoCountsDies(t *testing.T) {
	needServers(t)
	for _, trap := range []string{"request lost", "reply lost"} {
		t.Run(trap, func(t *testing.T) {
			b, p := proxied(t)
			db := b.openCounting(func(c *Config) { c.RetryFor = time.Millisecond })
			b.cfg.DSN = strings.Replace(b.cfg.DSN, p.Addr, testenv.MariaDB(t).Addr, 1)
			other := b.openCounting()
			_, orders := b.crowded(other, 20)
			b.limit(other, 9)
			b.step(db) // nothing to clear
			b.step(db)
			set := p.CutBefore
			if trap == "reply lost" {
				set = p.SwallowReply
			}
			sprung := set("INSERT INTO buyers (sku,user_id,units,unit_limit) SELECT sku")
			var wg sync.WaitGroup
			wg.Go(func() {
				<-sprung
				p.Refuse(true)
			})
			_ = db.countStep(t.Context(), "shoe") // how it ended is nobody's to know
			wg.Wait()
			b.cancel(other, &orders[3])
			b.clean(other)
			b.count(other)
			b.clean(other)
			b.checkInvariants()
			b.checkBuyers()
		})
	}
}

// A limit that is taken away leaves its rows to be deleted while the sale goes on; set
// again meanwhile, it is counted from the orders and not from those rows.
func TestALimitIsTakenAwayFromManyBuyers(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.openCounting()
		_, orders := b.crowded(db, 20)
		b.limit(db, 9)
		b.count(db)
		free := b.limit(db, 0)
		if free.Counting || b.number("SELECT COUNT(*) FROM buyers") != 5 {
			t.Errorf("%+v, %d rows", free, b.number("SELECT COUNT(*) FROM buyers"))
		}
		if out := b.buy(db, &free, "user-0", "many", 20); out != sale.Reserved {
			t.Error(out)
		}
		b.cancel(db, &orders[0])
		b.clean(db)
		b.step(db)
		if n := b.number("SELECT COUNT(*) FROM buyers"); n != 2 {
			t.Errorf("%d rows after a step", n)
		}
		b.limit(db, 30)
		b.count(db)
		b.clean(db)
		b.checkBuyers()
		b.limit(db, 0)
		b.count(db)
		if n := b.number("SELECT COUNT(*) FROM buyers"); n != 0 {
			t.Errorf("%d rows of a limit that is gone", n)
		}
	})
}

// TestFirstLimitOnThreeHundredThousandOrders measures how long the operator waits, and
// whoever buys another SKU or cancels an order of this one.
func TestFirstLimitOnThreeHundredThousandOrders(t *testing.T) {
	testenv.LongTier(t)
	const many = 300_000
	b := mariaBed(t)
	db := b.open()
	wished, stock := b.wish("shoe", many+10)
	sku, _, _ := b.put(db, wished, stock)
	o := b.reserve(db, &sku, "ann", "1", 1)
	b.exec(`INSERT INTO orders (order_id, sku, segment, user_id, quantity, amount, currency, coupon, status, request_hash, reserved_at, pay_by)
		SELECT CONCAT(UNHEX(LEFT(SHA2('shoe', 256), 10)), LEFT(UNHEX(MD5(seq)), 11)), 'shoe', 0, CONCAT('user-', seq % 250000), 1, 500, 'EUR', '', 'paid', REPEAT('x', 8), 1 + seq DIV 500, 1 FROM seq_1_to_300000`)
	b.exec("UPDATE stock SET sold = sold + ?", many)
	other := b.sku("other", 1_000_000, 1)
	done := make(chan struct{})
	var wg sync.WaitGroup
	var longest time.Duration
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			began := time.Now()
			if _, err := db.Commit(t.Context(), admitted(other, claims(other, fmt.Sprint("u", i), 10)...)); err != nil {
				t.Error(err)
			}
			longest = max(longest, time.Since(began))
		}
	})
	began := time.Now()
	limited := b.limit(db, 2)
	testenv.Took(t, time.Second, time.Since(began), "a first limit on %d orders is answered", many)
	if !limited.Counting {
		t.Error("it was counted inside the call")
	}
	counted := make(chan error, 1)
	began = time.Now()
	wg.Go(func() { counted <- db.CountBuyers(t.Context()) })
	testenv.Eventually(t, func() bool { return b.number("SELECT COUNT(*) FROM buyers") > 0 }, "the counting has begun")
	cancelled := time.Now()
	b.cancel(db, &o)
	testenv.Took(t, time.Second, time.Since(cancelled), "an order is cancelled meanwhile")
	if err := <-counted; err != nil {
		t.Fatal(err)
	}
	testenv.Took(t, time.Minute, time.Since(began), "%d orders are counted", many)
	close(done)
	wg.Wait()
	testenv.Took(t, 2*time.Second, longest, "the longest of another SKU's groups meanwhile")
	if n := b.number("SELECT SUM(units) FROM buyers WHERE sku = 'shoe'"); n != many {
		t.Errorf("%d units counted", n)
	}
	began = time.Now()
	b.limit(db, 0)
	testenv.Took(t, time.Second, time.Since(began), "the limit is taken away again")
	b.count(db)
}
