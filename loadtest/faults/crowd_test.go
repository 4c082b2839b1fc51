package faults

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"flashgate/internal/testenv"
)

// crowd is buyers who buy one unit after the other, through gateways and of SKUs in turn,
// until they are told to stop.
type crowd struct {
	c      *cluster
	gates  []*gate
	skus   []string
	sold   atomic.Int64
	orders atomic.Int64 // serial number of the buyers
	mu     sync.Mutex
	wrong  []answer
}

func (c *cluster) crowd(gates []*gate, skus ...string) *crowd {
	return &crowd{c: c, gates: gates, skus: skus}
}

// putMany puts n hot SKUs with ample stock on sale, and returns their names.
func (c *cluster) putMany(prefix string, n int) (skus []string) {
	c.t.Helper()
	for i := range n {
		skus = append(skus, fmt.Sprintf("%s-%d", prefix, i))
		c.putSKU(skus[i], map[string]any{"total": 10_000_000, "heat": "hot"})
	}
	return skus
}

// join adds n buyers, who stay until the function that it returns is called.
func (b *crowd) join(n int) (leave func()) {
	return again(n, 0, func(int) {
		i := int(b.orders.Add(1))
		b.took(b.c.buy(b.gates[i%len(b.gates)], b.skus[i%len(b.skus)], fmt.Sprintf("buyer-%d", i), ""))
	})
}

// again has n goroutines call fn, each one time after the other with a pause between, until
// the function that it returns is called.
func again(n int, pause time.Duration, fn func(i int)) (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for i := 0; ; i++ {
				fn(i)
				select {
				case <-stop:
					return
				case <-time.After(pause):
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(stop); wg.Wait() })
}

func (b *crowd) took(a answer) {
	switch {
	case a.yes():
		b.sold.Add(1)
	case a.busy():
		<-time.After(10 * time.Millisecond) // nobody who is told to come again does so at once
	default:
		b.mu.Lock()
		b.wrong = append(b.wrong, a)
		b.mu.Unlock()
	}
}

// rate is how many units are sold a second, over d, or for as long as fifty take.
func (b *crowd) rate(d time.Duration) float64 {
	b.c.t.Helper()
	before, began := b.sold.Load(), time.Now()
	<-time.After(d)
	testenv.Eventually(b.c.t, func() bool { return b.sold.Load() >= before+50 }, "buyers get something")
	return float64(b.sold.Load()-before) / time.Since(began).Seconds()
}

// noneWrong reports answers that were neither a yes nor "come again".
func (b *crowd) noneWrong() {
	b.c.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wrong) > 0 {
		b.c.t.Errorf("answers that nobody expects: %v, the first %+v", tally(b.wrong), b.wrong[0])
	}
}
