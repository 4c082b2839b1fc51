package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// force runs SQL that no constraint refuses.
func (b *bed) force(query string, args ...any) {
	b.t.Helper()
	conn, err := b.raw.Conn(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	off, on := "SET check_constraint_checks=OFF", "SET check_constraint_checks=ON"
	if b.cfg.Driver == "sqlite" {
		off, on = "PRAGMA ignore_check_constraints=ON", "PRAGMA ignore_check_constraints=OFF"
	}
	for i, q := range []string{off, query, on} {
		a := args
		if i != 1 {
			a = nil
		}
		if _, err := conn.ExecContext(context.Background(), q, a...); err != nil {
			b.t.Fatalf("%s: %v", q, err)
		}
	}
}

// TestEachCheckFindsItsOwn breaks one invariant at a time.
func TestEachCheckFindsItsOwn(t *testing.T) {
	breaks := []struct {
		check string
		// order says that the finding names ann's order.
		order bool
		how   func(b *bed, db *DB, o *sale.Order)
	}{
		{"stock_sold", false, func(b *bed, _ *DB, _ *sale.Order) { b.exec("UPDATE stock SET sold = sold + 1 WHERE sku = 'shoe'") }},
		{"stock_bounds", false, func(b *bed, _ *DB, _ *sale.Order) { b.force("UPDATE stock SET total = 1 WHERE sku = 'shoe'") }},
		{"buyer_units", false, func(b *bed, _ *DB, _ *sale.Order) { b.exec("UPDATE buyers SET units = 1 WHERE user_id = 'ann'") }},
		{"buyer_units", false, func(b *bed, _ *DB, _ *sale.Order) { b.exec("DELETE FROM buyers WHERE user_id = 'ann'") }},
		{"buyer_limit", false, func(b *bed, _ *DB, _ *sale.Order) {
			b.force("UPDATE buyers SET unit_limit = 1 WHERE user_id = 'ann'")
		}},
		{"order_log", true, func(b *bed, _ *DB, o *sale.Order) {
			b.exec("INSERT INTO stock_moves (order_id, reason, sku, segment, delta, at) VALUES (?, 'cancelled', 'shoe', 0, 2, 1)", o.ID[:])
		}},
		{"order_log", true, func(b *bed, db *DB, o *sale.Order) {
			b.cancel(db, o)
			b.exec("DELETE FROM stock_moves WHERE order_id = ?", o.ID[:])
		}},
		{"order_log", true, func(b *bed, db *DB, o *sale.Order) {
			b.cancel(db, o)
			b.exec("UPDATE stock_moves SET segment = 1 WHERE order_id = ?", o.ID[:])
		}},
		{"log_orders", false, func(b *bed, _ *DB, _ *sale.Order) {
			b.exec("INSERT INTO stock_moves (order_id, reason, sku, segment, delta, at) VALUES (?, 'expired', 'shoe', 0, 2, 1)", make([]byte, 16))
		}},
		{"archived_units", false, func(b *bed, db *DB, o *sale.Order) {
			b.pay(db, paymentOf(o, "evt"), sale.PaymentApplied)
			b.close(db, "shoe")
			b.retain(db, keepArchive)
			b.exec("UPDATE stock SET archived = 1, sold = 1 WHERE sku = 'shoe'")
		}},
		{"archived_orders", true, func(b *bed, db *DB, o *sale.Order) {
			b.cancel(db, o)
			b.close(db, "shoe")
			b.retain(db, keepArchive)
			b.exec("UPDATE skus SET state = 'open' WHERE sku = 'shoe'")
		}},
		{"archived_orders", true, func(b *bed, _ *DB, o *sale.Order) {
			b.exec("INSERT INTO orders_archive SELECT * FROM orders WHERE order_id = ?", o.ID[:])
		}},
		{"order_stock", true, func(b *bed, _ *DB, _ *sale.Order) { b.exec("DELETE FROM stock WHERE sku = 'shoe'") }},
		{"outbox_age", false, func(b *bed, db *DB, _ *sale.Order) { b.exec("UPDATE outbox SET at = at - 7200000") }},
		{"payment_orders", false, func(b *bed, _ *DB, _ *sale.Order) {
			b.exec("INSERT INTO payments (event_id, order_id, outcome, status, amount, currency, at) VALUES ('x', ?, 'refund', 'succeeded', 1, 'EUR', 1)", make([]byte, 16))
		}},
		{"paid_orders", true, func(b *bed, db *DB, o *sale.Order) {
			b.pay(db, paymentOf(o, "evt"), sale.PaymentApplied)
			b.exec("DELETE FROM payments WHERE event_id = 'evt'")
		}},
		{"paid_orders", true, func(b *bed, db *DB, o *sale.Order) {
			b.pay(db, paymentOf(o, "evt"), sale.PaymentApplied)
			b.exec("UPDATE payments SET status = 'failed', outcome = 'failed' WHERE event_id = 'evt'")
		}},
		{"payments_applied", true, func(b *bed, db *DB, o *sale.Order) {
			b.pay(db, paymentOf(o, "evt"), sale.PaymentApplied)
			b.pay(db, paymentOf(o, "evt2"), sale.PaymentRefund)
			b.exec("UPDATE payments SET outcome = 'paid'")
		}},
		{"payments_applied", true, func(b *bed, db *DB, o *sale.Order) {
			b.cancel(db, o)
			b.exec("INSERT INTO payments (event_id, order_id, outcome, status, amount, currency, at) VALUES ('x', ?, 'paid', 'succeeded', 1, 'EUR', 1)", o.ID[:])
		}},
		{"due_list", true, func(b *bed, _ *DB, _ *sale.Order) { b.exec("DELETE FROM due") }},
		{"due_list", true, func(b *bed, _ *DB, _ *sale.Order) { b.exec("UPDATE due SET pay_by = pay_by + 1") }},
		{"due_list", true, func(b *bed, _ *DB, o *sale.Order) { b.exec("UPDATE due SET ids = ?", make([]byte, 32)) }},
	}
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		covered := map[string]bool{}
		for _, tc := range breaks {
			covered[tc.check] = true
			for _, table := range []string{"orders", "stock", "skus", "buyers", "stock_moves", "outbox", "due", "payments", "orders_archive"} {
				b.exec("DELETE FROM " + table)
			}
			free := b.sku("free", 10, 0)
			done := b.reserve(db, free, "bob", "1", 3)
			b.cancel(db, &done)
			b.pay(db, paymentOf(&done, "late"), sale.PaymentRetaken)
			sku := b.sku("shoe", 10, 2)
			o := b.reserve(db, sku, "ann", "1", 2)
			b.clean(db)
			tc.how(b, db, &o)
			found := b.findings(db)
			if len(found) != 1 || len(found[tc.check]) == 0 {
				t.Errorf("%s: found %+v", tc.check, found)
				continue
			}
			f := found[tc.check][0]
			if f.Check != tc.check || f.Detail == "" || (tc.order && (f.OrderID != o.ID || f.SKU != "shoe")) {
				t.Errorf("%s: %+v", tc.check, f)
			}
			t.Logf("%s: %s: %s", f.Check, f.SKU, f.Detail)
		}
		err := db.AuditChecks(t.Context(), 1, nil, func(c sale.Checked) error {
			if !covered[c.Check] {
				t.Errorf("no test breaks %s", c.Check)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func (b *bed) cancel(db *DB, o *sale.Order) {
	b.t.Helper()
	if _, err := db.Cancel(b.t.Context(), o.ID, o.User); err != nil {
		b.t.Fatal(err)
	}
}

func TestAuditIsBounded(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 100, 5)
		if _, err := db.Commit(t.Context(), admitted(sku, claims(sku, "user", 20)...)); err != nil {
			t.Fatal(err)
		}
		b.exec("UPDATE buyers SET units = 0")
		b.exec("DELETE FROM due")
		for _, bound := range []int{7, 19, 20} {
			seen := map[string]int{}
			err := db.AuditChecks(t.Context(), bound, nil, func(c sale.Checked) error {
				if n := len(c.Findings); n > 0 {
					seen[c.Check] = n
					if c.More != (bound < 20) {
						t.Errorf("%s: of 20 findings %d are reported, more: %v", c.Check, n, c.More)
					}
				}
				return nil
			})
			if err != nil || len(seen) != 2 || seen["buyer_units"] != bound || seen["due_list"] != bound {
				t.Errorf("bound %d: %v, %v", bound, seen, err)
			}
		}
		stop := errors.New("enough")
		calls := 0
		if err := db.AuditChecks(t.Context(), 1, nil, func(sale.Checked) error { calls++; return stop }); err != stop || calls != 1 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}

// TestAuditSeesOneState audits while orders are made and ended: a state between two
// commits is never seen.
func TestAuditSeesOneState(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 100_000, 100_000)
		stop := make(chan struct{})
		done := make(chan error, 4)
		for w := range cap(done) {
			go func() { done <- sellAndCancel(t.Context(), db, sku, w, stop) }()
		}
		audits := 0
		testenv.Eventually(t, func() bool {
			b.clean(db)
			audits++
			return audits >= 20 && b.number("SELECT COUNT(*) FROM orders WHERE status = 'paid'") >= 10
		}, "some orders are paid during some audits")
		close(stop)
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		b.clean(db)
	})
}

// sellAndCancel makes orders until stop is closed, and ends one third and pays another.
func sellAndCancel(ctx context.Context, db *DB, sku *sale.SKU, worker int, stop <-chan struct{}) error {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		batch := admitted(sku, claims(sku, fmt.Sprintf("%d-%d", worker, i%50), 3)...)
		for _, c := range batch.Claims {
			c.ID[5], c.ID[6], c.ID[7] = byte(worker), byte(i), byte(i>>8)
		}
		r, err := db.Commit(ctx, batch)
		if err != nil {
			return err
		}
		for n, v := range r.Verdicts {
			switch {
			case v.Outcome != sale.Reserved:
				return fmt.Errorf("%v", v)
			case n == 0:
				_, err = db.Cancel(ctx, v.Order.ID, v.Order.User)
			case n == 1:
				_, err = db.Pay(ctx, paymentOf(v.Order, v.Order.ID.String()))
			}
			if err != nil {
				return err
			}
		}
	}
}

func TestQualified(t *testing.T) {
	if got := qualified("o", "a, b, c"); got != "o.a, o.b, o.c" {
		t.Error(got)
	}
	if !slices.Contains([]byte(qualified("o", orderColumns)), '.') {
		t.Error("no alias")
	}
}
