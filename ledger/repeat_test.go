package ledger

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"flashgate/sale"
)

// All calls with one key add once, whichever gateway they go through.
func TestAddStockUnderAKey(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku, stock := b.wish("shoe", 10)
		b.put(db, sku, stock)
		other, otherStock := b.wish("sock", 10)
		b.put(db, other, otherStock)
		var wg sync.WaitGroup
		var replays atomic.Int64
		const calls = 8
		for range calls {
			wg.Go(func() {
				_, had, replayed, err := db.AddStock(t.Context(), "shoe", 5, "monday")
				if err != nil || had.Total != 15 {
					t.Errorf("%+v, %v", had, err)
				}
				if replayed {
					replays.Add(1)
				}
			})
		}
		wg.Wait()
		if n := replays.Load(); n != calls-1 {
			t.Errorf("%d of %d calls were replays", n, calls)
		}
		if _, _, _, err := db.AddStock(t.Context(), "shoe", 6, "monday"); !errors.Is(err, sale.ErrKeyReused) {
			t.Errorf("another delta: %v", err)
		}
		for _, c := range []struct{ sku, key string }{{"shoe", "tuesday"}, {"sock", "monday"}, {"shoe", ""}, {"shoe", ""}} {
			if _, _, replayed, err := db.AddStock(t.Context(), c.sku, 1, c.key); err != nil || replayed {
				t.Errorf("%+v: replayed %v, %v", c, replayed, err)
			}
		}
		if n := b.number("SELECT SUM(total) FROM stock"); n != 29 {
			t.Errorf("%d units in all", n)
		}
		// What was refused is not remembered.
		var below *sale.StockBelowSoldError
		if _, _, _, err := db.AddStock(t.Context(), "sock", -12, "less"); !errors.As(err, &below) {
			t.Error(err)
		}
		if _, _, _, err := db.AddStock(t.Context(), "sock", 2, ""); err != nil {
			t.Error(err)
		}
		if _, had, replayed, err := db.AddStock(t.Context(), "sock", -12, "less"); err != nil || replayed || had.Total != 1 {
			t.Errorf("%+v, %v, %v", had, replayed, err)
		}
		b.checkInvariants()
	})
}

// Of operators who have seen the same, one makes his change.
func TestChangesOfWhatWasSeen(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku, stock := b.wish("shoe", 10)
		if _, _, _, err := db.PutSKU(t.Context(), sku, stock, sale.Expect{Present: true}); !errors.Is(err, sale.ErrPrecondition) {
			t.Errorf("none is there: %v", err)
		}
		var wg sync.WaitGroup
		var made atomic.Int64
		count := func(err error) {
			switch {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, sale.ErrPrecondition):
				t.Error(err)
			}
		}
		for i := range 6 {
			wg.Go(func() {
				mine := sku
				mine.Title = fmt.Sprint("made by ", i)
				_, _, _, err := db.PutSKU(t.Context(), mine, stock, sale.Expect{Absent: true})
				count(err)
			})
		}
		wg.Wait()
		if n := made.Swap(0); n != 1 {
			t.Errorf("%d made it", n)
		}
		seen, had, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			wg.Go(func() {
				p := sale.SKUPatch{Expect: sale.Expect{Tags: []sale.SKUTag{sale.TagOf(&seen, had)}}}
				if i%2 == 0 {
					p.Total = to(int64(20 + i))
				} else {
					p.Title = to(fmt.Sprint("by ", i))
				}
				_, _, err := db.PatchSKU(t.Context(), "shoe", p)
				count(err)
			})
		}
		wg.Wait()
		if n := made.Load(); n != 1 {
			t.Errorf("%d changed what all had seen", n)
		}
	})
}
