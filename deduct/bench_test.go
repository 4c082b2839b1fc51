package deduct

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// serverCPU returns the processor time that the server has used, in microseconds: what
// other processes on the machine do does not count.
func serverCPU(b *testing.B, c redis.UniversalClient) (usec float64) {
	b.Helper()
	info, err := c.Info(context.Background(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.SplitSeq(info, "\r\n") {
		for _, field := range []string{"used_cpu_user:", "used_cpu_sys:"} {
			if text, ok := strings.CutPrefix(line, field); ok {
				seconds, err := strconv.ParseFloat(text, 64)
				if err != nil {
					b.Fatal(err)
				}
				usec += seconds * 1e6
			}
		}
	}
	return usec
}

// BenchmarkDeduct is one SKU with two batches on their way, each settling the one
// before; redis-us/claim is the server's processor time,
// protocol and network included.
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
	usec0 := serverCPU(b, s.client)
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
	b.ReportMetric((serverCPU(b, s.client)-usec0)/float64(b.N*size), "redis-us/claim")
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
	usec0 := serverCPU(b, s.client)
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
	b.ReportMetric((serverCPU(b, s.client)-usec0)/float64(rounds*skus*size), "redis-us/claim")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rounds*skus*size), "ns/claim")
}

// BenchmarkRebuild loads a SKU with 100,000 orders of as many buyers.
func BenchmarkRebuild(b *testing.B) {
	if testing.Short() {
		b.Skip("needs real servers; run without -short")
	}
	server := testenv.Redis(b)
	sku := testSKU(2, 1)
	l := newFakeLedger(sku, 200_000)
	l.commit(claims(100_000, 0), nil)
	s := newShield(b, server.Addr, l)
	usec0 := serverCPU(b, s.client)
	for b.Loop() {
		s.Distrust(sku.Name, l.Now())
		if err := s.Rebuild(context.Background(), &sku); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((serverCPU(b, s.client)-usec0)/float64(b.N)/100_000, "redis-us/order")
}
