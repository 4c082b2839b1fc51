package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"flashgate/sale"
)

func TestPaymentsAreRecordedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 2, 0)
		o := b.reserve(db, sku, "ann", "1", 1)
		p := paymentOf(&o, "evt")
		if r := b.pay(db, p, sale.PaymentApplied); r.Repeated || r.Order.Status != sale.StatusPaid {
			t.Errorf("%+v", r)
		}
		for range 3 {
			if r := b.pay(db, p, sale.PaymentApplied); !r.Repeated || r.Order.Status != sale.StatusPaid {
				t.Errorf("repeated: %+v", r)
			}
		}
		// The event's name used for something else.
		other := b.reserve(db, sku, "bob", "1", 1)
		for what, change := range map[string]func(p *sale.Payment){
			"another order":    func(p *sale.Payment) { p.OrderID = other.ID },
			"an unknown order": func(p *sale.Payment) { p.OrderID[0]++ },
			"another amount":   func(p *sale.Payment) { p.Amount++ },
			"another currency": func(p *sale.Payment) { p.Currency = "USD" },
			"another outcome":  func(p *sale.Payment) { p.Succeeded = false },
		} {
			q := p
			change(&q)
			if _, err := db.Pay(t.Context(), q); !errors.Is(err, sale.ErrPaymentMismatch) {
				t.Errorf("%s: %v", what, err)
			}
		}
		unknown := paymentOf(&o, "new")
		unknown.OrderID[0]++
		if _, err := db.Pay(t.Context(), unknown); !errors.Is(err, sale.ErrUnknownOrder) {
			t.Error(err)
		}
		for _, id := range []string{"", "with space", strings.Repeat("x", 256), "ü"} {
			if _, err := db.Pay(t.Context(), paymentOf(&other, id)); !errors.Is(err, sale.ErrInvalid) {
				t.Errorf("%q: %v", id, err)
			}
		}
		// Two payments of one order: each is refunded, under its own name.
		b.pay(db, paymentOf(&o, "evt2"), sale.PaymentRefund)
		b.pay(db, paymentOf(&o, "evt3"), sale.PaymentRefund)
		if r := b.pay(db, paymentOf(&o, "evt3"), sale.PaymentRefund); !r.Repeated {
			t.Errorf("%+v", r)
		}
		if n := b.number("SELECT COUNT(*) FROM payments"); n != 3 {
			t.Errorf("%d payments are recorded", n)
		}
		want := []string{"results.reserved", "results.paid", "inventory.deduct", "payments.refund", "payments.refund"}
		if got := b.events(o.ID); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		b.clean(db)
	})
}

