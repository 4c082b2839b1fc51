package ledger

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"flashgate/sale"
)

// BenchmarkLife measures payments, cancellations and expiries per second, each durable,
// of orders of one SKU with a limit, 16 callers at once.
func BenchmarkLife(b *testing.B) {
	deeds := []struct {
		name string
		do   func(b *testing.B, db *DB, o *sale.Order) error
	}{
		{"pay", func(b *testing.B, db *DB, o *sale.Order) error {
			_, err := db.Pay(b.Context(), paymentOf(o, o.ID.String()))
			return err
		}},
		{"cancel", func(b *testing.B, db *DB, o *sale.Order) error {
			_, err := db.Cancel(b.Context(), o.ID, o.User)
			return err
		}},
	}
	for _, d := range deeds {
		b.Run(d.name, func(b *testing.B) {
			db, orders := manyOrders(b)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range 16 {
				wg.Go(func() {
					for i := int(next.Add(1)) - 1; i < len(orders); i = int(next.Add(1)) - 1 {
						if err := d.do(b, db, &orders[i]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
		})
	}
	b.Run("expire", func(b *testing.B) {
		db, orders := manyOrders(b)
		token, held, err := db.Leases().Acquire(b.Context(), ExpireJob, "bench", leaseMost)
		if err != nil || !held {
			b.Fatal(held, err)
		}
		b.ResetTimer()
		got, err := db.expireDue(b.Context(), token, len(orders), db.Now()+3_600_000)
		if err != nil || len(got) != len(orders) {
			b.Fatal(len(got), err)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
	})
}

// manyOrders makes b.N orders.
func manyOrders(b *testing.B) (*DB, []sale.Order) {
	bed := mariaBed(b)
	db := bed.open()
	sku := bed.sku("shoe", sale.MaxStock, 5)
	orders := make([]sale.Order, 0, b.N)
	for len(orders) < b.N {
		r, err := db.Commit(b.Context(), admitted(sku, claims(sku, fmt.Sprint(len(orders)), min(500, b.N-len(orders)))...))
		if err != nil {
			b.Fatal(err)
		}
		for _, v := range r.Verdicts {
			orders = append(orders, *v.Order)
		}
	}
	return db, orders
}
