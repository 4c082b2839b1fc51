package ledger

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"flashgate/sale"
)

// checked are the checks that find something in the SKUs.
func (b *bed) checked(db *DB, skus []string) []string {
	b.t.Helper()
	var names []string
	made := 0
	err := db.AuditChecks(b.t.Context(), 100, skus, func(c sale.Checked) error {
		made++
		if len(c.Findings) > 0 {
			names = append(names, c.Check)
		}
		return nil
	})
	if err != nil || made < 14 {
		b.t.Errorf("%d checks, %v", made, err)
	}
	slices.Sort(names)
	return names
}

// Checks of some SKUs find what is wrong with them, and not what is wrong with others.
func TestChecksOfSomeSKUs(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		var all []string
		for i := range scopeChunk + 5 {
			all = append(all, b.sku(fmt.Sprintf("sku-%d", i), 10, 2).Name)
		}
		orders := make(map[string]sale.Order)
		for _, name := range []string{"sku-0", "sku-1", "sku-2", "sku-104"} {
			sku, err := db.SKU(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			orders[name] = b.reserve(db, sku, "ann", "1", 2)
		}
		o := orders["sku-1"]
		b.pay(db, paymentOf(&o, "evt"), sale.PaymentApplied)
		for _, skus := range [][]string{nil, {}, {"sku-0"}, all} {
			if got := b.checked(db, skus); len(got) != 0 {
				t.Errorf("nothing is wrong, and %v finds it in %d SKUs", got, len(skus))
			}
		}
		b.exec("UPDATE stock SET sold = 1 WHERE sku = 'sku-0'")
		b.exec("UPDATE buyers SET units = 1 WHERE sku = 'sku-0'")
		b.exec("DELETE FROM payments")
		b.exec("UPDATE due SET pay_by = pay_by + 1")
		b.exec("INSERT INTO stock_moves (order_id, reason, sku, segment, delta, at) VALUES (?, 'cancelled', 'sku-104', 0, 2, 1)", idOf(orders["sku-104"]))
		for _, c := range []struct {
			skus []string
			want []string
		}{
			{[]string{}, nil},
			{[]string{"sku-3", "sku-4"}, nil},
			{[]string{"sku-0"}, []string{"buyer_units", "due_list", "stock_sold"}},
			{[]string{"sku-1"}, []string{"paid_orders"}},
			{[]string{"sku-2"}, []string{"due_list"}},
			{all, []string{"buyer_units", "due_list", "order_log", "paid_orders", "stock_sold"}},
			{nil, []string{"buyer_units", "due_list", "order_log", "paid_orders", "stock_sold"}},
		} {
			if got := b.checked(db, c.skus); !slices.Equal(got, c.want) {
				t.Errorf("%d SKUs: found %v, want %v", len(c.skus), got, c.want)
			}
		}
	})
}

func idOf(o sale.Order) []byte { return o.ID[:] }

// What was done since a position: SKUs that operators changed or whose orders wait for a
// payment, orders made or changed, refunds.
func TestWhatWasDoneSince(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		names := []string{"old", "paid", "refunded", "sold", "titled"}
		orders := make(map[string]sale.Order)
		for _, name := range names {
			orders[name] = b.reserve(db, b.sku(name, 10, 0), "ann", "1", 1)
		}
		for _, name := range []string{"old", "refunded"} {
			o := orders[name]
			b.pay(db, paymentOf(&o, "evt-"+name), sale.PaymentApplied)
		}
		before := db.Now() - 1_000_000
		b.exec("UPDATE orders SET reserved_at = ?, pay_by = ?", before, before+1)
		b.exec("UPDATE payments SET at = ?", before)
		b.exec("DELETE FROM due")
		b.exec("DELETE FROM outbox")
		position := func(margin time.Duration) (p sale.AuditPosition) {
			t.Helper()
			if err := db.InSnapshot(t.Context(), func(s *Snapshot) (err error) { p, err = s.Position(t.Context(), margin); return err }); err != nil {
				t.Fatal(err)
			}
			return p
		}
		since := position(time.Second)
		if since.At <= before || since.At > db.Now()-1000 {
			t.Errorf("%v at %d", since, db.Now())
		}
		sku, err := db.SKU(t.Context(), "sold")
		if err != nil {
			t.Fatal(err)
		}
		late := b.reserve(db, sku, "bob", "1", 1)
		o, again := orders["paid"], orders["refunded"]
		b.pay(db, paymentOf(&o, "evt"), sale.PaymentApplied)
		b.pay(db, paymentOf(&again, "evt-again"), sale.PaymentRefund)
		if _, _, err := db.PatchSKU(t.Context(), "titled", sale.SKUPatch{Title: to("Other")}); err != nil {
			t.Fatal(err)
		}
		if p := position(0); p.At > late.ReservedAt || p.Change <= since.Change {
			t.Errorf("what is not published was written at %d: %v", late.ReservedAt, p)
		}
		err = db.InSnapshot(t.Context(), func(s *Snapshot) error {
			touched, err := s.Touched(t.Context(), since)
			slices.Sort(touched)
			if err != nil || !slices.Equal(touched, []string{"sold", "titled"}) {
				t.Errorf("touched %v, %v", touched, err)
			}
			changed := make(map[sale.OrderID]int64)
			for _, name := range names {
				err := s.EachChanged(t.Context(), name, since.At, func(some []sale.Changed) error {
					for _, o := range some {
						changed[o.ID] = o.Since
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			if len(changed) != 2 || changed[late.ID] != late.ReservedAt || changed[o.ID] < since.At {
				t.Errorf("changed %v", changed)
			}
			for _, c := range []struct {
				skus []string
				want int
			}{{nil, 1}, {[]string{"refunded"}, 1}, {[]string{"sold"}, 0}, {[]string{}, 0}} {
				n := 0
				if err := s.EachRefund(t.Context(), c.skus, func(r []sale.Refund) error { n += len(r); return nil }); err != nil || n != c.want {
					t.Errorf("%d refunds of %v, %v", n, c.skus, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
