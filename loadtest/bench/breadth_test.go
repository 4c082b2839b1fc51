//go:build bench

package bench

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// breadth is how many SKUs buyers choose among at random.
const breadth = 10_000

// TestBenchBreadth measures a sale of ten thousand SKUs beside a sale of one: from an
// empty Redis on, and once every shield is loaded.
func TestBenchBreadth(t *testing.T) {
	r := newRig(t)
	r.put("bench-one", 1_000_000_000)
	r.putMany(breadth)
	<-time.After(3 * time.Second)
	series := map[string][]load{}
	skus := fmt.Sprintf("SKUS=%d", breadth)
	r.warm("SKU=bench-one")
	one := func() { run(t, "one", func() load { return r.reserve("SKU=bench-one") }, series) }
	one()
	r.redis.FlushAll(t)
	for second := 0; second < 10; second += 2 {
		run(t, fmt.Sprintf("cold-%ds", second), func() load {
			return r.measureFor(2*time.Second, r.gateway, "order.lua", r.url, skus)
		}, series)
	}
	for round := range *rounds {
		one()
		if *profile != "" && round == 0 {
			go r.profileCPU(*profile)
		}
		run(t, "many", func() load { return r.reserve(skus) }, series)
	}
	report(t, "breadth", "one", []string{"one", "cold-0s", "cold-2s", "cold-4s", "cold-6s", "cold-8s", "many"}, series)
}

// putMany puts n SKUs on sale.
func (r *rig) putMany(n int) {
	r.t.Helper()
	var wg sync.WaitGroup
	const workers = 8
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				r.put(fmt.Sprintf("bench-%d", i), 1_000_000)
			}
		})
	}
	wg.Wait()
}
