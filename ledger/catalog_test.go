package ledger

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func TestCatalogSeesOthersChanges(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		here, there := b.open(), b.open()
		sku, stock := b.wish("shoe", 10)
		if _, err := here.SKU(t.Context(), "shoe"); !errors.Is(err, sale.ErrUnknownSKU) {
			t.Fatalf("before it is made: %v", err)
		}
		if _, _, created, err := there.PutSKU(t.Context(), sku, stock, sale.Expect{}); err != nil || !created {
			t.Fatal(created, err)
		}
		// Here it is remembered as unknown, for longer than a second.
		var first *sale.SKU
		testenv.Within(t, time.Second, func() bool {
			var err error
			first, err = here.SKU(t.Context(), "shoe")
			return err == nil
		}, "a new SKU is seen")
		again, err := here.SKU(t.Context(), "shoe")
		if err != nil || again != first {
			t.Errorf("not from memory: %p, %p, %v", first, again, err)
		}
		paused := sale.StatePaused
		if _, _, err := there.PatchSKU(t.Context(), "shoe", sale.SKUPatch{State: &paused}); err != nil {
			t.Fatal(err)
		}
		if own, err := there.SKU(t.Context(), "shoe"); err != nil || own.State != paused {
			t.Errorf("its own change is not seen at once: %+v, %v", own, err)
		}
		testenv.Within(t, time.Second, func() bool {
			s, err := here.SKU(t.Context(), "shoe")
			return err == nil && s.State == paused && s.Version == 2
		}, "a change is seen")
		if first.State != sale.StateOpen {
			t.Error("a published SKU was changed in place")
		}
	})
}

func TestCatalogAgainstAFloodOfUnknownSKUs(t *testing.T) {
	b := sqliteBed(t)
	db := b.open()
	b.sku("real", 1, 0)
	ctx := t.Context()
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for i := range 400 {
				_, err := db.SKU(ctx, fmt.Sprintf("no-%d-%d", w, i))
				if !errors.Is(err, sale.ErrUnknownSKU) && !errors.Is(err, sale.ErrUnavailable) {
					t.Errorf("%v", err)
				}
			}
		})
	}
	for range 100 {
		if _, err := db.SKU(ctx, "real"); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if n := len(db.catalog.waiting); n != 0 {
		t.Errorf("%d still wait", n)
	}
	if _, err := db.SKU(ctx, "not a name"); !errors.Is(err, sale.ErrUnknownSKU) {
		t.Error(err)
	}
}

func TestCatalogBoundsWhoWaits(t *testing.T) {
	c := newCatalog(100)
	for i := range catalogWaiting {
		if _, err := c.ask(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.ask("one-more"); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("one too many: %v", err)
	}
	same, err := c.ask("7")
	if err != nil || same != c.waiting["7"] {
		t.Errorf("a SKU that waits already is read twice: %v", err)
	}
	batch, more := c.batch()
	if len(batch) != catalogBatch || !more {
		t.Errorf("a batch of %d, more %v", len(batch), more)
	}
	c.close()
	<-same.done
	if !errors.Is(same.err, sale.ErrShuttingDown) {
		t.Error(same.err)
	}
	if _, err := c.ask("late"); !errors.Is(err, sale.ErrShuttingDown) {
		t.Error(err)
	}
}

func TestCatalogServesWhileTheDatabaseIsAway(t *testing.T) {
	needServers(t)
	server := testenv.OwnMariaDB(t)
	b := newBed(t, Config{Driver: "mysql", DSN: server.DSN})
	db := b.open()
	b.sku("shoe", 10, 0)
	before, err := db.SKU(t.Context(), "shoe")
	if err != nil {
		t.Fatal(err)
	}
	server.Kill()
	ctx := t.Context()
	if sku, err := db.SKU(ctx, "shoe"); err != nil || sku != before {
		t.Errorf("%v", err)
	}
	if _, err := db.SKU(ctx, "never-seen"); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("a SKU nobody remembers: %v", err)
	}
	server.Restart(t)
	b.exec("UPDATE skus SET title = 'Boot', version = 2, changed_at = ? WHERE sku = 'shoe'", db.Now())
	testenv.Eventually(t, func() bool {
		sku, err := db.SKU(ctx, "shoe")
		return err == nil && sku.Title == "Boot"
	}, "changes are seen after the database's return")
}

func TestCacheTable(t *testing.T) {
	c := newCatalog(1000)
	table := &c.known
	for i := range 10_000 {
		table.put(fmt.Sprint(i), &sale.SKU{Ordinal: int64(i)}, func(*sale.SKU) bool { return true })
		if sku, ok := table.get(fmt.Sprint(i)); !ok || sku.Ordinal != int64(i) {
			t.Fatalf("%d is not there right after it came", i)
		}
		if _, ok := table.get("0"); !ok {
			t.Fatalf("what is asked for all the time was given up for %d", i)
		}
	}
	kept := 0
	for i := range 10_000 {
		if _, ok := table.get(fmt.Sprint(i)); ok {
			kept++
		}
	}
	if kept < 900 || kept > 1024 {
		t.Errorf("%d of 10,000 kept in a table of 1,000", kept)
	}
	table.drop("0")
	if _, ok := table.get("0"); ok {
		t.Error("dropped and there")
	}

	old, young := &sale.SKU{Name: "s", Version: 1}, &sale.SKU{Name: "s", Version: 2}
	c.store(young)
	c.store(old)
	if got, _ := table.get("s"); got != young {
		t.Error("an older version replaced a newer one")
	}
}

func BenchmarkSKU(b *testing.B) {
	bed := sqliteBed(b)
	db := bed.open()
	bed.sku("shoe", 1, 0)
	ctx := b.Context()
	if _, err := db.SKU(ctx, "shoe"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := db.SKU(ctx, "shoe"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func TestSKUFromMemoryAllocatesNothing(t *testing.T) {
	// One that does not run, so that nothing else allocates meanwhile.
	db := sqliteBed(t).new()
	defer func() { _ = db.pools.close() }()
	db.catalog.store(&sale.SKU{Name: "shoe", Version: 1})
	ctx := t.Context()
	if _, err := db.SKU(ctx, "shoe"); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = db.SKU(ctx, "shoe") }); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
