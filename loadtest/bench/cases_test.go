//go:build bench

package bench

import (
	"fmt"
	"sync"
	"testing"

	"flashgate/internal/testenv"
)

// TestBenchLimit measures what a limit of one unit per buyer costs.
func TestBenchLimit(t *testing.T) {
	r := newRig(t)
	series := map[string][]load{}
	for round := range *rounds {
		for name, limit := range map[string]int64{"no-limit": 0, "limit-1": 1} {
			sku := fmt.Sprintf("%s-%d", name, round)
			r.putLimited(sku, 1_000_000_000, limit)
			r.warm("SKU="+sku, "CROWD=early", "BUYERS=100000")
			run(t, name, func() load { return r.reserve("SKU="+sku, "BUYERS=100000") }, series)
		}
	}
	report(t, "limit", "no-limit", []string{"no-limit", "limit-1"}, series)
}

// TestBenchGateways measures four gateways on one SKU beside one gateway, with as many
// buyers in all.
func TestBenchGateways(t *testing.T) {
	r := newRig(t)
	const gateways = 4
	processes, urls := []*testenv.Process{r.gateway}, []string{r.url}
	for i := 1; i < gateways; i++ {
		p, url, _ := r.startGateway(fmt.Sprintf("gateway-%d", i))
		processes, urls = append(processes, p), append(urls, url)
	}
	series := map[string][]load{}
	for round := range *rounds {
		sku := fmt.Sprintf("SKU=bench-%d", round)
		r.put(sku[4:], 1_000_000_000)
		r.warm(sku)
		for _, url := range urls[1:] {
			if _, err := runWrk("order.lua", url, 1e9, *connections, sku); err != nil {
				t.Fatal(err)
			}
		}
		run(t, "one", func() load { return r.reserve(sku) }, series)
		run(t, "four", func() load {
			return r.account(func() load { return r.measureAll(processes, urls, sku) })
		}, series)
	}
	report(t, "gateways", "one", []string{"one", "four"}, series)
}

// measureAll loads several gateways at a time, and adds up what they did. The longest of
// their latencies stands for all.
func (r *rig) measureAll(processes []*testenv.Process, urls []string, sku string) (sum load) {
	r.t.Helper()
	parts := r.cpuTimes()
	loads := make([]load, len(urls))
	var wg sync.WaitGroup
	for i, url := range urls {
		wg.Go(func() {
			before := cpuTime(processes[i].Pid())
			l, err := runWrk("order.lua", url, r.lasting(), *connections/len(urls), sku, fmt.Sprintf("CROWD=crowd-%d", i))
			if err != nil {
				r.t.Error(err)
			}
			l.cpu = cpuTime(processes[i].Pid()) - before
			loads[i] = l
		})
	}
	wg.Wait()
	for _, l := range loads {
		sum.requests += l.requests
		sum.refused += l.refused
		sum.perSecond += l.perSecond
		sum.cpu += l.cpu
		sum.p50, sum.p99 = max(sum.p50, l.p50), max(sum.p99, l.p99)
	}
	for i, now := range r.cpuTimes() {
		sum.parts[i] = now - parts[i]
	}
	return sum
}
