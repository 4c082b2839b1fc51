package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func testContext(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(context.Background())
}

// TestAnOutboxRowThatCannotBeRead comes with its damage, and hides no other.
func TestAnOutboxRowThatCannotBeRead(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		one, two := b.sku("one", 100, 0), b.sku("two", 100, 0)
		for i := range 3 {
			settleGroup(t, db, admitted(one, claim(one, fmt.Sprint(i), "1", 1)), admitted(two, claim(two, fmt.Sprint(i), "1", 1)))
		}
		b.exec("UPDATE outbox SET payload = " + string(b.dialect.AppendBytes(nil, []byte{packed, 0xff})) + " WHERE sku = 'one'")
		rows, err := db.PendingOutbox(t.Context(), 0, 0, 100, nil)
		if err != nil || len(rows) != 6 {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
		for _, r := range rows {
			if damaged := r.Damage != nil; damaged != (r.SKU == "one") || damaged != (r.Payload == nil) {
				t.Errorf("%s: %v, %q", r.SKU, r.Damage, r.Payload)
			}
		}
		if rows, err := db.PendingOutbox(t.Context(), 0, 0, 2, []string{"one"}); err != nil || len(rows) != 2 || rows[0].SKU != "two" || rows[1].SKU != "two" {
			t.Errorf("without one: %v, %v", rows, err)
		}
		pending := 0
		err = db.InSnapshot(t.Context(), func(s *Snapshot) error {
			return s.EachPending(t.Context(), func(sale.OutboxRow) error { pending++; return nil })
		})
		if err != nil || pending != 6 {
			t.Errorf("a snapshot has %d rows, %v", pending, err)
		}
	})
}

// A page of the outbox is bounded in bytes, and never empty where there is something: large
// rows are read few at a time.
func TestLargeOutboxRowsComeFewAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 100, 0)
		for i := range 6 {
			settleGroup(t, db, admitted(sku, claim(sku, fmt.Sprint(i), "1", 1)))
		}
		for _, size := range []int{outboxBytes / 2, outboxBytes} {
			large := "[" + strings.Repeat(" ", size-2) + "]"
			b.exec("UPDATE outbox SET payload = " + string(b.dialect.AppendBytes(nil, []byte(large))))
			seen, after := 0, int64(0)
			for {
				page, err := db.PendingOutbox(t.Context(), 0, after, 100, nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 {
					break
				}
				if len(page) > outboxBytes/size || string(page[0].Payload) != large {
					t.Errorf("%d rows of %d bytes in a page", len(page), size)
				}
				seen, after = seen+len(page), page[len(page)-1].ID
			}
			if seen != 6 {
				t.Errorf("%d rows of %d bytes are read, want 6", seen, size)
			}
		}
	})
}

func TestOutboxRows(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		var mu sync.Mutex
		var told []sale.OutboxRow
		db := b.new()
		db.SetHooks(Hooks{Committed: func(rows []sale.OutboxRow) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, rows...)
		}})
		b.run(db)
		one, two := b.sku("one", 100, 0), b.sku("two", 100, 2)
		coupon := claim(two, "ann", "1", 1)
		coupon.Coupon = "SAVE'10\\"
		settleGroup(t, db, admitted(one, claims(one, "u", 3)...), admitted(two, append(claims(two, "u", 2), coupon)...), direct(one, claims(one, "d", 2)...))
		// A refusal is no event.
		settleGroup(t, db, direct(two, claim(two, "ann", "2", 2)))

		pending, err := db.PendingOutbox(t.Context(), 0, 0, 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(pending) != 4 || len(told) != 4 {
			t.Fatalf("%d rows stored, %d told", len(pending), len(told))
		}
		slices.SortFunc(told, func(a, b sale.OutboxRow) int { return int(a.ID - b.ID) })
		kinds := map[string]int{}
		for i, p := range pending {
			w := told[i]
			if p.ID != w.ID || p.MsgID != w.MsgID || p.SKU != w.SKU || p.Kind != w.Kind || p.At != w.At || string(p.Payload) != string(w.Payload) {
				t.Errorf("stored %+v, told %+v", p, w)
			}
			kinds[p.SKU+" "+string(p.Kind)]++
		}
		if kinds["one results.reserved"] != 2 || kinds["two results.reserved"] != 1 || kinds["two coupons.redeem"] != 1 {
			t.Errorf("kinds %v", kinds)
		}
		if rest, err := db.PendingOutbox(t.Context(), 0, pending[1].ID, 1, nil); err != nil || len(rest) != 1 || rest[0].ID != pending[2].ID {
			t.Errorf("the page after the second: %+v, %v", rest, err)
		}
		if young, err := db.PendingOutbox(t.Context(), time.Hour, 0, 100, nil); err != nil || len(young) != 0 {
			t.Errorf("older than an hour: %v, %v", young, err)
		}

		db.Acked([]int64{pending[1].ID, pending[0].ID})
		db.Acked([]int64{pending[2].ID, pending[3].ID, pending[3].ID})
		testenv.Eventually(t, func() bool { return b.number("SELECT COUNT(*) FROM outbox") == 0 }, "acknowledged rows are deleted")
	})
}

