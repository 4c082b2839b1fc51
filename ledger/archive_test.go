package ledger

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// keepNothing archives and deletes whatever has been closed.
var keepNothing = sale.Retention{Orders: time.Millisecond, Archived: time.Millisecond, Rate: 1e6}

// keepArchive archives, and deletes nothing.
var keepArchive = sale.Retention{Orders: time.Millisecond, Rate: 1e6}

// retain runs to the end.
func (b *bed) retain(db *DB, keep sale.Retention) {
	b.t.Helper()
	if err := db.Retain(b.t.Context(), keep); err != nil {
		b.t.Fatal(err)
	}
}

// close closes a SKU, so that it may be archived.
func (b *bed) close(db *DB, sku string) {
	b.t.Helper()
	if _, _, err := db.PatchSKU(b.t.Context(), sku, sale.SKUPatch{State: to(sale.StateClosed)}); err != nil {
		b.t.Fatal(err)
	}
	b.exec("UPDATE skus SET changed_at = changed_at - 1000 WHERE sku = ?", sku)
}

// archived is a SKU whose orders have been archived, by what became of them.
func (b *bed) archived(db *DB) (*sale.SKU, map[string]sale.Order) {
	b.t.Helper()
	sku := b.sku("shoe", 90, 3, func(s *sale.SKU) { s.Segments = 3 })
	orders := make(map[string]sale.Order)
	for _, life := range []string{"paid", "cancelled", "expired", "retaken"} {
		orders[life] = b.reserve(db, sku, life, "1", 2)
	}
	for _, life := range []string{"paid", "retaken"} {
		o := orders[life]
		if life == "retaken" {
			b.cancel(db, &o)
			b.pay(db, paymentOf(&o, "evt-"+life), sale.PaymentRetaken)
			continue
		}
		b.pay(db, paymentOf(&o, "evt-"+life), sale.PaymentApplied)
	}
	cancelled := orders["cancelled"]
	b.cancel(db, &cancelled)
	b.overdue(db)
	b.expireAll(db)
	b.close(db, "shoe")
	b.retain(db, keepArchive)
	for life, o := range orders {
		var err error
		if orders[life], err = db.Order(b.t.Context(), o.ID); err != nil {
			b.t.Fatalf("%s: %v", life, err)
		}
	}
	return sku, orders
}

func TestArchive(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		_, orders := b.archived(db)
		if n := b.number("SELECT COUNT(*) FROM orders"); n != 0 {
			t.Errorf("%d orders are where they were made", n)
		}
		if sold, archived := b.number("SELECT SUM(sold) FROM stock"), b.number("SELECT SUM(archived) FROM stock"); sold != 4 || archived != 4 {
			t.Errorf("%d units are sold, %d of them archived", sold, archived)
		}
		if n := b.number("SELECT COUNT(*) FROM buyers") + b.number("SELECT COUNT(*) FROM stock_moves WHERE reason <> 'operator'"); n != 0 {
			t.Errorf("%d rows of buyers and give-backs are left", n)
		}
		if n := b.number("SELECT SUM(delta) FROM inventory_log WHERE reason <> 'operator'"); n != -4 {
			t.Errorf("the log explains %d units", n)
		}
		for life, want := range map[string]sale.Status{"paid": sale.StatusPaid, "retaken": sale.StatusPaid, "cancelled": sale.StatusCancelled, "expired": sale.StatusExpired} {
			if orders[life].Status != want {
				t.Errorf("%s is %v", life, orders[life].Status)
			}
		}
		b.clean(db)
		if err := db.Repair(t.Context()); err != nil || b.number("SELECT SUM(sold) FROM stock") != 4 {
			t.Errorf("repaired: %v", err)
		}
	})
}

