package ledger

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// deeds are what changes orders after their reservation, for tests that disturb them.
var deeds = []struct {
	name   string
	before sale.Status // the order's, where it is not reserved
	do     func(ctx context.Context, b *bed, db *DB, token int64, o *sale.Order) (sale.Order, error)
	want   sale.Status
	events []string
}{
	{
		name: "pay", want: sale.StatusPaid, events: []string{"results.reserved", "results.paid", "inventory.deduct"},
		do: func(ctx context.Context, b *bed, db *DB, _ int64, o *sale.Order) (sale.Order, error) {
			r, err := db.Pay(ctx, paymentOf(o, "evt"))
			if err == nil && (r.Outcome != sale.PaymentApplied || r.Repeated) {
				b.t.Errorf("%+v", r)
			}
			return r.Order, err
		},
	},
	{
		name: "retake", before: sale.StatusCancelled, want: sale.StatusPaid,
		events: []string{"results.reserved", "results.cancelled", "results.paid", "inventory.deduct"},
		do: func(ctx context.Context, b *bed, db *DB, _ int64, o *sale.Order) (sale.Order, error) {
			r, err := db.Pay(ctx, paymentOf(o, "evt"))
			if err == nil && (r.Outcome != sale.PaymentRetaken || r.Repeated) {
				b.t.Errorf("%+v", r)
			}
			return r.Order, err
		},
	},
	{
		name: "cancel", want: sale.StatusCancelled, events: []string{"results.reserved", "results.cancelled"},
		do: func(ctx context.Context, _ *bed, db *DB, _ int64, o *sale.Order) (sale.Order, error) {
			return db.Cancel(ctx, o.ID, o.User)
		},
	},
	{
		name: "expire", want: sale.StatusExpired, events: []string{"results.reserved", "results.expired"},
		do: func(ctx context.Context, b *bed, db *DB, token int64, _ *sale.Order) (sale.Order, error) {
			got, err := db.expireDue(ctx, token, 100, db.Now())
			if len(got) == 0 {
				return sale.Order{}, err
			}
			return got[0], err
		},
	},
}

// TestUnknownOutcomesOfChanges loses the request, the reply, or the read before both:
// each is found out, and done once.
func TestUnknownOutcomesOfChanges(t *testing.T) {
	needServers(t)
	losses := []struct {
		name string
		set  func(p *testenv.Proxy) <-chan struct{}
	}{
		{"request", func(p *testenv.Proxy) <-chan struct{} { return p.CutBefore(";COMMIT;") }},
		{"reply", func(p *testenv.Proxy) <-chan struct{} { return p.SwallowReply(";COMMIT;") }},
		{"read", func(p *testenv.Proxy) <-chan struct{} { return p.CutBefore("LEFT JOIN stock") }},
	}
	for _, d := range deeds {
		for _, l := range losses {
			t.Run(d.name+", "+l.name, func(t *testing.T) {
				b, p := proxied(t)
				db := b.open()
				sku := b.sku("shoe", 10, 2)
				o := b.reserve(db, sku, "ann", "1", 2)
				if d.before == sale.StatusCancelled {
					if _, err := db.Cancel(t.Context(), o.ID, o.User); err != nil {
						t.Fatal(err)
					}
				}
				b.overdue(db)
				token := b.lead(db)
				sprung := l.set(p)
				got, err := d.do(t.Context(), b, db, token, &o)
				if err != nil || got.Status != d.want {
					t.Fatalf("%v, %v", got.Status, err)
				}
				disturbed(t, sprung)
				if stored, err := db.Order(t.Context(), o.ID); err != nil || stored != got {
					t.Errorf("answered %+v, stored %+v, %v", got, stored, err)
				}
				if e := b.events(o.ID); !slices.Equal(e, d.events) {
					t.Errorf("events %v", e)
				}
				b.clean(db)
			})
		}
	}
}

// TestChangesWithoutADatabase answers at once where nothing was sent, which is long
// before what was sent would be given up, and gives up in the end where something was.
func TestChangesWithoutADatabase(t *testing.T) {
	b, p := proxied(t)
	const giveUp = 700 * time.Millisecond
	db, hasty := b.open(func(c *Config) { c.RetryFor = 24 * time.Hour }), b.open(func(c *Config) { c.RetryFor = giveUp })
	sku := b.sku("shoe", 10, 2)
	o := b.reserve(db, sku, "ann", "1", 2)
	b.overdue(db)
	token := b.lead(db)
	for _, d := range deeds {
		if d.before != 0 {
			continue
		}
		p.Refuse(true)
		if _, err := d.do(t.Context(), b, db, token, &o); !errors.Is(err, sale.ErrUnavailable) {
			t.Errorf("%s: %v", d.name, err)
		}
		p.Refuse(false)
	}
	// Every request is lost: what cannot be known in time is not guessed.
	for range 100 {
		p.CutBefore("results.cancelled")
	}
	start := time.Now()
	if _, err := hasty.Cancel(t.Context(), o.ID, o.User); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took < giveUp {
		t.Errorf("it gave up after %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := db.Cancel(ctx, o.ID, o.User); !errors.Is(err, sale.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	// Another way is found to be open.
	b.pay(db, paymentOf(&o, "evt"), sale.PaymentApplied)
	b.clean(db)
}

// TestALimitIsSetInBetween has an operator set the SKU's first limit after a change has
// looked at the buyers, who had no rows then, and before it reaches the stock: it
// notices, and looks again.
func TestALimitIsSetInBetween(t *testing.T) {
	for _, d := range deeds {
		t.Run(d.name, func(t *testing.T) {
			b := mariaBed(t)
			db := b.open()
			sku := b.sku("shoe", 10, 0)
			o := b.reserve(db, sku, "ann", "1", 2)
			b.reserve(db, sku, "ann", "2", 1)
			if d.before == sale.StatusCancelled {
				b.cancel(db, &o)
			}
			b.exec("UPDATE orders SET pay_by = 1 WHERE order_id = ?", o.ID[:])
			b.exec("UPDATE due SET pay_by = 1 WHERE ids = ?", o.ID[:])
			token := b.lead(db)
			operator := b.session()
			operator.exec("START TRANSACTION", "UPDATE stock SET raises = raises + 0, sku_version = 2 WHERE sku = 'shoe'")
			type answer struct {
				order sale.Order
				err   error
			}
			answered := make(chan answer, 1)
			go func() {
				got, err := d.do(t.Context(), b, db, token, &o)
				answered <- answer{got, err}
			}()
			if d.name != "pay" { // which needs no stock
				b.executing("UPDATE stock SET total")
			}
			operator.exec("UPDATE skus SET per_user_limit = 5, version = 2 WHERE sku = 'shoe'",
				"INSERT INTO buyers (sku, user_id, units, unit_limit) SELECT sku, user_id, SUM(quantity), 5 FROM orders WHERE status IN "+live+" GROUP BY sku, user_id",
				"COMMIT")
			got := <-answered
			if got.err != nil || got.order.Status != d.want {
				t.Errorf("%v, %v", got.order.Status, got.err)
			}
			b.clean(db)
		})
	}
}
