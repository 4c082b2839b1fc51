package faults

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"flashgate/internal/testenv"
)

// TestRebuildDuringASale loads the shields anew again and again, by several operators at
// once, while the SKUs sell out over three gateways and orders are given back: not one
// unit too many is sold, and none is left over.
func TestRebuildDuringASale(t *testing.T) {
	c := newCluster(t, 3, parts{})
	const stock = 2500
	skus := map[string]map[string]any{
		"shoe":    {"total": stock},
		"limited": {"total": stock, "per_user_limit": 1},
		"spread":  {"total": stock, "segments": 3},
	}
	for sku, fields := range skus {
		c.putSKU(sku, fields)
		c.sell(sku, "first", 3) // the shield is loaded
	}
	stop := make(chan struct{})
	var rebuilding sync.WaitGroup
	rebuilds := make([]atomic.Int64, 2)
	rebuilt := make(chan struct{}) // closed once each operator has loaded something anew
	var once sync.Once
	for n := range rebuilds {
		rebuilding.Go(func() {
			args := []string{"reconcile", "--rebuild"}
			if n == 1 {
				args = append(args, "shoe", "spread")
			}
			defer once.Do(func() { close(rebuilt) }) // nobody waits for an operator who gave up
			for {
				select {
				case <-stop:
					return
				default:
				}
				if rebuilds[0].Load() > 0 && rebuilds[1].Load() > 0 {
					once.Do(func() { close(rebuilt) })
				}
				if out, ok := c.command(args...); !ok && strings.Contains(out, "a dependency is away") {
					continue
				} else if !ok {
					t.Errorf("%v: %s", args, out)
					return
				} else if strings.Contains(out, "shoe: loaded anew") {
					rebuilds[n].Add(1)
				}
			}
		})
	}
	answers := make(map[string][]answer)
	var mu sync.Mutex
	var selling sync.WaitGroup
	for sku := range skus {
		selling.Go(func() {
			got := rush(stock+500, 40, nil, func(i int) answer {
				if i >= stock/2 {
					<-rebuilt // the second half is sold after a rebuild, and beside more
				}
				a := c.insist(i, sku, fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
				if a.yes() && i%25 == 0 {
					c.cancel(c.gates[i%3], a)
				}
				return a
			})
			mu.Lock()
			defer mu.Unlock()
			answers[sku] = got
		})
	}
	selling.Wait()
	close(stop)
	rebuilding.Wait()
	t.Logf("loaded anew %d and %d times", rebuilds[0].Load(), rebuilds[1].Load())
	for sku := range skus {
		// What was given back last is sold too.
		late := 0
		testenv.Eventually(t, func() bool {
			late++
			c.buy(c.gates[late%3], sku, fmt.Sprintf("late-%d", late), "k")
			return c.query("SELECT SUM(sold) FROM stock WHERE sku = ?", sku) == stock
		}, "%s is sold to the last unit", sku)
		noErrors(t, answers[sku])
		t.Logf("%s: %v", sku, tally(answers[sku]))
		c.checkStock(sku)
	}
	if rebuilds[0].Load() == 0 || rebuilds[1].Load() == 0 {
		t.Error("an operator has loaded nothing anew")
	}
	c.drained()
	c.checkAudit()
}
