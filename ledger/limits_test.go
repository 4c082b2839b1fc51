package ledger

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"flashgate/sale"
)

func TestLimitSetLater(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		wished, stock := b.wish("shoe", 100)
		free, _, _ := b.put(db, wished, stock)
		for i, user := range []string{"ann", "ann", "bob", "cid"} {
			if out := b.buy(db, &free, user, fmt.Sprint(i), 2); out != sale.Reserved {
				t.Fatal(out)
			}
		}
		b.exec("UPDATE orders SET status = 'cancelled' WHERE user_id = 'cid'")
		b.exec("INSERT INTO stock_moves (order_id, reason, sku, segment, delta, at) SELECT order_id, 'cancelled', sku, segment, quantity, 1 FROM orders WHERE user_id = 'cid'")
		b.exec("UPDATE stock SET sold = sold - 2")
		b.exec("INSERT INTO buyers (sku, user_id, units, unit_limit) VALUES ('shoe', 'cid', 0, 0)")
		limited, _, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{PerUserLimit: to(int64(3))})
		if err != nil {
			t.Fatal(err)
		}
		for user, want := range map[string][2]int64{"ann": {4, 4}, "bob": {2, 3}} {
			units := b.number("SELECT units FROM buyers WHERE user_id = ?", user)
			limit := b.number("SELECT unit_limit FROM buyers WHERE user_id = ?", user)
			if [2]int64{units, limit} != want {
				t.Errorf("%s has %d units of %d", user, units, limit)
			}
		}
		// Gateways that have not heard of the limit included.
		for i, sku := range []*sale.SKU{&free, &limited} {
			batch := admitted(sku, claim(sku, "ann", fmt.Sprint("x", i), 1), claim(sku, "bob", fmt.Sprint("x", i), 2), claim(sku, fmt.Sprint("dan", i), "x", 3))
			r, err := db.Commit(t.Context(), batch)
			if got := outcomes(r); err != nil || !slices.Equal(got, []string{"limit_reached", "limit_reached", "reserved"}) {
				t.Errorf("%v, %v", got, err)
			}
		}
		b.checkInvariants()

		unlimited, _, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{PerUserLimit: to(int64(0))})
		if err != nil || b.number("SELECT COUNT(*) FROM buyers") != 0 {
			t.Errorf("%d buyers left without a limit (%v)", b.number("SELECT COUNT(*) FROM buyers"), err)
		}
		for i, sku := range []*sale.SKU{&limited, &unlimited} {
			if out := b.buy(db, sku, "ann", fmt.Sprint("y", i), 9); out != sale.Reserved {
				t.Error(out)
			}
		}
		if n := b.number("SELECT COUNT(*) FROM buyers"); n != 0 {
			t.Errorf("%d buyers came back without a limit", n)
		}
		b.checkInvariants()
	})
}

// TestLimitChangesDuringASale flips the limit while buyers buy through gateways that
// learn of it late.
func TestLimitChangesDuringASale(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		dbs := []*DB{b.open(), nil}
		if dbs[1] = dbs[0]; b.cfg.Driver != "sqlite" { // which one process has to itself
			dbs[1] = b.open()
		}
		wished, stock := b.wish("shoe", 100_000, func(s *sale.SKU) { s.Segments = 2 })
		b.put(dbs[0], wished, stock)
		done := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-done:
						return
					default:
					}
					db := dbs[w%2]
					sku, err := db.SKU(t.Context(), "shoe")
					if err != nil {
						t.Error(err)
						return
					}
					list := make([]*sale.Claim, 8)
					for n := range list {
						list[n] = claim(sku, fmt.Sprintf("user-%d", (i*8+n)%40), fmt.Sprintf("%d-%d-%d", w, i, n), 1)
					}
					if _, err := db.Commit(t.Context(), admitted(sku, list...)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for i := range 12 {
			p := sale.SKUPatch{PerUserLimit: to(int64(i % 3 * 20)), Segments: to(1 + i%3), Total: to(int64(100_000 + i))}
			if _, _, err := dbs[i%2].PatchSKU(t.Context(), "shoe", p); err != nil {
				t.Errorf("change %d: %v", i, err)
			}
			b.checkBuyers()
		}
		close(done)
		wg.Wait()
		b.checkInvariants()
	})
}

// checkBuyers holds, while the sale goes on, that a limit has a row for every buyer,
// in one statement and so at one instant.
func (b *bed) checkBuyers() {
	b.t.Helper()
	if n := b.number(`SELECT COUNT(*) FROM (SELECT o.user_id, SUM(o.quantity) AS units FROM orders o JOIN skus k ON k.sku = o.sku
		WHERE k.per_user_limit > 0 AND o.status IN ('reserved', 'paid') GROUP BY o.sku, o.user_id) live
		LEFT JOIN buyers b ON b.user_id = live.user_id WHERE b.units IS NULL OR b.units <> live.units`); n != 0 {
		b.t.Errorf("%d buyers have other units than their live orders", n)
	}
}
