package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// TestTenThousandDueAtOnce holds the promise that expiry is at most 3 s late, with the
// job running twice a second as it does in a gateway.
func TestTenThousandDueAtOnce(t *testing.T) {
	const orders, skus = 10_000, 50
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		token := b.lead(db)
		var wg sync.WaitGroup
		for n := range skus {
			sku := b.sku(fmt.Sprintf("sku-%d", n), orders/skus, int64(n%2*5))
			wg.Go(func() {
				if _, err := db.Commit(t.Context(), admitted(sku, claims(sku, "user", orders/skus)...)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// They fall due within the next half second, some rows at a time.
		at := db.Now() + 500
		b.exec("UPDATE orders SET pay_by = ?", at)
		b.exec("UPDATE due SET pay_by = ?", at)
		ended := 0
		var work time.Duration
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for hang := time.Now().Add(testenv.Patience); ended < orders; <-tick.C {
			start := time.Now()
			got, err := db.expireDue(t.Context(), token, 2000, db.Now())
			if err != nil {
				t.Fatal(err)
			}
			for len(got) >= 2000 {
				ended += len(got)
				if got, err = db.expireDue(t.Context(), token, 2000, db.Now()); err != nil {
					t.Fatal(err)
				}
			}
			ended += len(got)
			work += time.Since(start)
			if time.Now().After(hang) {
				t.Fatalf("expiry stands still: %d of %d have ended", ended, orders)
			}
		}
		late := time.Duration(db.Now()-at) * time.Millisecond
		testenv.Took(t, 3*time.Second, late, "%d orders due at once have expired (%v of it at work)", orders, work)
		if n := b.number("SELECT SUM(sold) FROM stock"); n != 0 {
			t.Errorf("%d units are still sold", n)
		}
		b.clean(db)
	})
}

func TestExpiryStopsNearItsLimit(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		token := b.lead(db)
		sku := b.sku("shoe", 100, 0)
		for i := range 20 {
			if _, err := db.Commit(t.Context(), admitted(sku, claims(sku, fmt.Sprint(i), 5)...)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := db.expireDue(t.Context(), token, 10, db.Now()); err != nil || len(got) != 0 {
			t.Errorf("%d ended before they were due, %v", len(got), err)
		}
		b.overdue(db)
		got, err := db.expireDue(t.Context(), token, 10, db.Now())
		if err != nil || len(got) < 10 {
			t.Errorf("%d ended, %v", len(got), err)
		}
		for _, o := range got {
			if stored, err := db.Order(t.Context(), o.ID); err != nil || stored != o {
				t.Errorf("returned %+v, stored %+v, %v", o, stored, err)
			}
		}
		b.expireAll(db)
		if n := b.number("SELECT COUNT(*) FROM orders WHERE status = 'expired'"); n != 100 {
			t.Errorf("%d ended", n)
		}
		b.clean(db)
	})
}

// TestExpiryUnderAnotherLease is a leader that was frozen past its lease.
func TestExpiryUnderAnotherLease(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 10, 2)
		o := b.reserve(db, sku, "ann", "1", 2)
		b.overdue(db)
		still := func(err error) {
			t.Helper()
			if !errors.Is(err, sale.ErrLeaseLost) {
				t.Errorf("%v", err)
			}
			if got, err := db.Order(t.Context(), o.ID); err != nil || got.Status != sale.StatusReserved {
				t.Errorf("the order is %v, %v", got.Status, err)
			}
			if n := b.number("SELECT COUNT(*) FROM due"); n != 1 {
				t.Errorf("%d rows on the due list", n)
			}
			b.clean(db)
		}
		_, err := db.expireDue(t.Context(), 1, 10, db.Now())
		still(err) // nobody ever had the lease
		token := b.lead(db)
		_, err = db.expireDue(t.Context(), token-1, 10, db.Now())
		still(err)
		_, err = db.expireDue(t.Context(), token+1, 10, db.Now())
		still(err)

		// The lease changes hands after the leader has looked at it, and before its
		// transaction: the guard waits for the new holder's commit and sees it.
		other := b.session()
		other.exec(db.dialect.Begin(), "UPDATE job_leases SET token = token + 1 WHERE name = '"+ExpireJob+"'")
		done := make(chan error, 1)
		go func() {
			_, err := db.expireDue(t.Context(), token, 10, db.Now())
			done <- err
		}()
		if b.cfg.Driver == "sqlite" {
			testenv.Eventually(t, func() bool { return len(db.writer) == 1 }, "the leader begins")
		} else {
			b.executing("FROM job_leases WHERE name='" + ExpireJob + "'")
		}
		select {
		case err := <-done:
			t.Errorf("it did not wait for the lease: %v", err)
		default:
		}
		other.exec("COMMIT")
		still(<-done)

		if got, err := db.expireDue(t.Context(), token+1, 10, db.Now()); err != nil || len(got) != 1 {
			t.Errorf("the present leader ended %d orders, %v", len(got), err)
		}
	})
}