// Whatever is asked of an archived order is answered as of any other, and sells nothing.
func TestArchivedOrdersAreKnown(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		_, orders := b.archived(db)
		ctx := t.Context()
		for life, want := range map[string]error{"paid": sale.ErrAlreadyPaid, "retaken": sale.ErrAlreadyPaid, "expired": sale.ErrOrderExpired, "cancelled": nil} {
			if o, err := db.Cancel(ctx, orders[life].ID, life); !errors.Is(err, want) || (want == nil && (err != nil || o != orders[life])) {
				t.Errorf("cancel a %s order: %+v, %v", life, o, err)
			}
			if _, err := db.Cancel(ctx, orders[life].ID, "mallory"); !errors.Is(err, sale.ErrUnknownOrder) {
				t.Errorf("another cancels a %s order: %v", life, err)
			}
		}
		for _, life := range []string{"paid", "retaken"} {
			o := orders[life]
			r, err := db.Pay(ctx, paymentOf(&o, "evt-"+life))
			if err != nil || !r.Repeated || r.Order != o {
				t.Errorf("the payment of a %s order comes again: %+v, %v", life, r, err)
			}
		}
		for life := range orders {
			o := orders[life]
			b.pay(db, paymentOf(&o, "late-"+life), sale.PaymentRefund)
			failed := paymentOf(&o, "failed-"+life)
			failed.Succeeded = false
			b.pay(db, failed, sale.PaymentFailed)
			if e := b.events(o.ID); e[len(e)-1] != "payments.refund" {
				t.Errorf("%s: events %v", life, e)
			}
		}
		for _, p := range []sale.SKUPatch{{State: to(sale.StateOpen)}, {PerUserLimit: to(int64(0))}, {Segments: to(1)}} {
			if _, _, err := db.PatchSKU(ctx, "shoe", p); !errors.Is(err, sale.ErrArchived) {
				t.Errorf("%v", err)
			}
		}
		if _, stock, _, err := db.AddStock(ctx, "shoe", 5, ""); err != nil || stock != (sale.Stock{Total: 95, Sold: 4}) {
			t.Errorf("%+v, %v", stock, err)
		}
		sku, err := db.SKU(ctx, "shoe")
		if err != nil || sku.Archive != sale.ArchiveDone {
			t.Fatalf("%+v, %v", sku, err)
		}
		if got := b.buy(db, sku, "paid", "1", 2); got != sale.Closed {
			t.Errorf("a repeat hears %v", got)
		}
		b.clean(db)
	})
}

// What is restored was read from the stream, which tells of archived orders too.
func TestArchivedOrdersAreNotRestored(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		_, orders := b.archived(db)
		found, err := db.FindEver(t.Context(), []sale.OrderID{orders["paid"].ID, orders["expired"].ID})
		if err != nil || len(found) != 2 {
			t.Errorf("%v, %v", found, err)
		}
		for round := range 2 {
			for life, o := range orders {
				if got := b.restored(db, o); got[0] != []string{"exists", "archived"}[round] {
					t.Errorf("round %d: a %s order is %s", round, life, got)
				}
			}
			b.exec("UPDATE skus SET changed_at = changed_at - 1000 WHERE sku = 'shoe'")
			b.retain(db, keepNothing)
		}
		if n := b.number("SELECT COUNT(*) FROM orders_archive") + b.number("SELECT COUNT(*) FROM payments"); n != 0 {
			t.Errorf("%d rows are left of what is to be deleted", n)
		}
		o := orders["paid"]
		if _, err := db.Order(t.Context(), o.ID); !errors.Is(err, sale.ErrUnknownOrder) {
			t.Errorf("%v", err)
		}
		if n := b.number("SELECT SUM(sold) FROM stock"); n != 4 {
			t.Errorf("%d units are sold", n)
		}
		b.clean(db)
	})
}

