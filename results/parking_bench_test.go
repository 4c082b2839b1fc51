package results

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"flashgate/internal/testenv"
)

// BenchmarkPark parks claims in a stream that syncs what it acknowledges, 512 at a time in
// so many calls side by side, as a gateway with so many SKUs on sale does.
func BenchmarkPark(b *testing.B) {
	conf := filepath.Join(b.TempDir(), "nats.conf")
	if err := os.WriteFile(conf, []byte("jetstream { sync_interval: always }\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	n := testenv.NATS(b, "-c", conf)
	c := connecting(b, Config{URL: n.URL})
	testenv.Eventually(b, c.Connected, "connected")
	if c.keepStreams(b.Context()); !c.BacklogReady() {
		b.Fatal(c.Details())
	}
	for _, calls := range []int{1, 16, 512} {
		b.Run(fmt.Sprintf("%d calls", calls), func(b *testing.B) {
			backlog, err := NewBacklog(BacklogConfig{MaxBatch: 512}, c)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var run, callers sync.WaitGroup
			run.Go(func() { _ = backlog.Run(ctx) })
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			for w := range calls {
				callers.Go(func() {
					sku, each := fmt.Sprintf("sku-%d-%d", calls, w), 512/calls
					for i := 0; left.Add(int64(-each)) > int64(-each); i++ {
						if err := errors.Join(backlog.Park(ctx, sku, wishes(sku, i*each, (i+1)*each))...); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			callers.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
			cancel()
			run.Wait()
		})
	}
}
