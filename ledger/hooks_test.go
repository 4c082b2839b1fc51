package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"flashgate/sale"
)

// told records what the hooks say. Each test's calls are its own, one after the other.
type told struct{ released, changed []string }

func (w *told) hooks() Hooks {
	return Hooks{
		Released: func(_ context.Context, sku string, orders []sale.Order) {
			for _, o := range orders {
				w.released = append(w.released, fmt.Sprint(sku, " ", o.User, " ", o.Status))
			}
		},
		Changed: func(before, after *sale.SKU, stock bool) {
			how := "changed"
			if before == nil {
				how = "made"
			}
			w.changed = append(w.changed, fmt.Sprint(after.Name, " ", how, " ", after.Title, " ", stock))
		},
	}
}

func TestHooksTellOfGiveBacks(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		var w told
		db := b.new()
		db.SetHooks(w.hooks())
		b.run(db)
		shoe, sock := b.sku("shoe", 10, 2), b.sku("sock", 10, 0)
		ann := b.reserve(db, shoe, "ann", "1", 2)
		b.reserve(db, shoe, "bob", "1", 1)
		b.reserve(db, sock, "cat", "1", 1)
		if len(w.released) > 0 {
			t.Errorf("a purchase gave back %v", w.released)
		}
		for range 2 { // the second time it is cancelled already, and told of again
			if _, err := db.Cancel(t.Context(), ann.ID, "ann"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Cancel(t.Context(), ann.ID, "bob"); !errors.Is(err, sale.ErrUnknownOrder) {
			t.Errorf("another's order: %v", err)
		}
		if !slices.Equal(w.released, []string{"shoe ann cancelled", "shoe ann cancelled"}) {
			t.Errorf("a cancellation gave back %v", w.released)
		}
		b.overdue(db)
		w.released = nil
		for range 2 {
			if err := db.Expire(t.Context(), b.lead(db)); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(w.released)
		if !slices.Equal(w.released, []string{"shoe bob expired", "sock cat expired"}) {
			t.Errorf("expiry gave back %v", w.released)
		}
	})
}

// A change of a SKU whose COMMIT was answered to nobody is told of all the same, once.
func TestHooksTellOfChangesThatWereInDoubt(t *testing.T) {
	needServers(t)
	b, p := proxied(t)
	var w told
	db := b.new()
	db.SetHooks(w.hooks())
	b.run(db)
	wished, stock := b.wish("shoe", 10)
	b.put(db, wished, stock)
	w.changed = nil
	sprung := p.SwallowReply(";COMMIT;")
	if _, had, _, err := db.AddStock(t.Context(), "shoe", -5, ""); err != nil || had.Total != 5 {
		t.Errorf("%+v, %v", had, err)
	}
	disturbed(t, sprung)
	if !slices.Equal(w.changed, []string{"shoe changed " + wished.Title + " true"}) {
		t.Errorf("told %q", w.changed)
	}
	// What another call had done under the same key is not.
	for range 2 {
		if _, _, _, err := db.AddStock(t.Context(), "shoe", 1, "key"); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.changed) != 2 {
		t.Errorf("told %q", w.changed)
	}
}

// A copy that is loaded knows live orders, however old, and those that ended lately: of
// others no repeat of a give-back is told.
func TestOldGiveBacksAreNotToldAgain(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		var w told
		db := b.new()
		db.SetHooks(w.hooks())
		b.run(db)
		shoe := b.sku("shoe", 10, 0)
		orders := make(map[string]sale.Order)
		for _, user := range []string{"old", "late", "paid"} {
			orders[user] = b.reserve(db, shoe, user, "1", 1)
		}
		for user, o := range orders {
			if user == "paid" {
				b.pay(db, paymentOf(&o, "evt"), sale.PaymentApplied)
			} else {
				b.cancel(db, &o)
			}
			if user != "late" {
				b.exec("UPDATE orders SET pay_by = ? WHERE order_id = ?", db.Now()-sale.RepeatsFor.Milliseconds(), o.ID[:])
			}
		}
		w.released = nil
		for _, user := range []string{"old", "late"} {
			if o, err := db.Cancel(t.Context(), orders[user].ID, user); err != nil || o.Status != sale.StatusCancelled {
				t.Errorf("%v, %v", o.Status, err)
			}
		}
		if !slices.Equal(w.released, []string{"shoe late cancelled"}) {
			t.Errorf("told again of %v", w.released)
		}
		want := []sale.HeldOrder{{ID: orders["late"].ID, Ended: true}, {ID: orders["paid"].ID}}
		slices.SortFunc(want, func(a, b sale.HeldOrder) int { return compareOrderIDs(a.ID, b.ID) })
		held, err := db.Source().Holdings(t.Context(), []string{"shoe"}, 10)
		if err != nil || !slices.Equal(held["shoe"].Orders, want) {
			t.Errorf("%+v, %v; want %+v", held["shoe"], err, want)
		}
		var each []sale.HeldOrder
		err = db.EachOrder(t.Context(), "shoe", func(o []sale.HeldOrder) error { each = append(each, o...); return nil })
		if err != nil || !slices.Equal(each, want) {
			t.Errorf("%+v, %v; want %+v", each, err, want)
		}
	})
}

