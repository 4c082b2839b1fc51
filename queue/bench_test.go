package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"flashgate/sale"
)

// instant reserves everything at once.
type instant struct {
	takes time.Duration
}

func (s instant) Settle(_ context.Context, _ string, claims []*sale.Claim, admitted func()) []sale.Verdict {
	admitted()
	if s.takes > 0 {
		<-time.After(s.takes)
	}
	out := make([]sale.Verdict, len(claims))
	for i := range out {
		out[i].Outcome = sale.Reserved
	}
	return out
}

func (instant) Remember(context.Context, []*sale.Claim, []sale.Verdict) {}
func (instant) Quiet(context.Context, string)                           {}

// cpuTime is what the process has used so far; unlike the wall's time it says the same
// on a machine that is busy with other things.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchmarkJoin(b *testing.B, skus, waiters int, takes time.Duration) {
	q, err := New(Config{
		Capacity: 20000, MaxBatch: 512, Inflight: 2,
		MaxAge: 8 * time.Second, Linger: time.Second, DrainTimeout: 5 * time.Second,
	}, instant{takes})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	names := make([]string, skus)
	for i := range names {
		names[i] = fmt.Sprintf("sku-%05d", i)
	}
	b.ReportAllocs()
	b.SetParallelism(waiters / max(1, procs()))
	b.ResetTimer()
	used := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
		for pb.Next() {
			c := &sale.Claim{SKU: names[r.IntN(skus)], User: "user", Quantity: 1, QueuedAt: time.Now().UnixMilli()}
			hi, lo := r.Uint64(), r.Uint64()
			for i := range 8 {
				c.ID[i], c.ID[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
			}
			t, err := q.Join(c, false)
			if err != nil {
				b.Error(err)
				return
			}
			if v := <-t.Verdict(); v.Outcome != sale.Reserved {
				b.Errorf("verdict %+v", v)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-used).Nanoseconds())/float64(b.N), "cpu-ns/op")
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
}

func BenchmarkJoinOneSKU(b *testing.B)    { benchmarkJoin(b, 1, 512, 0) }
func BenchmarkJoin10000SKUs(b *testing.B) { benchmarkJoin(b, 10_000, 512, 0) }

// With a settler that takes as long as a commit does, batches have their usual size.
func BenchmarkJoinOneSKUCommit(b *testing.B)    { benchmarkJoin(b, 1, 512, 2*time.Millisecond) }
func BenchmarkJoin10000SKUsCommit(b *testing.B) { benchmarkJoin(b, 10_000, 512, 2*time.Millisecond) }