// What is reserved stays until it is paid or has expired; a SKU that is opened again in
// time, or is not closed, stays as it is.
func TestWhatIsNotArchived(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		open, closed, over, reopened := b.sku("open", 10, 0), b.sku("closed", 10, 2), b.sku("over", 10, 0, func(s *sale.SKU) { s.ClosesAt = 5 }), b.sku("reopened", 10, 0)
		b.exec("UPDATE skus SET closes_at = 0 WHERE sku = 'over'")
		reserved := b.reserve(db, closed, "ann", "1", 2)
		for _, sku := range []*sale.SKU{open, closed, over, reopened} {
			s := *sku
			s.ClosesAt = 0
			o := b.reserve(db, &s, "bob", "1", 1)
			b.pay(db, paymentOf(&o, "evt-"+sku.Name), sale.PaymentApplied)
		}
		b.exec("UPDATE skus SET closes_at = 5 WHERE sku = 'over'")
		b.close(db, "closed")
		b.close(db, "reopened")
		if _, _, err := db.PatchSKU(t.Context(), "reopened", sale.SKUPatch{State: to(sale.StateOpen)}); err != nil {
			t.Fatal(err)
		}
		stages := func(want string) {
			t.Helper()
			b.retain(db, keepArchive)
			got := ""
			for _, name := range []string{"open", "closed", "over", "reopened"} {
				var stage string
				if err := b.raw.QueryRow("SELECT archive FROM skus WHERE sku = ?", name).Scan(&stage); err != nil {
					t.Fatal(err)
				}
				got += fmt.Sprintf("%s %s %d; ", name, stage, b.number("SELECT COUNT(*) FROM orders WHERE sku = ?", name))
			}
			if got != want {
				t.Errorf("%s, want %s", got, want)
			}
			b.clean(db)
		}
		stages("open none 1; closed archiving 1; over archived 0; reopened none 1; ")
		b.retain(db, sale.Retention{})
		r := b.pay(db, paymentOf(&reserved, "evt"), sale.PaymentApplied)
		if r.Order.Status != sale.StatusPaid {
			t.Errorf("%+v", r)
		}
		stages("open none 1; closed archived 0; over archived 0; reopened none 1; ")
	})
}

// Several gateways archive at once, and each dies or loses its connection somewhere: each
// order is moved once, and the stock agrees at every moment.
func TestArchiveEndsAnywhere(t *testing.T) {
	b, p := proxied(t)
	seller := b.open()
	const skus, each = 3, 3 * archiveChunk
	for i := range skus {
		sku := b.sku(fmt.Sprintf("sku-%d", i), 2*each, int64(i%2)*5)
		for n := 0; n < each; n += 500 {
			settleGroup(t, seller, admitted(sku, claims(sku, fmt.Sprintf("u%d-", n), 500)...))
		}
		b.exec("UPDATE orders SET status = 'paid', version = 2 WHERE sku = ?", sku.Name)
		b.close(seller, sku.Name)
	}
	b.exec("DELETE FROM due")
	audited := func() {
		t.Helper()
		found := b.findings(seller)
		delete(found, "paid_orders") // paid by hand
		if len(found) > 0 {
			t.Errorf("%+v", found)
		}
	}
	var losses []<-chan struct{}
	for range 2 {
		losses = append(losses, p.SwallowReply("COMMIT"), p.CutBefore("INSERT INTO orders_archive"), p.CutBefore("DELETE FROM buyers"))
	}
	var wg sync.WaitGroup
	for range 3 {
		db := b.open()
		wg.Go(func() {
			for db.Retain(t.Context(), keepArchive) != nil || b.number("SELECT COUNT(*) FROM orders") > 0 {
				audited()
			}
		})
	}
	wg.Wait()
	for _, l := range losses {
		disturbed(t, l)
	}
	audited()
	if n := b.number("SELECT COUNT(*) FROM orders_archive"); n != skus*each {
		t.Errorf("%d orders are archived", n)
	}
	if n := b.number("SELECT COUNT(*) FROM stock WHERE sold = archived AND sold = ?", each); n != skus {
		t.Errorf("%d rows of the stock agree", n)
	}
}

