package ledger

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"flashgate/sale"
)

// BenchmarkCommit measures durable orders per second (a flush per commit) of admitted
// claims, b.N claims in all.
func BenchmarkCommit(b *testing.B) {
	for _, c := range []struct {
		name           string
		skus, perBatch int
		limit          int64
	}{
		{"one_sku", 1, 250, 0},
		{"one_sku_limit", 1, 250, 5},
		{"500_skus", 500, 1, 0},
	} {
		b.Run(c.name, func(b *testing.B) { benchCommit(b, c.skus, c.perBatch, 1000/c.perBatch, c.limit, false) })
	}
	b.Run("one_sku_direct", func(b *testing.B) { benchCommit(b, 1, 250, 4, 0, true) })
	b.Run("500_skus_direct", func(b *testing.B) { benchCommit(b, 500, 1, 1000, 0, true) })
}

func benchCommit(b *testing.B, skus, perBatch, callers int, limit int64, lockFirst bool) {
	bed := mariaBed(b)
	db := bed.new()
	db.SetHooks(Hooks{Committed: func(rows []sale.OutboxRow) {
		ids := make([]int64, len(rows))
		for i := range rows {
			ids[i] = rows[i].ID
		}
		db.Acked(ids)
	}})
	bed.run(db)
	on := make([]*sale.SKU, skus)
	for i := range on {
		on[i] = bed.sku(fmt.Sprintf("sku-%04d", i), sale.MaxStock, limit)
	}
	batches := make([]sale.CommitBatch, 0, b.N/perBatch+1)
	for n := 0; n < b.N; n += perBatch {
		sku := on[(n*7919/perBatch)%skus]
		list := make([]*sale.Claim, min(perBatch, b.N-n))
		for i := range list {
			list[i] = claim(sku, fmt.Sprintf("user-%08d", (n+i)*7919%100_000_007), "k", 1)
		}
		batch := admitted(sku, list...)
		if lockFirst {
			batch = direct(sku, list...)
		}
		batches = append(batches, batch)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(batches) {
					return
				}
				r, err := db.Commit(b.Context(), batches[i])
				if err != nil {
					b.Error(err)
					return
				}
				for _, v := range r.Verdicts {
					if v.Outcome != sale.Reserved {
						b.Errorf("verdict %v %v", v.Outcome, v.Err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
	if n := bed.number("SELECT COUNT(*) FROM orders"); n != int64(b.N) {
		b.Errorf("%d orders stored, want %d", n, b.N)
	}
}
