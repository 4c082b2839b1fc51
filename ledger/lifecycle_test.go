package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"flashgate/sale"
)

// reserve makes an order and fails the test where that is refused.
func (b *bed) reserve(db *DB, sku *sale.SKU, user, key string, n int64) sale.Order {
	b.t.Helper()
	r, err := db.Commit(b.t.Context(), direct(sku, claim(sku, user, key, n)))
	if err != nil {
		b.t.Fatal(err)
	}
	if r.Verdicts[0].Outcome != sale.Reserved {
		b.t.Fatalf("%s gets %v", user, r.Verdicts[0])
	}
	return *r.Verdicts[0].Order
}

// paymentOf is a payment that fits the order.
func paymentOf(o *sale.Order, event string) sale.Payment {
	return sale.Payment{EventID: event, OrderID: o.ID, Amount: o.Amount, Currency: o.Currency, Succeeded: true}
}

// lead takes the lease under which orders expire.
func (b *bed) lead(db *DB) int64 {
	b.t.Helper()
	token, held, err := db.Leases().Acquire(b.t.Context(), ExpireJob, "test", leaseMost)
	if err != nil || !held {
		b.t.Fatalf("held %v, %v", held, err)
	}
	return token
}

// overdue makes everything reserved due a second ago, on the due list too.
func (b *bed) overdue(db *DB) {
	b.t.Helper()
	at := db.Now() - 1000
	b.exec("UPDATE orders SET pay_by = ? WHERE status = 'reserved'", at)
	b.exec("UPDATE due SET pay_by = ?", at)
}

