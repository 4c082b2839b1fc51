package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// setBack sets a ledger's clock back, whatever was measured, so that what it writes
// looks as if it had taken so long to commit.
func setBack(db *DB, d time.Duration) {
	db.clock.offset.Add(-d.Microseconds())
	db.clock.last.Store(0)
}

// sees waits until a ledger remembers the SKU with the title.
func sees(t *testing.T, db *DB, sku, title string) *sale.SKU {
	t.Helper()
	var seen *sale.SKU
	testenv.Within(t, time.Second, func() bool {
		var err error
		seen, err = db.SKU(t.Context(), sku)
		return err == nil && seen.Title == title
	}, "%s is seen as %s", sku, title)
	return seen
}

// Changes are seen in the order of their commits. The last one has a time stamp of long
// ago, as has one whose commit took long or whose gateway's clock is behind, and it comes
// after one that has a later stamp.
func TestChangesAreSeenWhateverTheirTimeStamps(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		here, there, late := b.open(), b.open(), b.open()
		wished, stock := b.wish("shoe", 100)
		b.put(there, wished, stock)
		wished.Name = "sock"
		b.put(there, wished, stock)
		for _, name := range []string{"shoe", "sock"} {
			if _, err := here.SKU(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := there.PatchSKU(t.Context(), "sock", sale.SKUPatch{Title: to("first")}); err != nil {
			t.Fatal(err)
		}
		sees(t, here, "sock", "first")
		setBack(late, time.Hour)
		if _, _, err := late.PatchSKU(t.Context(), "shoe", sale.SKUPatch{Title: to("second")}); err != nil {
			t.Fatal(err)
		}
		sku := sees(t, here, "shoe", "second")
		expect(t, settleGroup(t, here, admitted(sku, claims(sku, "u", 3)...))[0], false, "reserved", "reserved", "reserved")
	})
}

// A change that is held up directly before its commit is in nobody's way but that of
// other changes, and is seen once it is committed.
func TestAChangeIsSeenHoweverLongItsCommitTakes(t *testing.T) {
	b := mariaBed(t)
	here, there := b.open(), b.open()
	wished, stock := b.wish("shoe", 100)
	b.put(there, wished, stock)
	wished.Name = "sock"
	b.put(there, wished, stock)
	for _, name := range []string{"shoe", "sock"} {
		sees(t, here, name, wished.Title)
	}
	before := b.number("SELECT position FROM change_counter")
	hold := b.session()
	hold.exec("START TRANSACTION", "SELECT position FROM change_counter FOR UPDATE")
	var wg sync.WaitGroup
	for _, name := range []string{"shoe", "sock"} {
		wg.Go(func() {
			if _, _, err := there.PatchSKU(t.Context(), name, sale.SKUPatch{Title: to("new")}); err != nil {
				t.Error(err)
			}
		})
	}
	b.executing("UPDATE change_counter")
	other := b.sku("other", 10, 0)
	expect(t, settleGroup(t, here, admitted(other, claims(other, "u", 3)...))[0], false, "reserved", "reserved", "reserved")
	hold.exec("COMMIT")
	wg.Wait()
	if n := b.number("SELECT position FROM change_counter"); n != before+2 {
		t.Errorf("two changes took the counter from %d to %d", before, n)
	}
	if n := b.number("SELECT COUNT(DISTINCT position) FROM skus WHERE position > ?", before); n != 2 {
		t.Errorf("%d positions", n)
	}
	sees(t, here, "shoe", "new")
	sees(t, here, "sock", "new")
}

