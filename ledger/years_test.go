package ledger

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

const (
	// years is how many orders former sales have left, each SKU oldOrders of them.
	years, oldOrders = 5_000_000, 5000
	// saleOrders is how many a sale has that is measured, of one SKU.
	saleOrders = 20_000
)

// fillYears adds SKUs that sold out, with paid orders and their payments.
func (b *bed) fillYears(db *DB, n int) {
	b.t.Helper()
	start := time.Now()
	b.exec(fmt.Sprintf(`INSERT INTO skus (sku, title, unit_price, currency, per_user_limit, opens_at, closes_at, pay_within_ms, state, heat, segments, version, changed_at)
		SELECT CONCAT('old-', seq), 'Old', 1999, 'EUR', 0, 0, 0, 900000, 'closed', 'auto', 1, 1, 1700000000000 FROM seq_0_to_%d`, n/oldOrders-1))
	b.exec("INSERT INTO stock (sku, segment, total, reserved, sold, sku_version) SELECT sku, 0, ?, 0, ?, 1 FROM skus WHERE sku LIKE 'old-%'", oldOrders, oldOrders)
	const chunk = 250_000
	for from := 0; from < n; from += chunk {
		b.exec(fmt.Sprintf(`INSERT INTO orders (order_id, sku, segment, user_id, quantity, amount, currency, coupon, status, request_hash, reserved_at, pay_by, version)
			SELECT CONCAT(UNHEX(LEFT(SHA2(CONCAT('old-', seq DIV %[1]d), 256), 10)), LEFT(UNHEX(MD5(seq)), 11)), CONCAT('old-', seq DIV %[1]d), 0, CONCAT('buyer-', seq), 1, 1999, 'EUR', '',
			'paid', LEFT(UNHEX(MD5(seq)), 8), 1700000000000 + seq, 1700000900000 + seq, 2 FROM seq_%[2]d_to_%[3]d`, oldOrders, from, from+chunk-1))
		b.exec(fmt.Sprintf(`INSERT INTO payments (event_id, order_id, outcome, status, amount, currency, at)
			SELECT CONCAT('evt-', seq), CONCAT(UNHEX(LEFT(SHA2(CONCAT('old-', seq DIV %[1]d), 256), 10)), LEFT(UNHEX(MD5(seq)), 11)), 'paid', 'succeeded', 1999, 'EUR', 1700000001000 + seq FROM seq_%[2]d_to_%[3]d`, oldOrders, from, from+chunk-1))
	}
	b.exec("ANALYZE TABLE orders, payments")
	b.t.Logf("%d orders of former sales: filled in %v", n, time.Since(start).Round(time.Second))
	for _, table := range []string{"orders", "payments"} {
		bytes := b.number("SELECT data_length + index_length FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?", table)
		b.t.Logf("%s: %d bytes a row", table, bytes/int64(n))
	}
}

// work is something whose time is compared; it returns how many it did.
type work struct {
	name string
	do   func(b *bed, db *DB, sku *sale.SKU) int
}

// daily is what is done beside years of orders: with one SKU, in this order.
var daily = []work{
	{"sell", func(b *bed, db *DB, sku *sale.SKU) int {
		var wg sync.WaitGroup
		const batch, callers = 500, 4
		for c := range callers {
			wg.Go(func() {
				for n := c * batch; n < saleOrders; n += callers * batch {
					b.commit(db, admitted(sku, claims(sku, fmt.Sprintf("u%d", n), batch)...))
				}
			})
		}
		wg.Wait()
		return saleOrders
	}},
	{"rebuild", func(b *bed, db *DB, sku *sale.SKU) (n int) {
		err := db.EachOrder(b.t.Context(), sku.Name, func(orders []sale.HeldOrder) error { n += len(orders); return nil })
		if err != nil || n != saleOrders {
			b.t.Errorf("%d orders, %v", n, err)
		}
		return n
	}},
	{"audit", func(b *bed, db *DB, sku *sale.SKU) (n int) {
		ctx := b.t.Context()
		since := sale.AuditPosition{At: db.Now() - time.Hour.Milliseconds(), Change: 1 << 40}
		var touched []string
		err := db.InSnapshot(ctx, func(s *Snapshot) (err error) {
			if touched, err = s.Touched(ctx, since); err != nil {
				return err
			}
			return s.EachChanged(ctx, sku.Name, since.At, func(orders []sale.Changed) error { n += len(orders); return nil })
		})
		if err != nil || n != saleOrders || !slices.Contains(touched, sku.Name) {
			b.t.Errorf("%d orders of %d SKUs, %v", n, len(touched), err)
		}
		if found := b.checked(db, touched); len(found) > 0 {
			b.t.Errorf("found %v", found)
		}
		return n
	}},
	{"expire", func(b *bed, db *DB, _ *sale.SKU) int {
		n := 0
		for {
			orders, err := db.expireDue(context.Background(), b.lead(db), expireLimit, db.Now()+time.Hour.Milliseconds())
			if err != nil {
				b.t.Fatal(err)
			}
			if n += len(orders); len(orders) < expireLimit {
				return n
			}
		}
	}},
}

// TestYearsOfOrders sells, loads, audits and expires beside five million orders of former
// sales, of which the buffer pool holds a small part, and in an empty ledger.
func TestYearsOfOrders(t *testing.T) {
	testenv.LongTier(t)
	const rounds = 5
	took := make(map[string][]time.Duration)
	beds := make(map[string]*bed)
	dbs := make(map[string]*DB)
	for _, name := range []string{"empty", "full"} {
		b := newBed(t, Config{Driver: "mysql", DSN: testenv.OwnMariaDB(t, "--innodb-buffer-pool-size=128M").DSN})
		beds[name], dbs[name] = b, b.open()
	}
	beds["full"].fillYears(dbs["full"], years)
	for round := range rounds {
		for name, b := range beds {
			sku := b.sku(fmt.Sprintf("sale-%d", round), saleOrders, 1)
			for _, w := range daily {
				start := time.Now()
				if n := w.do(b, dbs[name], sku); n != saleOrders {
					t.Errorf("%s %s: %d", w.name, name, n)
				}
				took[w.name+" "+name] = append(took[w.name+" "+name], time.Since(start))
			}
			b.exec("DELETE FROM outbox")
		}
	}
	median := func(name string) float64 {
		slices.Sort(took[name])
		return took[name][rounds/2].Seconds()
	}
	for _, w := range daily {
		empty, full := median(w.name+" empty"), median(w.name+" full")
		t.Logf("%s: %.0f a second in an empty ledger, %.0f beside %d old orders", w.name, saleOrders/empty, saleOrders/full, years)
		testenv.AtLeast(t, 0.7, empty/full, "%s beside %d old orders, as a share of its rate in an empty ledger", w.name, years)
	}
	b, db := beds["full"], dbs["full"]
	start := time.Now()
	b.clean(db)
	t.Logf("an audit of everything: %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	for time.Since(start) < 2*retainFor && b.number("SELECT COUNT(*) FROM skus WHERE archive = 'archived'") < 20 {
		b.retain(db, sale.Retention{Orders: time.Hour, Rate: 1e6})
	}
	n := b.number("SELECT COUNT(*) FROM orders_archive")
	t.Logf("archived %.0f orders a second", float64(n)/time.Since(start).Seconds())
	b.exec("ANALYZE TABLE orders_archive")
	t.Logf("orders_archive: %d bytes a row", b.number("SELECT data_length FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'orders_archive'")/n)
}