// expireAll ends what is due.
func (b *bed) expireAll(db *DB) []sale.Order {
	b.t.Helper()
	orders, err := db.expireDue(b.t.Context(), b.lead(db), 1_000_000, db.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	return orders
}

// events are the kinds of events that the outbox holds of an order, in row order.
func (b *bed) events(id sale.OrderID) []string {
	b.t.Helper()
	rows, err := b.raw.QueryContext(context.Background(), "SELECT kind, payload FROM outbox ORDER BY id")
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var kinds []string
	for rows.Next() {
		var kind, payload string
		if err := rows.Scan(&kind, &payload); err != nil {
			b.t.Fatal(err)
		}
		for range strings.Count(payload, id.String()) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// findings are the audit's, by check.
func (b *bed) findings(db *DB) map[string][]sale.Finding {
	b.t.Helper()
	found := make(map[string][]sale.Finding)
	err := db.AuditChecks(b.t.Context(), 100, nil, func(c sale.Checked) error {
		if c.Check == "" || c.Promise == "" {
			b.t.Errorf("a check without a name or a promise: %+v", c)
		}
		if len(c.Findings) > 0 {
			found[c.Check] = c.Findings
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return found
}

// clean fails the test when the audit finds anything.
func (b *bed) clean(db *DB) {
	b.t.Helper()
	for check, findings := range b.findings(db) {
		b.t.Errorf("%s: %+v", check, findings)
	}
}

// lives walks an order to a state, and knows what must be true in it.
var lives = []struct {
	name   string
	status sale.Status
	walk   func(b *bed, db *DB, o *sale.Order)
	events []string
}{
	{"reserved", sale.StatusReserved, func(*bed, *DB, *sale.Order) {}, []string{"results.reserved"}},
	{"paid", sale.StatusPaid, func(b *bed, db *DB, o *sale.Order) {
		b.pay(db, paymentOf(o, "first"), sale.PaymentApplied)
	}, []string{"results.reserved", "results.paid", "inventory.deduct"}},
	{"cancelled", sale.StatusCancelled, func(b *bed, db *DB, o *sale.Order) {
		if _, err := db.Cancel(b.t.Context(), o.ID, o.User); err != nil {
			b.t.Fatal(err)
		}
	}, []string{"results.reserved", "results.cancelled"}},
	{"expired", sale.StatusExpired, func(b *bed, db *DB, o *sale.Order) {
		b.overdue(db)
		b.expireAll(db)
	}, []string{"results.reserved", "results.expired"}},
}

func (b *bed) pay(db *DB, p sale.Payment, want sale.PaymentOutcome) sale.PaymentResult {
	b.t.Helper()
	r, err := db.Pay(b.t.Context(), p)
	if err != nil || r.Outcome != want {
		b.t.Fatalf("%v, %v; want %v", r.Outcome, err, want)
	}
	return r
}

// TestLives does everything to an order in every state.
func TestLives(t *testing.T) {
	type deed struct {
		name   string
		do     func(b *bed, db *DB, o *sale.Order) error
		status map[string]sale.Status // where it changes
		events map[string][]string    // added
		err    map[string]error
	}
	deeds := []deed{
		{
			name: "pay", do: func(b *bed, db *DB, o *sale.Order) error {
				_, err := db.Pay(b.t.Context(), paymentOf(o, "second"))
				return err
			},
			status: map[string]sale.Status{"reserved": sale.StatusPaid, "cancelled": sale.StatusPaid, "expired": sale.StatusPaid},
			events: map[string][]string{
				"reserved": {"results.paid", "inventory.deduct"}, "cancelled": {"results.paid", "inventory.deduct"},
				"expired": {"results.paid", "inventory.deduct"}, "paid": {"payments.refund"},
			},
		},
		{
			name: "fail to pay", do: func(b *bed, db *DB, o *sale.Order) error {
				p := paymentOf(o, "second")
				p.Succeeded = false
				r, err := db.Pay(b.t.Context(), p)
				if r.Outcome != sale.PaymentFailed {
					t.Errorf("a failed payment is recorded as %v", r.Outcome)
				}
				return err
			},
		},
		{
			name: "pay too little", do: func(b *bed, db *DB, o *sale.Order) error {
				p := paymentOf(o, "second")
				p.Amount--
				_, err := db.Pay(b.t.Context(), p)
				return err
			},
			err: map[string]error{
				"reserved": sale.ErrPaymentMismatch, "paid": sale.ErrPaymentMismatch,
				"cancelled": sale.ErrPaymentMismatch, "expired": sale.ErrPaymentMismatch,
			},
		},
		{
			name: "cancel", do: func(b *bed, db *DB, o *sale.Order) error {
				got, err := db.Cancel(b.t.Context(), o.ID, o.User)
				if stored, _ := db.Order(b.t.Context(), o.ID); err == nil && got != stored {
					t.Errorf("answered %+v, stored %+v", got, stored)
				}
				return err
			},
			status: map[string]sale.Status{"reserved": sale.StatusCancelled},
			events: map[string][]string{"reserved": {"results.cancelled"}},
			err:    map[string]error{"paid": sale.ErrAlreadyPaid, "expired": sale.ErrOrderExpired},
		},
		{
			name: "cancel another's", do: func(b *bed, db *DB, o *sale.Order) error {
				_, err := db.Cancel(b.t.Context(), o.ID, "mallory")
				return err
			},
			err: map[string]error{
				"reserved": sale.ErrUnknownOrder, "paid": sale.ErrUnknownOrder,
				"cancelled": sale.ErrUnknownOrder, "expired": sale.ErrUnknownOrder,
			},
		},
		{
			name: "expire", do: func(b *bed, db *DB, o *sale.Order) error {
				b.overdue(db)
				b.expireAll(db)
				if n := b.number("SELECT COUNT(*) FROM due"); n != 0 {
					t.Errorf("%d rows of the due list are left", n)
				}
				return nil
			},
			status: map[string]sale.Status{"reserved": sale.StatusExpired},
			events: map[string][]string{"reserved": {"results.expired"}},
		},
	}
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		for _, life := range lives {
			for _, d := range deeds {
				name := strings.ReplaceAll(life.name+"-"+d.name, " ", "-")
				name = strings.ReplaceAll(name, "'", "")
				sku := b.sku(name, 10, 3)
				other := b.reserve(db, sku, "bob", "1", 1)
				b.pay(db, paymentOf(&other, "bobs-"+name), sale.PaymentApplied)
				o := b.reserve(db, sku, "ann", "1", 2)
				life.walk(b, db, &o)
				b.exec("UPDATE payments SET event_id = ? WHERE event_id = 'first'", "first-"+name)
				before, err := db.Order(t.Context(), o.ID)
				if err != nil || before.Status != life.status {
					t.Fatalf("%s: walked to %v, %v", name, before.Status, err)
				}
				if err := d.do(b, db, &o); !errors.Is(err, d.err[life.name]) || (err != nil) != (d.err[life.name] != nil) {
					t.Errorf("%s: %v, want %v", name, err, d.err[life.name])
				}
				b.exec("UPDATE payments SET event_id = ? WHERE event_id = 'second'", "second-"+name)
				after, err := db.Order(t.Context(), o.ID)
				want := before
				if to, ok := d.status[life.name]; ok {
					want.Status = to
					want.Version++
				}
				want.PayBy = after.PayBy
				if err != nil || after != want {
					t.Errorf("%s: %+v, want %+v", name, after, want)
				}
				if got, want := b.events(o.ID), slices.Concat(life.events, d.events[life.name]); !slices.Equal(got, want) {
					t.Errorf("%s: events %v, want %v", name, got, want)
				}
				units := int64(0)
				if after.Status.Live() {
					units = 2
				}
				if n := b.number("SELECT sold FROM stock WHERE sku = ?", name); n != 1+units {
					t.Errorf("%s: %d sold", name, n)
				}
				if n := b.number("SELECT units FROM buyers WHERE sku = ? AND user_id = 'ann'", name); n != units {
					t.Errorf("%s: the buyer has %d units", name, n)
				}
				b.clean(db)
			}
		}
	})
}

// TestOneEndOnly races payment, cancellation and expiry of the same orders.
func TestOneEndOnly(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		dbs := []*DB{b.open(), nil}
		if dbs[1] = dbs[0]; b.cfg.Driver != "sqlite" {
			dbs[1] = b.open()
		}
		token := b.lead(dbs[0])
		sku := b.sku("shoe", 1000, 2)
		ends := map[sale.Status]int{}
		for round := range 200 {
			o := b.reserve(dbs[0], sku, fmt.Sprintf("user-%d", round), "k", 2)
			b.overdue(dbs[0])
			var wg sync.WaitGroup
			start := make(chan struct{})
			var paid sale.PaymentResult
			var expired []sale.Order
			var payErr, cancelErr, expireErr error
			wg.Go(func() {
				<-start
				paid, payErr = dbs[0].Pay(t.Context(), paymentOf(&o, o.ID.String()))
			})
			wg.Go(func() {
				<-start
				_, cancelErr = dbs[1].Cancel(t.Context(), o.ID, o.User)
			})
			wg.Go(func() {
				<-start
				expired, expireErr = dbs[1].expireDue(t.Context(), token, 100, dbs[1].Now())
			})
			close(start)
			wg.Wait()
			if payErr != nil || expireErr != nil {
				t.Fatalf("pay: %v, expire: %v", payErr, expireErr)
			}
			wins := 0
			for _, won := range []bool{paid.Outcome == sale.PaymentApplied, cancelErr == nil, len(expired) == 1} {
				if won {
					wins++
				}
			}
			if wins != 1 {
				t.Fatalf("round %d: payment %v, cancellation %v, %d expired", round, paid.Outcome, cancelErr, len(expired))
			}
			switch {
			case paid.Outcome == sale.PaymentApplied:
				ends[sale.StatusPaid]++
			case cancelErr == nil:
				ends[sale.StatusCancelled]++
			default:
				ends[sale.StatusExpired]++
			}
			got, err := dbs[0].Order(t.Context(), o.ID)
			if err != nil || got.Status != sale.StatusPaid {
				// The payment comes last or first: either way the order is paid, since there
				// is stock.
				t.Fatalf("round %d: %v, %v", round, got.Status, err)
			}
			events := b.events(o.ID)
			want := []string{"results.reserved", "results.paid", "inventory.deduct"}
			if paid.Outcome == sale.PaymentRetaken {
				first := "results.expired"
				if cancelErr == nil {
					first = "results.cancelled"
				}
				want = slices.Insert(want, 1, first)
			}
			if !slices.Equal(events, want) {
				t.Fatalf("round %d: events %v, want %v", round, events, want)
			}
		}
		t.Logf("%d paid, %d cancelled, %d expired first", ends[sale.StatusPaid], ends[sale.StatusCancelled], ends[sale.StatusExpired])
		if n := b.number("SELECT sold FROM stock"); n != 400 {
			t.Errorf("%d sold", n)
		}
		b.clean(dbs[0])
	})
}
