package ledger

import (
	"errors"
	"fmt"
	"testing"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

func TestRepair(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		repair := func(stock, buyers sale.Repairs) {
			t.Helper()
			if got, err := db.repairStock(t.Context()); err != nil || got != stock {
				t.Errorf("stock: %+v, %v; want %+v", got, err, stock)
			}
			if got, err := db.repairBuyers(t.Context()); err != nil || got != buyers {
				t.Errorf("buyers: %+v, %v; want %+v", got, err, buyers)
			}
		}
		repair(sale.Repairs{}, sale.Repairs{})
		for i := range 5 {
			sku := b.sku(fmt.Sprintf("sku-%d", i), 10, int64(i%2*3))
			for _, user := range []string{"ann", "bob", "cid"} {
				b.reserve(db, sku, user, "1", 2)
			}
			o := b.reserve(db, sku, "dan", "1", 1)
			b.cancel(db, &o)
		}
		repair(sale.Repairs{}, sale.Repairs{})
		raises := b.number("SELECT SUM(raises) FROM stock")
		b.exec("UPDATE stock SET sold = 7 WHERE sku = 'sku-0'")
		b.exec("UPDATE stock SET sold = 0 WHERE sku = 'sku-1'")
		b.exec("UPDATE stock SET total = 5, sold = 5 WHERE sku = 'sku-2'") // live orders hold 6
		b.exec("UPDATE buyers SET units = 3 WHERE sku = 'sku-1' AND user_id = 'ann'")
		b.exec("DELETE FROM buyers WHERE sku = 'sku-1' AND user_id = 'bob'")
		b.exec("UPDATE buyers SET units = 1 WHERE sku = 'sku-1' AND user_id = 'dan'")
		b.exec("UPDATE buyers SET units = 0 WHERE sku = 'sku-3' AND user_id = 'cid'")
		b.exec("INSERT INTO orders SELECT " + order(b, 7) + ", sku, segment, user_id, 5, amount, currency, coupon, status, request_hash, reserved_at, pay_by, version FROM orders WHERE sku = 'sku-3' AND user_id = 'ann'")
		b.exec("INSERT INTO due (pay_by, slot, ids) SELECT pay_by, " + order(b, 7)[:18] + "', " + order(b, 7) + " FROM orders WHERE sku = 'sku-3' AND quantity = 5")
		repair(sale.Repairs{Repaired: 2, Left: 2}, sale.Repairs{Repaired: 5})
		if n := b.number("SELECT unit_limit FROM buyers WHERE sku = 'sku-3' AND user_id = 'ann'"); n != 7 {
			t.Errorf("who holds 7 units has a limit of %d", n)
		}
		if n := b.number("SELECT SUM(raises) FROM stock"); n != raises+2 {
			t.Errorf("%d raises, before %d", n, raises)
		}
		b.exec("UPDATE stock SET total = 20")
		repair(sale.Repairs{Repaired: 2}, sale.Repairs{})
		b.clean(db)
	})
}

// order is the literal of an order id that no claim has.
func order(b *bed, n byte) string {
	id := sale.DeriveOrderID("sku-3", "nobody", string(n))
	d, err := dialect.Of(b.cfg.Driver)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(d.AppendBytes(nil, id[:]))
}

// TestRepairDuringASale repairs again and again what is never wrong but looks so
// between two statements: nothing is changed.
func TestRepairDuringASale(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 100_000, 100_000)
		stop := make(chan struct{})
		done := make(chan error, 3)
		for w := range cap(done) {
			go func() { done <- sellAndCancel(t.Context(), db, sku, w, stop) }()
		}
		for range 20 {
			for what, repair := range map[string]func() (sale.Repairs, error){
				"stock":  func() (sale.Repairs, error) { return db.repairStock(t.Context()) },
				"buyers": func() (sale.Repairs, error) { return db.repairBuyers(t.Context()) },
			} {
				if got, err := repair(); err != nil || got != (sale.Repairs{}) {
					t.Errorf("%s: %+v, %v", what, got, err)
				}
			}
		}
		// And what is wrong is put right beside it.
		b.exec("UPDATE stock SET sold = sold + 50")
		b.exec("UPDATE buyers SET units = units + 1")
		if got, err := db.repairStock(t.Context()); err != nil || got.Repaired != 1 {
			t.Errorf("stock: %+v, %v", got, err)
		}
		if got, err := db.repairBuyers(t.Context()); err != nil || got.Repaired == 0 {
			t.Errorf("buyers: %+v, %v", got, err)
		}
		close(stop)
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		b.clean(db)
	})
}

// A SKU whose rows refuse what its orders need is repaired by itself, and no other is even
// looked at; an operator has all repaired.
func TestSuspectsAreRepaired(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		b.lead(db)
		var orders []sale.Order
		for _, name := range []string{"cancelled", "expired", "quiet"} {
			sku := b.sku(name, 10, 3)
			orders = append(orders, b.reserve(db, sku, "ann", "1", 2), b.reserve(db, sku, "bob", "1", 1))
		}
		b.exec("UPDATE stock SET sold = 0")
		b.exec("UPDATE buyers SET units = 0")
		if err := db.RepairSuspects(t.Context()); err != nil {
			t.Fatal(err)
		}
		wrong := func() int64 {
			return b.number("SELECT (SELECT COUNT(*) FROM stock WHERE sold = 0) + (SELECT COUNT(*) FROM buyers WHERE units = 0)")
		}
		if n := wrong(); n != 9 {
			t.Errorf("%d rows are wrong, want 9: nothing was found out yet", n)
		}
		if _, err := db.Cancel(t.Context(), orders[0].ID, "ann"); !errors.Is(err, errRefused) {
			t.Errorf("cancelling by wrong sums: %v", err)
		}
		b.exec("UPDATE orders SET pay_by = 1 WHERE order_id = ?", orders[2].ID[:])
		b.exec("UPDATE due SET pay_by = 1 WHERE ids = ?", orders[2].ID[:])
		if err := db.Expire(t.Context(), b.number("SELECT token FROM job_leases WHERE name = ?", ExpireJob)); !errors.Is(err, errRefused) {
			t.Errorf("expiry by wrong sums: %v", err)
		}
		if err := db.RepairSuspects(t.Context()); err != nil {
			t.Error(err)
		}
		if n := wrong(); n != 3 {
			t.Errorf("%d rows are wrong, want the 3 of the SKU that nobody asked of", n)
		}
		b.cancel(db, &orders[0])
		b.expireAll(db)
		if err := db.Repair(t.Context()); err != nil {
			t.Error(err)
		}
		if n := wrong(); n != 2 {
			t.Errorf("%d rows are 0, want those of the two buyers whose units were given back", n)
		}
		b.clean(db)
	})
}

// One whose rows are held is repaired another time, and holds up no other.
func TestSuspectsThatAreHeld(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	for _, name := range []string{"a", "held", "z"} {
		b.reserve(db, b.sku(name, 10, 0), "ann", "1", 2)
		db.suspects.add(name)
	}
	b.exec("UPDATE stock SET sold = 1")
	lock := b.lockStock("held")
	if err := db.RepairSuspects(t.Context()); !errors.Is(err, sale.ErrPartly) || !errors.Is(err, errHeld) {
		t.Errorf("%v", err)
	}
	if n := b.number("SELECT COUNT(*) FROM stock WHERE sold = 1"); n != 1 {
		t.Errorf("%d rows are wrong, want that of the held SKU", n)
	}
	lock.exec("COMMIT")
	if err := db.RepairSuspects(t.Context()); err != nil {
		t.Error(err)
	}
	b.clean(db)
}
