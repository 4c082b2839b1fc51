package ledger

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// TestAHeldSKUTakesUpNoConnections: more buyers than there are connections cancel and pay
// orders of a SKU whose rows somebody holds, and operators change it. What is about other
// SKUs is done meanwhile, and all of that as soon as the rows are free.
func TestAHeldSKUTakesUpNoConnections(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	held, other := b.sku("held", 1000, 2), b.sku("other", 1000, 2)
	var orders []sale.Order
	for i := range 3 * edgeConns {
		orders = append(orders, b.reserve(db, held, fmt.Sprintf("user-%d", i), "1", 1))
	}
	s := b.session()
	s.exec("START TRANSACTION", "SELECT * FROM orders WHERE sku = 'held' FOR UPDATE", "SELECT * FROM stock WHERE sku = 'held' FOR UPDATE")
	var wg sync.WaitGroup
	for i := range orders {
		o := &orders[i]
		wg.Go(func() {
			var err error
			switch i % 3 {
			case 0:
				_, err = db.Cancel(t.Context(), o.ID, o.User)
			case 1:
				_, err = db.Pay(t.Context(), paymentOf(o, o.User))
			case 2:
				_, _, _, err = db.AddStock(t.Context(), held.Name, 1, "")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	testenv.Eventually(t, func() bool {
		return db.slow.find(keyOfSKU(held.Name)) != nil && db.pools.slow.Stats().InUse > 0 &&
			db.pools.edge.Stats().InUse == 0 && db.pools.control.Stats().InUse == 0
	}, "what is about the held SKU has connections apart")
	for i := range 10 {
		o := b.reserve(db, other, fmt.Sprintf("user-%d", i), "1", 1)
		if i%2 == 0 {
			b.cancel(db, &o)
		} else if _, err := db.Pay(t.Context(), paymentOf(&o, o.User+"-other")); err != nil {
			t.Error(err)
		}
	}
	if _, _, _, err := db.AddStock(t.Context(), other.Name, 1, ""); err != nil {
		t.Error(err)
	}
	if n := db.pools.slow.Stats().OpenConnections; n > slowConns {
		t.Errorf("%d connections for held SKUs", n)
	}
	s.exec("COMMIT")
	wg.Wait()
	if db.slow.find(keyOfSKU(held.Name)) != nil {
		t.Error("the SKU still counts as held")
	}
	if err := db.Err(); err != nil {
		t.Errorf("the ledger is said to have failed: %v", err)
	}
	if n := b.number("SELECT total FROM stock WHERE sku = 'held'"); n != 1000+edgeConns {
		t.Errorf("a total of %d", n)
	}
	b.clean(db)
}

// TestRepairPastAHeldSKU repairs what is wrong beside a SKU whose rows somebody holds.
func TestRepairPastAHeldSKU(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	for _, name := range []string{"a", "held", "z"} {
		b.reserve(db, b.sku(name, 10, 2), "ann", "1", 2)
	}
	b.exec("UPDATE stock SET sold = 1")
	b.exec("UPDATE buyers SET units = 1")
	lock := b.lockStock("held")
	wrong := "SELECT (SELECT COUNT(*) FROM stock WHERE sold = 1) + (SELECT COUNT(*) FROM buyers WHERE units = 1)"
	if err := db.Repair(t.Context()); !errors.Is(err, sale.ErrPartly) || !errors.Is(err, errHeld) {
		t.Errorf("%v", err)
	}
	if n := b.number(wrong); n != 2 {
		t.Errorf("%d rows are wrong, want those of the held SKU", n)
	}
	if n := count(t, db.metrics.repaired.WithLabelValues("stock", "left")); n != 1 {
		t.Errorf("%v rows of stock count as left", n)
	}
	lock.exec("COMMIT")
	if err := db.Repair(t.Context()); err != nil {
		t.Error(err)
	}
	b.clean(db)
}
