package ledger

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"flashgate/sale"
)

// restored offers the orders and returns the results' names.
func (b *bed) restored(db *DB, orders ...sale.Order) []string {
	b.t.Helper()
	results, err := db.RestoreOrders(b.t.Context(), orders)
	if err != nil {
		b.t.Fatal(err)
	}
	names := make([]string, len(results))
	for i, r := range results {
		names[i] = r.String()
	}
	return names
}

// all reads every order, in the order of ids.
func (b *bed) all(db *DB) []sale.Order {
	b.t.Helper()
	rows, err := b.raw.QueryContext(b.t.Context(), "SELECT "+orderColumns+" FROM orders ORDER BY order_id")
	if err != nil {
		b.t.Fatal(err)
	}
	found := make(map[sale.OrderID]sale.Order)
	if err := scanOrders(rows, found); err != nil {
		b.t.Fatal(err)
	}
	var list []sale.Order
	for _, o := range found {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b sale.Order) int { return compareOrderIDs(a.ID, b.ID) })
	return list
}

// TestRestoreIntoAnEmptyLedger loses everything but the catalogue and puts it back.
func TestRestoreIntoAnEmptyLedger(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		var wantUnits int64
		for n := range 3 {
			sku := b.sku(fmt.Sprintf("sku-%d", n), 3000, int64(n*3), func(s *sale.SKU) { s.Segments = 1 + n })
			for i := range 60 {
				c := claim(sku, fmt.Sprintf("user-%d", i%25), fmt.Sprint(i), 1)
				if i%7 == 0 {
					c.Coupon, c.Hash = "TEN", sale.HashRequest(1, "TEN")
				}
				if _, err := db.Commit(t.Context(), direct(sku, c)); err != nil {
					t.Fatal(err)
				}
			}
		}
		var published []sale.Order
		for i, o := range b.all(db) {
			switch i % 5 {
			case 0:
				b.pay(db, paymentOf(&o, o.ID.String()), sale.PaymentApplied)
			case 1:
				b.cancel(db, &o)
			case 2:
				b.cancel(db, &o)
				b.pay(db, paymentOf(&o, o.ID.String()), sale.PaymentRetaken)
			}
		}
		for i, o := range b.all(db) {
			if o.Status == sale.StatusPaid && i%2 == 0 {
				o.Payment = o.ID.String()
			}
			published = append(published, o)
		}
		wantUnits = b.number("SELECT SUM(sold) FROM stock")
		b.clean(db)
		coupons := b.number("SELECT COUNT(*) FROM orders WHERE coupon <> ''")
		for _, table := range []string{"orders", "buyers", "stock_moves", "outbox", "due", "payments"} {
			b.exec("DELETE FROM " + table)
		}
		b.exec("UPDATE stock SET sold = 0")
		raises := b.number("SELECT SUM(raises) FROM stock")

		for i, got := range b.restored(db, published...) {
			if got != "restored" {
				t.Errorf("%v: %s", published[i], got)
			}
		}
		after := b.all(db)
		for i, o := range published {
			o.Payment = ""
			if i >= len(after) || after[i] != o {
				t.Fatalf("%d orders are back; number %d was %+v", len(after), i, o)
			}
		}
		if n := b.number("SELECT SUM(sold) FROM stock"); n != wantUnits {
			t.Errorf("%d units are sold, before %d", n, wantUnits)
		}
		if n := b.number("SELECT SUM(raises) FROM stock"); n == raises {
			t.Error("whoever knows all ids of an exhausted SKU would miss those of ended orders")
		}
		if n := b.number("SELECT COUNT(*) FROM outbox WHERE kind LIKE 'results.%'"); n != 0 {
			t.Errorf("%d results are published again", n)
		}
		events := map[string]int{}
		for _, o := range after {
			for _, kind := range b.events(o.ID) {
				events[kind]++
			}
		}
		paid := b.number("SELECT COUNT(*) FROM orders WHERE status = 'paid'")
		ended := b.number("SELECT COUNT(*) FROM orders WHERE status IN ('cancelled', 'expired') AND coupon <> ''")
		if len(events) != 3 || events["inventory.deduct"] != int(paid) || events["coupons.redeem"] != int(coupons) || events["coupons.release"] != int(ended) {
			t.Errorf("events %v; %d orders are paid and %d have coupons", events, paid, coupons)
		}
		b.clean(db)
		for i, got := range b.restored(db, published...) {
			if got != "exists" {
				t.Errorf("again, %v: %s", published[i], got)
			}
		}
		// A payment that comes again is recognised by its event.
		for _, o := range published {
			if o.Payment != "" {
				if r := b.pay(db, paymentOf(&o, o.Payment), sale.PaymentApplied); !r.Repeated {
					t.Errorf("%+v", r)
				}
			}
		}
		// Life goes on.
		b.overdue(db)
		b.expireAll(db)
		b.clean(db)
	})
}