// A gateway that follows at its own pace misses none of many changes by many.
func TestNoChangeIsMissed(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		here, there := b.new(), []*DB{b.open(), nil}
		if there[1] = there[0]; b.cfg.Driver != "sqlite" { // which one process has to itself
			there[1] = b.open()
		}
		here.times.look = time.Millisecond
		b.run(here)
		const skus = 8
		for i := range skus {
			wished, stock := b.wish(fmt.Sprint("s-", i), 100)
			b.put(there[0], wished, stock)
			if _, err := here.SKU(t.Context(), wished.Name); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for w, db := range there {
			wg.Go(func() {
				for i := range 5 * skus {
					title := fmt.Sprint(w, " ", i)
					if _, _, err := db.PatchSKU(t.Context(), fmt.Sprint("s-", i%skus), sale.SKUPatch{Title: &title}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for i := range skus {
			name := fmt.Sprint("s-", i)
			testenv.Eventually(t, func() bool {
				sku, err := here.SKU(t.Context(), name)
				return err == nil && sku.Version == 11
			}, "the eleventh version of %s is seen", name)
		}
		if n := b.number("SELECT position FROM change_counter"); n != skus*(1+5*2) {
			t.Errorf("position %d", n)
		}
	})
}

// A SKU that is read as it was before a change, and remembered after the change was
// looked at, is not remembered so.
func TestAChangeWhileTheSKUIsRead(t *testing.T) {
	c := newCatalog(100)
	miss, err := c.ask("shoe")
	if err != nil {
		t.Fatal(err)
	}
	if !c.concerns("shoe") || c.concerns("sock") {
		t.Error("what is being read has to be looked at, and nothing else")
	}
	c.answer(miss, &sale.SKU{Name: "shoe"}, nil)
	if !c.concerns("shoe") {
		t.Error("what is remembered has to be looked at")
	}
}

// A ledger that was away may come back without the last changes, and have made others
// under their positions.
func TestTheCatalogueOfALedgerThatLostChanges(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		here, there := b.new(), b.open()
		here.times.look = time.Hour
		for _, name := range []string{"shoe", "sock"} {
			wished, stock := b.wish(name, 100)
			b.put(there, wished, stock)
		}
		b.run(here)
		testenv.Eventually(t, func() bool { return count(t, here.metrics.seen) == 2 }, "the first look is over")
		w := &changeWatch{db: here}
		look := func(ctx context.Context, last int64, anew bool) {
			t.Helper()
			if err := w.look(ctx); !errors.Is(err, ctx.Err()) || w.last != last || w.anew != anew {
				t.Fatalf("%+v, %v", w, err)
			}
		}
		remembers := func(title string) {
			t.Helper()
			if sku, err := here.SKU(t.Context(), "shoe"); err != nil || sku.Title != title {
				t.Fatalf("%+v, %v", sku, err)
			}
		}
		rename := func(title string) {
			t.Helper()
			if _, _, err := there.PatchSKU(t.Context(), "shoe", sale.SKUPatch{Title: &title}); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"shoe", "sock"} {
			if _, err := here.SKU(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		rename("lost")
		look(t.Context(), 3, false)
		remembers("lost")
		// Restored to before the change; another SKU is gone.
		b.exec("UPDATE skus SET title = 'old', version = 1, position = 1 WHERE sku = 'shoe'")
		b.exec("DELETE FROM skus WHERE sku = 'sock'")
		b.exec("UPDATE change_counter SET position = 2")
		look(t.Context(), 2, false)
		remembers("old")
		if _, ok := here.catalog.known.get("sock"); ok {
			t.Error("a SKU that the ledger has not is remembered")
		}
		// Lost and made anew under the same position, while the ledger could not be asked.
		rename("again")
		look(t.Context(), 3, false)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		look(over, 3, true)
		remembers("again")
		b.exec("UPDATE skus SET title = 'other' WHERE sku = 'shoe'")
		look(t.Context(), 3, false)
		remembers("other")
	})
}

// What the lock-first path reads is remembered: a gateway that has not heard of a change
// loses one group by it, and not one after the other.
func TestTheLockedPathTeachesTheCatalogue(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		here, there := b.new(), b.open()
		here.times.look = time.Hour
		var mu sync.Mutex
		var heard []string
		here.SetHooks(Hooks{Heard: func(before, after *sale.SKU) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, fmt.Sprint(before.Version, " ", after.Version))
		}})
		b.run(here)
		wished, stock := b.wish("shoe", 100)
		b.put(there, wished, stock)
		old, err := here.SKU(t.Context(), "shoe")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := there.PatchSKU(t.Context(), "shoe", sale.SKUPatch{UnitPrice: to(int64(700))}); err != nil {
			t.Fatal(err)
		}
		r := settleGroup(t, here, admitted(old, claims(old, "u", 2)...))[0]
		expect(t, r, false, "reserved", "reserved")
		if price := r.Verdicts[0].Order.Amount; price != 700 {
			t.Errorf("sold for %d", price)
		}
		sku, err := here.SKU(t.Context(), "shoe")
		if err != nil || sku.Version != 2 || sku.UnitPrice != 700 {
			t.Errorf("%+v, %v", sku, err)
		}
		testenv.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Equal(heard, []string{"1 2"})
		}, "the change is heard of")
	})
}

// Every gateway that remembers a SKU hears of a change, of its stock alone as well.
func TestHooksTellOfOthersChanges(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		there := b.open()
		for _, name := range []string{"shoe", "sock"} {
			wished, stock := b.wish(name, 100)
			b.put(there, wished, stock)
		}
		here := b.new()
		heard := make(chan [2]*sale.SKU, 16)
		here.SetHooks(Hooks{Heard: func(before, after *sale.SKU) { heard <- [2]*sale.SKU{before, after} }})
		b.run(here)
		next := func() [2]*sale.SKU {
			t.Helper()
			select {
			case h := <-heard:
				return h
			case <-time.After(testenv.Patience):
				t.Fatal("a change is not heard of")
				return [2]*sale.SKU{}
			}
		}
		known, err := here.SKU(t.Context(), "shoe") // and nothing of the sock
		if err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, func() bool { return count(t, here.metrics.seen) == 2 }, "the first look is over")
		for _, name := range []string{"sock", "shoe"} {
			if _, _, _, err := there.AddStock(t.Context(), name, 5, ""); err != nil {
				t.Fatal(err)
			}
		}
		if h := next(); h[0] != known || h[1] != known {
			t.Errorf("of more stock it heard %+v, %+v", h[0], h[1])
		}
		if _, _, err := there.PatchSKU(t.Context(), "shoe", sale.SKUPatch{Segments: to(3)}); err != nil {
			t.Fatal(err)
		}
		if h := next(); h[0] != known || h[1].Segments != 3 || h[1].Version != 2 {
			t.Errorf("of new rules it heard %+v, %+v", h[0], h[1])
		}
		select {
		case h := <-heard:
			t.Errorf("heard %+v, %+v as well", h[0], h[1])
		default:
		}
	})
}
