package deduct

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// scriptTime returns what the server has spent in scripts: calls and microseconds.
func scriptTime(b *testing.B, c redis.UniversalClient) (calls, usec float64) {
	b.Helper()
	info, err := c.Info(context.Background(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.SplitSeq(info, "\r\n") {
		if strings.HasPrefix(line, "cmdstat_evalsha:") {
			if _, err := fmt.Sscanf(line, "cmdstat_evalsha:calls=%f,usec=%f", &calls, &usec); err != nil {
				b.Fatal(err)
			}
		}
	}
	return calls, usec
}

// BenchmarkDeduct is one SKU with two batches on their way, each settling the one
// before; redis-us/claim is the server's own time.
func BenchmarkDeduct(b *testing.B) {
	if testing.Short() {
		b.Skip("needs real servers; run without -short")
	}
	for _, kind := range []string{"unlimited", "limit", "sold out"} {
		for _, size := range []int{1, 15, 150, 500} {
			b.Run(fmt.Sprintf("%s/batch=%d", strings.ReplaceAll(kind, " ", "-"), size), func(b *testing.B) {
				benchDeduct(b, kind, size)
			})
		}
	}
}

func benchDeduct(b *testing.B, kind string, size int) {
	server := testenv.Redis(b)
	sku := testSKU(2, 1)
	units := int64(1 << 40)
	switch kind {
	case "unlimited":
		sku.PerUserLimit = 0
	case "sold out":
		units = 0
	}
	s := newShield(b, server.Addr, newFakeLedger(sku, units))
	ctx := context.Background()
	if err := s.Rebuild(ctx, &sku); err != nil {
		b.Fatal(err)
	}
	batches := make([][]*sale.Claim, b.N)
	for i := range batches {
		batches[i] = randomClaims(size)
	}
	calls0, usec0 := scriptTime(b, s.client)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			var settled []sale.Settlement
			for i := half; i < len(batches); i += 2 {
				d, err := s.Deduct(ctx, &sku, batches[i], settled)
				if err != nil || !d.Loaded {
					b.Error(d.Loaded, err)
					return
				}
				settled = []sale.Settlement{{Token: d.Token, LedgerLeft: -1}}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	calls, usec := scriptTime(b, s.client)
	b.ReportMetric((usec-usec0)/(calls-calls0)/float64(size), "redis-us/claim")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/claim")
}

func randomClaims(n int) []*sale.Claim {
	out := make([]*sale.Claim, n)
	all := make([]sale.Claim, n)
	for i := range out {
		all[i] = sale.Claim{SKU: "shoe", User: fmt.Sprintf("user-%07d", rand.IntN(10_000_000)), Quantity: 1}
		for k := range all[i].ID {
			all[i].ID[k] = byte(rand.Uint32())
		}
		out[i] = &all[i]
	}
	return out
}

// BenchmarkDeductManySKUs is 500 SKUs that each offer batches of two.
func BenchmarkDeductManySKUs(b *testing.B) {
	if testing.Short() {
		b.Skip("needs real servers; run without -short")
	}
	const skus, size = 500, 2
	server := testenv.Redis(b)
	s := newShield(b, server.Addr, newFakeLedger(testSKU(2, 1), 1<<40))
	ctx := context.Background()
	all := make([]sale.SKU, skus)
	for i := range all {
		all[i] = testSKU(2, 1)
		all[i].Name = fmt.Sprintf("sku-%d", i)
		if err := s.Rebuild(ctx, &all[i]); err != nil {
			b.Fatal(err)
		}
	}
	rounds := (b.N + skus - 1) / skus
	batches := make([][]*sale.Claim, skus*rounds)
	for i := range batches {
		batches[i] = randomClaims(size)
	}
	calls0, usec0 := scriptTime(b, s.client)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			var settled []sale.Settlement
			for k := range rounds {
				d, err := s.Deduct(ctx, &all[i], batches[i*rounds+k], settled)
				if err != nil || !d.Loaded {
					b.Error(d.Loaded, err)
					return
				}
				settled = []sale.Settlement{{Token: d.Token, LedgerLeft: -1}}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	calls, usec := scriptTime(b, s.client)
	b.ReportMetric((usec-usec0)/(calls-calls0)/size, "redis-us/claim")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rounds*skus*size), "ns/claim")
}