// TestExpiryOfBrokenRows has one SKU whose rows contradict each other among others.
func TestExpiryOfBrokenRows(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		token := b.lead(db)
		var wg sync.WaitGroup
		for _, name := range []string{"a", "broken", "c", "gone"} {
			sku := b.sku(name, 10, 2)
			wg.Go(func() {
				if _, err := db.Commit(t.Context(), admitted(sku, claims(sku, "user", 3)...)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		b.exec("UPDATE stock SET sold = 1 WHERE sku = 'broken'")
		b.exec("DELETE FROM stock WHERE sku = 'gone'")
		b.overdue(db)
		for i, want := range []int{6, 0} {
			got, err := db.expireDue(t.Context(), token, 100, db.Now())
			if !errors.Is(err, errRefused) || !errors.Is(err, sale.ErrPartly) || len(got) != want {
				t.Errorf("round %d: %d ended, %v", i, len(got), err)
			}
		}
		if n := b.number("SELECT COUNT(*) FROM due"); n == 0 {
			t.Error("what could not be ended was forgotten")
		}
		b.exec("UPDATE stock SET sold = 3 WHERE sku = 'broken'")
		b.exec("INSERT INTO stock (sku, segment, total, reserved, sold, sku_version) VALUES ('gone', 0, 10, 0, 3, 1)")
		if got, err := db.expireDue(t.Context(), token, 100, db.Now()); err != nil || len(got) != 6 {
			t.Errorf("once repaired: %d ended, %v", len(got), err)
		}
		if n := b.number("SELECT COUNT(*) FROM due"); n != 0 {
			t.Errorf("%d rows are left on the due list", n)
		}
		b.clean(db)
	})
}

// TestPayingAtTheLastMoment pays while the job ends thousands of orders: both get on.
func TestPayingAtTheLastMoment(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		token := b.lead(db)
		sku := b.sku("shoe", 3000, 0)
		orders := make([]sale.Order, 0, 3000)
		for i := range 6 {
			r, err := db.Commit(t.Context(), admitted(sku, claims(sku, fmt.Sprint(i), 500)...))
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range r.Verdicts {
				orders = append(orders, *v.Order)
			}
		}
		b.overdue(db)
		var wg sync.WaitGroup
		applied, retaken := make([]int, 4), make([]int, 4)
		for w := range 4 {
			wg.Go(func() {
				for i := w; i < 400; i += 4 {
					o := &orders[len(orders)-1-i*7]
					r, err := db.Pay(t.Context(), paymentOf(o, o.ID.String()))
					if err != nil {
						t.Error(err)
						return
					}
					switch r.Outcome {
					case sale.PaymentApplied:
						applied[w]++
					case sale.PaymentRetaken:
						retaken[w]++
					default:
						t.Errorf("%v", r.Outcome)
					}
				}
			})
		}
		got, err := db.expireDue(context.WithoutCancel(t.Context()), token, 100_000, db.Now())
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		a, r := 0, 0
		for w := range 4 {
			a, r = a+applied[w], r+retaken[w]
		}
		t.Logf("%d paid in time, %d after expiry, %d ended", a, r, len(got))
		if a+len(got) != 3000 {
			t.Errorf("%d paid in time and %d ended are not all", a, len(got))
		}
		b.clean(db)
	})
}
