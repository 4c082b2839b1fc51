package faults

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

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
	rebuilds := make([]int, 2)
	for n := range rebuilds {
		rebuilding.Go(func() {
			args := []string{"reconcile", "--rebuild"}
			if n == 1 {
				args = append(args, "shoe", "spread")
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if out, ok := c.command(args...); !ok {
					t.Errorf("%v: %s", args, out)
					return
				} else if strings.Contains(out, "shoe: loaded anew") {
					rebuilds[n]++
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
				a := c.insist(i, sku, fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i), 60*time.Second)
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
	t.Logf("loaded anew %v times", rebuilds)
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
	if rebuilds[0] == 0 || rebuilds[1] == 0 {
		t.Errorf("loaded anew %v times", rebuilds)
	}
	c.drained()
	c.checkAudit()
}