// TestRestoreOfOneOrder offers what was published of an order to ledgers that know
// more, less or something else of it.
func TestRestoreOfOneOrder(t *testing.T) {
	as := func(status sale.Status, version int64) func(o *sale.Order) {
		return func(o *sale.Order) { o.Status, o.Version = status, version }
	}
	nothing := func(*bed, *DB, *sale.SKU, *sale.Order) {}
	lose := func(b *bed, _ *DB, sku *sale.SKU, o *sale.Order) {
		b.exec("DELETE FROM orders WHERE order_id = ?", o.ID[:])
		b.exec("UPDATE stock SET sold = 0 WHERE sku = ?", sku.Name)
		b.exec("DELETE FROM buyers WHERE sku = ?", sku.Name)
		b.exec("DELETE FROM due WHERE ids = ?", o.ID[:])
	}
	tests := []struct {
		name    string
		before  func(b *bed, db *DB, sku *sale.SKU, o *sale.Order)
		publish func(o *sale.Order)
		want    string
		status  sale.Status // afterwards; 0 = no order
		version int64
	}{
		{"it is there", nothing, as(sale.StatusReserved, 1), "exists", sale.StatusReserved, 1},
		{"paid since", nothing, as(sale.StatusPaid, 2), "restored", sale.StatusPaid, 2},
		{"cancelled since", nothing, as(sale.StatusCancelled, 2), "restored", sale.StatusCancelled, 2},
		{"expired since", nothing, as(sale.StatusExpired, 2), "restored", sale.StatusExpired, 2},
		{"cancelled and paid since", nothing, as(sale.StatusPaid, 3), "restored", sale.StatusPaid, 3},
		{"the ledger is ahead", func(b *bed, db *DB, _ *sale.SKU, o *sale.Order) { b.cancel(db, o) }, as(sale.StatusReserved, 1), "exists", sale.StatusCancelled, 2},
		{"the ledger is two ahead", func(b *bed, db *DB, _ *sale.SKU, o *sale.Order) {
			b.cancel(db, o)
			b.pay(db, paymentOf(o, o.ID.String()), sale.PaymentRetaken)
		}, as(sale.StatusCancelled, 2), "exists", sale.StatusPaid, 3},
		{"ended here, paid there", func(b *bed, db *DB, _ *sale.SKU, o *sale.Order) { b.cancel(db, o) }, as(sale.StatusPaid, 2), "restored", sale.StatusPaid, 3},
		{"ended here, paid there, sold since", func(b *bed, db *DB, sku *sale.SKU, o *sale.Order) {
			b.cancel(db, o)
			b.reserve(db, sku, "bob", "1", 3)
		}, as(sale.StatusPaid, 2), "no_stock", sale.StatusCancelled, 2},
		{"ended here, paid there, limit reached since", func(b *bed, db *DB, sku *sale.SKU, o *sale.Order) {
			b.cancel(db, o)
			b.reserve(db, sku, "ann", "2", 2)
		}, as(sale.StatusPaid, 2), "over_limit", sale.StatusCancelled, 2},
		{"cancelled here, expired there", func(b *bed, db *DB, _ *sale.SKU, o *sale.Order) { b.cancel(db, o) }, as(sale.StatusExpired, 2), "exists_with_different", sale.StatusCancelled, 2},
		{"paid here, expired there", func(b *bed, db *DB, _ *sale.SKU, o *sale.Order) {
			b.pay(db, paymentOf(o, o.ID.String()), sale.PaymentApplied)
		}, as(sale.StatusExpired, 2), "exists_with_different", sale.StatusPaid, 2},
		{"another quantity", nothing, func(o *sale.Order) { o.Quantity++ }, "exists_with_different", sale.StatusReserved, 1},
		{"another user", nothing, func(o *sale.Order) { o.User = "bob" }, "exists_with_different", sale.StatusReserved, 1},
		{"lost", lose, as(sale.StatusReserved, 1), "restored", sale.StatusReserved, 1},
		{"lost, paid", lose, as(sale.StatusPaid, 2), "restored", sale.StatusPaid, 2},
		{"lost, expired", lose, as(sale.StatusExpired, 2), "restored", sale.StatusExpired, 2},
		{"lost, its segment too", lose, func(o *sale.Order) { o.Segment = 7 }, "restored", sale.StatusReserved, 1},
		{"lost, and sold since", func(b *bed, db *DB, sku *sale.SKU, o *sale.Order) {
			lose(b, db, sku, o)
			b.reserve(db, sku, "bob", "1", 2)
			b.reserve(db, sku, "cid", "1", 1)
		}, as(sale.StatusPaid, 2), "no_stock", 0, 0},
		{"lost, and bought others since", func(b *bed, db *DB, sku *sale.SKU, o *sale.Order) {
			lose(b, db, sku, o)
			b.reserve(db, sku, "ann", "2", 2)
		}, as(sale.StatusPaid, 2), "over_limit", 0, 0},
		{"lost, with its SKU", func(b *bed, db *DB, sku *sale.SKU, o *sale.Order) {
			lose(b, db, sku, o)
			b.exec("DELETE FROM skus WHERE sku = ?", sku.Name)
			b.exec("DELETE FROM stock WHERE sku = ?", sku.Name)
		}, as(sale.StatusCancelled, 2), "unknown_sku", 0, 0},
	}
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		for i, tc := range tests {
			sku := b.sku(fmt.Sprintf("sku-%d", i), 4, 3)
			o := b.reserve(db, sku, "ann", "1", 2)
			tc.before(b, db, sku, &o)
			tc.publish(&o)
			for round, want := range []string{tc.want, map[bool]string{true: "exists", false: tc.want}[tc.want == "restored"]} {
				if got := b.restored(db, o); !slices.Equal(got, []string{want}) {
					t.Errorf("%s, round %d: %v, want %s", tc.name, round, got, want)
				}
				got, err := db.Order(t.Context(), o.ID)
				if tc.status == 0 && !errors.Is(err, sale.ErrUnknownOrder) {
					t.Errorf("%s: %+v, %v", tc.name, got, err)
				}
				if got.Status != tc.status || got.Version != tc.version {
					t.Errorf("%s: %v, version %d", tc.name, got.Status, got.Version)
				}
				for check, f := range b.findings(db) {
					t.Errorf("%s: %s: %+v", tc.name, check, f)
				}
			}
		}
	})
}