func TestReads(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 30_000, 3, func(s *sale.SKU) { s.Segments = 2 })
		none := b.sku("none", 5, 0)
		batch := admitted(sku, claims(sku, "u", 6000)...)
		for i := range batch.Segments {
			batch.Segments[i] = i % 2
		}
		settleGroup(t, db, batch)
		settleGroup(t, db, direct(sku, claim(sku, "u-0", "again", 2)))

		chunks, seen := 0, map[sale.OrderID]int{}
		err := db.EachOrder(t.Context(), "shoe", func(orders []sale.HeldOrder) error {
			chunks++
			for _, o := range orders {
				seen[o.ID] = o.Segment
			}
			return nil
		})
		if err != nil || len(seen) != 6001 || chunks != 2 || seen[batch.Claims[5].ID] != 1 || seen[batch.Claims[4].ID] != 0 {
			t.Errorf("EachOrder: %v, %d ids in %d chunks", err, len(seen), chunks)
		}
		units := map[string]int64{}
		err = db.EachBuyer(t.Context(), "shoe", func(users []string, n []int64) error {
			for i, u := range users {
				units[u] = n[i]
			}
			return nil
		})
		if err != nil || len(units) != 6000 || units["u-0"] != 3 || units["u-1"] != 1 {
			t.Errorf("EachBuyer: %v, %d buyers, %d %d", err, len(units), units["u-0"], units["u-1"])
		}
		stop := errors.New("stop")
		if err := db.EachOrder(t.Context(), "shoe", func([]sale.HeldOrder) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("fn's error came back as %v", err)
		}
		if err := db.EachOrder(t.Context(), "none", func([]sale.HeldOrder) error { return stop }); err != nil {
			t.Errorf("a SKU without orders: %v", err)
		}

		ids := make([]sale.OrderID, 0, 6002)
		for _, c := range batch.Claims {
			ids = append(ids, c.ID)
		}
		found, err := db.Find(t.Context(), append(ids, claim(none, "x", "y", 1).ID))
		if err != nil || len(found) != 6000 {
			t.Errorf("Find: %v, %d", err, len(found))
		}
		if _, err := db.Order(t.Context(), claim(none, "x", "y", 1).ID); !errors.Is(err, sale.ErrUnknownOrder) {
			t.Errorf("an unknown order: %v", err)
		}
		if stock, err := db.Stock(t.Context(), "shoe"); err != nil || stock[0].Sold+stock[1].Sold != 6002 {
			t.Errorf("stock %v, %v", stock, err)
		}
		ctx, cancel := testContext(t)
		cancel()
		if _, err := db.Find(ctx, ids); !errors.Is(err, sale.ErrUnavailable) {
			t.Errorf("with an ended context: %v", err)
		}
	})
}

func TestFindExhausted(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.new()
		db.exhausted.bound = 150
		b.run(db)
		sku := b.sku("shoe", 101, 0)
		bought := claims(sku, "u", 100)
		settleGroup(t, db, admitted(sku, bought...))
		ids := []sale.OrderID{bought[3].ID, bought[77].ID}
		for i := range 20 {
			ids = append(ids, claim(sku, "loser", string(rune('a'+i)), 1).ID)
		}
		check := func(want int, exhausted bool) {
			t.Helper()
			found, gone, err := db.FindExhausted(t.Context(), "shoe", ids)
			if err != nil || gone != exhausted || len(found) != want {
				t.Fatalf("%d found, exhausted %v, %v; want %d, %v", len(found), gone, err, want, exhausted)
			}
			for id, o := range found {
				if o.ID != id || o.SKU != "shoe" {
					t.Fatalf("found %+v under %v", o, id)
				}
			}
		}
		loaded := func() bool {
			db.exhausted.mu.Lock()
			defer db.exhausted.mu.Unlock()
			s := db.exhausted.sets["shoe"]
			return s != nil && s.loaded
		}
		check(0, false)
		last := claim(sku, "last", "1", 1)
		settleGroup(t, db, direct(sku, last))
		check(2, true)
		check(2, true)
		if !loaded() {
			t.Fatal("the ids are not kept in memory")
		}
		check(2, true)
		// A unit comes back and goes again: to somebody whose id the set lacks.
		b.exec("UPDATE orders SET status = 'cancelled', version = 2 WHERE order_id = ?", last.ID[:])
		b.exec("UPDATE stock SET sold = sold - 1, raises = raises + 1 WHERE sku = 'shoe'")
		check(0, false)
		next := claim(sku, "next", "1", 1)
		settleGroup(t, db, direct(sku, next))
		ids = append(ids, next.ID, last.ID)
		check(4, true)
		check(4, true)
		if !loaded() || db.exhausted.size != 102 {
			t.Fatalf("%d ids held", db.exhausted.size)
		}
		// Another SKU needs the room.
		hat := b.sku("hat", 100, 0)
		settleGroup(t, db, admitted(hat, claims(hat, "u", 100)...))
		for range 3 {
			if _, gone, err := db.FindExhausted(t.Context(), "hat", ids); err != nil || !gone {
				t.Fatal(gone, err)
			}
		}
		if loaded() || db.exhausted.size != 100 {
			t.Fatalf("%d ids held, the older set is still there: %v", db.exhausted.size, loaded())
		}
		// One that can never fit is read row by row.
		big := b.sku("big", 160, 0)
		settleGroup(t, db, admitted(big, claims(big, "u", 160)...))
		for range 5 {
			found, gone, err := db.FindExhausted(t.Context(), "big", append(ids, claims(big, "u", 1)[0].ID))
			if err != nil || !gone || len(found) != 5 {
				t.Fatal(len(found), gone, err)
			}
		}
	})
}