// A SKU whose rows somebody holds is left, and holds up no other.
func TestArchiveHeld(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	for _, sku := range b.others(3, 0) {
		o := b.reserve(db, sku, "ann", "1", 1)
		b.cancel(db, &o)
		b.close(db, sku.Name)
	}
	b.exec("UPDATE skus SET archive = 'archiving', version = version + 1")
	b.exec("UPDATE stock SET sku_version = (SELECT version FROM skus k WHERE k.sku = stock.sku)")
	held := b.all(db)[0]
	s := b.session()
	s.exec("START TRANSACTION", "SELECT * FROM orders WHERE sku = '"+held.SKU+"' FOR UPDATE")
	if err := db.Retain(t.Context(), keepArchive); !errors.Is(err, sale.ErrPartly) || !strings.Contains(err.Error(), held.SKU) {
		t.Errorf("%v", err)
	}
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 1 {
		t.Errorf("%d orders are left, one SKU is held", n)
	}
	s.exec("ROLLBACK")
	testenv.Eventually(t, func() bool { return db.Retain(t.Context(), keepArchive) == nil }, "the SKU is free")
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 0 {
		t.Errorf("%d orders are left", n)
	}
	b.clean(db)
}

// Between the first that is deleted and the last, nobody finds anything wrong, however long
// that takes; and neither where nothing is to be deleted any more.
func TestAuditWhileAnArchiveIsDeleted(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		b.archived(db)
		a := &archivist{db: db, keep: keepNothing, until: time.Now().Add(testenv.Patience)}
		if err := a.advance(t.Context(), "shoe", sale.ArchiveDone, sale.ArchiveDropping); err != nil {
			t.Fatal(err)
		}
		for left := range 4 {
			b.clean(db)
			if n := b.number("SELECT COUNT(*) FROM orders_archive"); n != int64(4-left) {
				t.Errorf("%d are left, want %d", n, 4-left)
			}
			if n, err := db.dropChunk(t.Context(), "shoe", 1); err != nil || n != 1 {
				t.Fatalf("%d, %v", n, err)
			}
		}
		b.clean(db)
		b.retain(db, sale.Retention{Rate: 100, Archived: time.Hour})
		if sku, err := db.readSKUs(t.Context(), []string{"shoe"}); err != nil || sku["shoe"].Archive != sale.ArchiveDropped {
			t.Errorf("%+v, %v", sku["shoe"], err)
		}
	})
}

// What a ledger lost of an archived SKU is put back, and an order that it has otherwise is said.
func TestRestoreIntoAnArchivedSKU(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		_, orders := b.archived(db)
		paid := orders["paid"]
		b.exec("DELETE FROM orders_archive WHERE order_id = ?", paid.ID[:])
		b.exec("DELETE FROM payments WHERE order_id = ?", paid.ID[:])
		b.exec("UPDATE stock SET sold = sold - 2, archived = archived - 2 WHERE sku = 'shoe' AND segment = ?", paid.Segment)
		if got := b.restored(db, paid); got[0] != "restored" {
			t.Errorf("lost: %s", got)
		}
		if o, err := db.Order(t.Context(), paid.ID); err != nil || o != paid {
			t.Errorf("%+v, %v", o, err)
		}
		otherwise := orders["expired"]
		otherwise.Status, otherwise.Version = sale.StatusPaid, 3
		if got := b.restored(db, otherwise); got[0] != "exists_with_different" {
			t.Errorf("otherwise: %s", got)
		}
		b.clean(db)
	})
}

// A late payment of an order that is just being deleted finds that it has gone.
func TestPaymentOfAnOrderThatIsDeleted(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		_, orders := b.archived(db)
		o := orders["paid"]
		for _, there := range []bool{true, false} {
			conn, err := db.pools.edge.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			write := &transition{db: db, at: db.Now(), kept: []sale.OrderID{o.ID}}
			err = write.write(t.Context(), &try{conn: conn})
			rollback(conn)
			_ = conn.Close()
			if failed := db.dialect.Classify(err) == dialect.Violated; failed == there {
				t.Errorf("there: %v, %v", there, err)
			}
			b.exec("DELETE FROM orders_archive WHERE order_id = ?", o.ID[:])
		}
	})
}

// The schema cannot go back where that would sell what is archived again.
func TestArchivesCannotBeUnmade(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		b.archived(db)
		p, err := migrationsOf(b.dialect, b.raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.DownTo(t.Context(), 7); err == nil {
			t.Error("it went back")
		}
		b.clean(db)
	})
}