// A cancellation whose COMMIT was answered to nobody is found out by the next attempt,
// which has to tell of it: nobody else will.
func TestHooksTellOfGiveBacksThatWereInDoubt(t *testing.T) {
	needServers(t)
	b, p := proxied(t)
	var w told
	db := b.new()
	db.SetHooks(w.hooks())
	b.run(db)
	o := b.reserve(db, b.sku("shoe", 10, 2), "ann", "1", 2)
	lost := p.SwallowReply(";COMMIT;")
	if _, err := db.Cancel(t.Context(), o.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	disturbed(t, lost)
	if !slices.Equal(w.released, []string{"shoe ann cancelled"}) {
		t.Errorf("given back: %v", w.released)
	}
}

func TestHooksTellOfChanges(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		var w told
		db := b.new()
		db.SetHooks(w.hooks())
		b.run(db)
		sku := sale.SKU{Name: "shoe", UnitPrice: 1, Currency: "EUR", PayWithin: 1000, State: sale.StateOpen, Heat: sale.HeatHot, Segments: 1}
		if _, _, _, err := db.PutSKU(t.Context(), sku, sale.Stock{Total: 3}, sale.Expect{}); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := db.AddStock(t.Context(), "shoe", 2, ""); err != nil {
			t.Fatal(err)
		}
		title := "Shoe"
		for range 2 { // the second time there is nothing to change
			if _, _, err := db.PatchSKU(t.Context(), "shoe", sale.SKUPatch{Title: &title}); err != nil {
				t.Fatal(err)
			}
		}
		var below *sale.StockBelowSoldError
		if _, _, _, err := db.AddStock(t.Context(), "shoe", -6, ""); !errors.As(err, &below) {
			t.Errorf("below nothing: %v", err)
		}
		if _, _, err := db.PatchSKU(t.Context(), "sock", sale.SKUPatch{Title: &title}); !errors.Is(err, sale.ErrUnknownSKU) {
			t.Errorf("no such SKU: %v", err)
		}
		if !slices.Equal(w.changed, []string{"shoe made  true", "shoe changed  true", "shoe changed Shoe false"}) {
			t.Errorf("told of %v", w.changed)
		}
	})
}

// Telling takes time, a call of Redis for every SKU: nothing that is due waits for it.
func TestHooksAreCalledAfterTheLastTransaction(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.new()
		var still []int64
		db.SetHooks(Hooks{Released: func(context.Context, string, []sale.Order) {
			still = append(still, b.number("SELECT COUNT(*) FROM orders WHERE status = 'reserved'"))
		}})
		b.run(db)
		sku := b.sku("shoe", 3000, 0)
		for g := range 3 {
			settleGroup(t, db, direct(sku, claims(sku, fmt.Sprint("g", g), 600)...))
		}
		b.overdue(db)
		if err := db.Expire(t.Context(), b.lead(db)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(still, []int64{0}) {
			t.Errorf("orders still reserved when the hook was called: %v", still)
		}
	})
}

// The COMMIT of an expiry is answered to nobody, and the lease is lost before the leader
// can look: the next one finds nothing due, so nobody else will tell.
func TestHooksTellOfExpiryThoughTheLeaseWasLost(t *testing.T) {
	needServers(t)
	b, p := proxied(t)
	var w told
	db := b.new()
	db.SetHooks(w.hooks())
	b.run(db)
	b.reserve(db, b.sku("shoe", 10, 2), "ann", "1", 2)
	b.overdue(db)
	token := b.lead(db)
	lost, passed := p.SwallowReply(";COMMIT;"), make(chan struct{})
	go func() {
		defer close(passed)
		<-lost
		p.Refuse(true)
		b.exec("UPDATE job_leases SET token = token + 1")
		p.Refuse(false)
	}()
	err := db.Expire(t.Context(), token)
	<-passed
	if n := b.number("SELECT COUNT(*) FROM orders WHERE status = 'expired'"); n != 1 || !slices.Equal(w.released, []string{"shoe ann expired"}) {
		t.Errorf("%d expired (%v), told of %v", n, err, w.released)
	}
}