func TestShutdownAnswersWhatWasAccepted(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.new()
		ctx, cancel := testContext(t)
		var running, callers sync.WaitGroup
		running.Go(func() {
			if err := db.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		testenv.Eventually(t, db.Ready, "ready")
		sku := b.sku("shoe", 100_000, 0)
		var mu sync.Mutex
		reserved := 0
		for caller := range 8 {
			callers.Go(func() {
				for i := 0; ; i++ {
					r, err := db.Commit(context.Background(), admitted(sku, claim(sku, string(rune('a'+caller)), string(rune(i)), 1)))
					if err != nil {
						if !errors.Is(err, sale.ErrShuttingDown) {
							t.Errorf("Commit: %v", err)
						}
						return
					}
					mu.Lock()
					reserved += len(r.Verdicts)
					if reserved == 50 {
						cancel()
					}
					mu.Unlock()
				}
			})
		}
		callers.Wait()
		running.Wait()
		cancel()
		if n := b.number("SELECT COUNT(*) FROM orders"); n != int64(reserved) {
			t.Errorf("%d orders, %d were answered", n, reserved)
		}
	})
}

func TestWithdrawnClaimsAreNotCommitted(t *testing.T) {
	b := mariaBed(t)
	db := b.open(func(c *Config) { c.Committers = 1 })
	sku := b.sku("shoe", 10, 0)
	lock := b.lockStock("shoe")
	var wg sync.WaitGroup
	wg.Go(func() {
		if r, err := db.Commit(t.Context(), admitted(sku, claims(sku, "first", 1)...)); err != nil || r.Verdicts[0].Outcome != sale.Reserved {
			t.Errorf("%+v, %v", r, err)
		}
	})
	b.executing("INSERT INTO stock")
	ctx, cancel := testContext(t)
	var err error
	var second sync.WaitGroup
	second.Go(func() { _, err = db.Commit(ctx, admitted(sku, claims(sku, "second", 1)...)) })
	testenv.Eventually(t, func() bool {
		db.queue.mu.Lock()
		defer db.queue.mu.Unlock()
		return len(db.queue.waiting.calls) == 1
	}, "the second call waits")
	cancel()
	second.Wait()
	if !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("withdrawn: %v", err)
	}
	lock.exec("ROLLBACK")
	wg.Wait()
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 1 {
		t.Errorf("%d orders", n)
	}
}

// TestOutboxRowsOfAnotherClock are neither hidden nor overtaken: what counts is where a row
// stands, and its time only where that can be.
func TestOutboxRowsOfAnotherClock(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 100, 0)
		const n = 4
		for i := range n {
			settleGroup(t, db, admitted(sku, claim(sku, fmt.Sprint(i), "1", 1)))
		}
		all, err := db.PendingOutbox(t.Context(), 0, 0, 100, nil)
		if err != nil || len(all) != n {
			t.Fatalf("%d rows, %v", len(all), err)
		}
		const minute, hour = int64(60_000), int64(3_600_000)
		for name, c := range map[string]struct {
			ago  [n]int64 // how old each row is, ms
			want int
		}{
			"all old":                     {[n]int64{hour, hour, hour, hour}, 4},
			"set back behind the second":  {[n]int64{-hour, -hour, hour, hour}, 4},
			"set forward behind it":       {[n]int64{2 * hour, 2 * hour, 2 * minute, 0}, 3},
			"the third is young":          {[n]int64{hour, hour, 0, hour}, 2},
			"the first is, by a moment":   {[n]int64{-100, hour, hour, hour}, 0},
			"young and from the future":   {[n]int64{hour, -hour, 0, -hour}, 2},
			"all young":                   {[n]int64{}, 0},
			"all from some time to come":  {[n]int64{-minute, -minute, -minute, -minute}, 4},
			"the last is, by two seconds": {[n]int64{hour, hour, hour, -2000}, 4},
		} {
			for i, r := range all {
				b.exec(fmt.Sprintf("UPDATE outbox SET at = %d WHERE id = %d", db.Now()-c.ago[i], r.ID))
			}
			rows, err := db.PendingOutbox(t.Context(), time.Minute, 0, 100, nil)
			if err != nil || len(rows) != c.want {
				t.Errorf("%s: %d rows, want %d; %v", name, len(rows), c.want, err)
			}
			for i, r := range rows {
				if r.ID != all[i].ID {
					t.Errorf("%s: row %d is out of order", name, i)
				}
			}
		}
	})
}