// TestRestoreOfMany has one event list with an order twice, and orders that compete.
func TestRestoreOfMany(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 10, 4, func(s *sale.SKU) { s.Segments = 2 })
		at := db.Now()
		published := func(user, key string, n int64, status sale.Status) sale.Order {
			o := sale.NewOrder(claim(sku, user, key, n), sku, 0, at)
			if o.Status = status; status != sale.StatusReserved {
				o.Version = 2
			}
			return o
		}
		list := []sale.Order{
			published("ann", "1", 3, sale.StatusReserved),
			published("ann", "1", 3, sale.StatusPaid),
			published("ann", "2", 1, sale.StatusExpired),
			published("ann", "3", 2, sale.StatusReserved),
			published("bob", "1", 4, sale.StatusReserved), // needs units of both segments
			published("cid", "1", 4, sale.StatusReserved),
			published("cid", "2", 3, sale.StatusReserved),
			published("bob", "1", 4, sale.StatusCancelled),
			published("cid", "1", 4, sale.StatusReserved),
		}
		want := []string{"restored", "restored", "restored", "over_limit", "restored", "no_stock", "restored", "restored", "over_limit"}
		if got := b.restored(db, list...); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		b.clean(db)
		bad := list[:1:1]
		for what, change := range map[string]func(o *sale.Order){
			"a queued order": func(o *sale.Order) { o.Status = sale.StatusQueued },
			"no units":       func(o *sale.Order) { o.Quantity = 0 },
			"a long user":    func(o *sale.Order) { o.User = string(make([]byte, 200)) },
			"no time":        func(o *sale.Order) { o.PayBy = 0 },
			"a bad payment":  func(o *sale.Order) { o.Payment = "a b" },
		} {
			o := bad[0]
			change(&o)
			if _, err := db.RestoreOrders(t.Context(), append(bad, o)); !errors.Is(err, sale.ErrInvalid) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func TestRestoreThroughBrokenConnections(t *testing.T) {
	b, p := proxied(t)
	db := b.open()
	sku := b.sku("shoe", 100, 5)
	kept := b.reserve(db, sku, "dan", "1", 1)
	var list []sale.Order
	for i := range 20 {
		list = append(list, sale.NewOrder(claim(sku, "ann", fmt.Sprint("k", i), 1), sku, 0, db.Now()))
		list[i].User = fmt.Sprintf("user-%d", i)
	}
	kept.Status, kept.Version = sale.StatusPaid, 2
	list = append(list, kept)
	lost := p.SwallowReply(";COMMIT;")
	for i, got := range b.restored(db, list...) {
		if got != "restored" {
			t.Errorf("%d: %s", i, got)
		}
	}
	disturbed(t, lost)
	cut := p.CutBefore("LEFT JOIN stock")
	for i, got := range b.restored(db, list...) {
		if got != "exists" {
			t.Errorf("%d: %s", i, got)
		}
	}
	disturbed(t, cut)
	b.clean(db)
}

// TestRestoreBesideARefusedOrder has one order whose payment's name is taken.
func TestRestoreBesideARefusedOrder(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 100, 0)
		other := b.reserve(db, sku, "dan", "1", 1)
		b.pay(db, paymentOf(&other, "taken"), sale.PaymentApplied)
		var list []sale.Order
		for i := range 7 {
			o := sale.NewOrder(claim(sku, fmt.Sprintf("user-%d", i), "k", 1), sku, 0, db.Now())
			o.Status, o.Version, o.Payment = sale.StatusPaid, 2, fmt.Sprint("evt-", i)
			list = append(list, o)
		}
		list[3].Payment = "taken"
		results, err := db.RestoreOrders(t.Context(), list)
		if !errors.Is(err, errRefused) || !errors.Is(err, sale.ErrUnavailable) {
			t.Error(err)
		}
		for i, r := range results {
			if want := i != 3; want != (r == sale.RestoreDone) {
				t.Errorf("%d: %q", i, r)
			}
		}
		b.clean(db)
	})
}