// TestLatePayments pays orders that were given back.
func TestLatePayments(t *testing.T) {
	tests := []struct {
		name  string
		limit int64
		since func(b *bed, db *DB, sku *sale.SKU) // what happened between the end and the payment
		want  sale.PaymentOutcome
	}{
		{"nothing happened", 2, func(*bed, *DB, *sale.SKU) {}, sale.PaymentRetaken},
		{"the SKU was closed", 0, func(b *bed, db *DB, sku *sale.SKU) {
			if _, _, err := db.PatchSKU(b.t.Context(), sku.Name, sale.SKUPatch{State: to(sale.StateClosed)}); err != nil {
				b.t.Fatal(err)
			}
		}, sale.PaymentRetaken},
		{"too few are left", 0, func(b *bed, db *DB, sku *sale.SKU) { b.reserve(db, sku, "bob", "1", 3) }, sale.PaymentRefund},
		{"just enough are left", 0, func(b *bed, db *DB, sku *sale.SKU) { b.reserve(db, sku, "bob", "1", 2) }, sale.PaymentRetaken},
		{"the buyer bought others", 3, func(b *bed, db *DB, sku *sale.SKU) { b.reserve(db, sku, "ann", "2", 2) }, sale.PaymentRefund},
		{"the buyer bought one other", 3, func(b *bed, db *DB, sku *sale.SKU) { b.reserve(db, sku, "ann", "2", 1) }, sale.PaymentRetaken},
		{"a limit was set below", 0, func(b *bed, db *DB, sku *sale.SKU) {
			if _, _, err := db.PatchSKU(b.t.Context(), sku.Name, sale.SKUPatch{PerUserLimit: to(int64(1))}); err != nil {
				b.t.Fatal(err)
			}
		}, sale.PaymentRefund},
		{"a limit was set", 0, func(b *bed, db *DB, sku *sale.SKU) {
			if _, _, err := db.PatchSKU(b.t.Context(), sku.Name, sale.SKUPatch{PerUserLimit: to(int64(2))}); err != nil {
				b.t.Fatal(err)
			}
		}, sale.PaymentRetaken},
		{"the limit was taken away", 2, func(b *bed, db *DB, sku *sale.SKU) {
			if _, _, err := db.PatchSKU(b.t.Context(), sku.Name, sale.SKUPatch{PerUserLimit: to(int64(0))}); err != nil {
				b.t.Fatal(err)
			}
		}, sale.PaymentRetaken},
		{"the units moved to other segments", 0, func(b *bed, db *DB, sku *sale.SKU) {
			b.exec("UPDATE stock SET total = 0 WHERE sku = ?", sku.Name)
			for segment := 1; segment < 5; segment++ {
				b.exec("INSERT INTO stock (sku, segment, total, reserved, sold, sku_version) VALUES (?, ?, 1, 0, 0, ?)", sku.Name, segment, sku.Version)
			}
		}, sale.PaymentRetaken},
		{"the stock was taken away", 0, func(b *bed, db *DB, sku *sale.SKU) {
			if _, _, _, err := db.AddStock(b.t.Context(), sku.Name, -3, ""); err != nil {
				b.t.Fatal(err)
			}
		}, sale.PaymentRefund},
	}
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		for _, life := range lives[2:] {
			for i, tc := range tests {
				name := fmt.Sprintf("%s-%d", life.name, i)
				sku := b.sku(name, 4, tc.limit)
				o := b.reserve(db, sku, "ann", "1", 2)
				life.walk(b, db, &o)
				raises := b.number("SELECT SUM(raises) FROM stock WHERE sku = ?", name)
				if raises != 1 {
					t.Errorf("%d raises", raises)
				}
				tc.since(b, db, sku)
				total := b.number("SELECT SUM(total) FROM stock WHERE sku = ?", name)
				r := b.pay(db, paymentOf(&o, "pay-"+name), tc.want)
				wantStatus := life.status
				wantEvents := append(slices.Clone(life.events), "payments.refund")
				if tc.want == sale.PaymentRetaken {
					wantStatus = sale.StatusPaid
					wantEvents = append(slices.Clone(life.events), "results.paid", "inventory.deduct")
				}
				if r.Order.Status != wantStatus {
					t.Errorf("%s, %s: %v", life.name, tc.name, r.Order.Status)
				}
				if got := b.events(o.ID); !slices.Equal(got, wantEvents) {
					t.Errorf("%s, %s: %v", life.name, tc.name, got)
				}
				if n := b.number("SELECT SUM(total) FROM stock WHERE sku = ?", name); n != total {
					t.Errorf("%s, %s: a total of %d, before %d", life.name, tc.name, n, total)
				}
				// A second one changes nothing.
				b.pay(db, paymentOf(&o, "again-"+name), sale.PaymentRefund)
				for check, f := range b.findings(db) {
					t.Errorf("%s, %s: %s: %+v", life.name, tc.name, check, f)
				}
			}
		}
	})
}

// A coupon is redeemed with the reservation, released when the order ends, and redeemed again
// by a late payment that takes the units again; what has none tells nothing of it.
func TestCouponsAreReleased(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 10, 0)
		withCoupon := claim(sku, "ann", "1", 1)
		withCoupon.Coupon, withCoupon.Hash = "TEN", sale.HashRequest(1, "TEN")
		r, err := db.Commit(t.Context(), direct(sku, withCoupon, claim(sku, "bob", "1", 1)))
		if err != nil {
			t.Fatal(err)
		}
		ann, bob := r.Verdicts[0].Order, r.Verdicts[1].Order
		b.cancel(db, ann)
		b.cancel(db, bob)
		b.cancel(db, ann)
		want := []string{"results.reserved", "coupons.redeem", "results.cancelled", "coupons.release"}
		if got := b.events(ann.ID); !slices.Equal(got, want) {
			t.Errorf("with a coupon: %v", got)
		}
		if got := b.events(bob.ID); !slices.Equal(got, []string{"results.reserved", "results.cancelled"}) {
			t.Errorf("without: %v", got)
		}
		b.pay(db, paymentOf(ann, "late"), sale.PaymentRetaken)
		want = append(want, "results.paid", "inventory.deduct", "coupons.redeem")
		if got := b.events(ann.ID); !slices.Equal(got, want) {
			t.Errorf("paid late: %v", got)
		}
		b.clean(db)
	})
}
