package faults

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// throughput has workers buy without end and counts what they got, so that two
// stretches of time can be compared.
type throughput struct {
	done atomic.Int64
	stop chan struct{}
	wg   sync.WaitGroup
}

func (c *cluster) load(sku string, workers int) *throughput {
	l := &throughput{stop: make(chan struct{})}
	var next atomic.Int64
	for w := range workers {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				a := c.buy(c.gates[w%len(c.gates)], sku, fmt.Sprintf("honest-%d", next.Add(1)), "")
				if a.yes() {
					l.done.Add(1)
				}
			}
		})
	}
	return l
}

// rate is orders in the next half second.
func (l *throughput) rate() float64 {
	before := l.done.Load()
	<-time.After(500 * time.Millisecond)
	return float64(l.done.Load() - before)
}

func (l *throughput) end() {
	close(l.stop)
	l.wg.Wait()
}

// attack calls fn 200 times a second until the returned function is called.
func attack(fn func(i int)) (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				wg.Go(func() { fn(i) })
			}
		}
	})
	return func() {
		close(stop)
		wg.Wait()
	}
}

// compare interleaves stretches with and without the attack, and fails when the honest
// buyers got less than 0.8 of what they had without it.
func compare(t *testing.T, l *throughput, fn func(i int)) {
	t.Helper()
	l.rate() // warm
	var calm, attacked []float64
	for range 7 {
		calm = append(calm, l.rate())
		end := attack(fn)
		attacked = append(attacked, l.rate())
		end()
	}
	slices.Sort(calm)
	slices.Sort(attacked)
	before, under := calm[len(calm)/2], attacked[len(attacked)/2]
	t.Logf("orders per half second: %v before, %v under attack (ratio %.2f)", before, under, under/before)
	if before == 0 || under/before < 0.8 {
		t.Errorf("throughput fell to %.2f of before", under/before)
	}
}

func TestLimitBreakerOnColdSKU(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_FALLBACK__RATE=20000", "FLASHGATE_FALLBACK__BURST=5000"}})
	c.putSKU("shoe", map[string]any{"total": 10_000_000, "heat": "cold", "per_user_limit": 1})
	if a := c.insist(0, "shoe", "greedy", "first", 10*time.Second); !a.yes() {
		t.Fatalf("%+v", a)
	}
	l := c.load("shoe", 64)
	defer l.end()
	var refused, other atomic.Int64
	compare(t, l, func(i int) {
		a := c.buy(c.gates[i%2], "shoe", "greedy", fmt.Sprintf("fresh-%d-%d", i, time.Now().UnixNano()))
		if a.problem == "purchase_limit" {
			refused.Add(1)
		} else {
			other.Add(1)
		}
	})
	if refused.Load() < 100 || other.Load() > refused.Load()/10 {
		t.Errorf("the attacker was refused %d times and heard something else %d times", refused.Load(), other.Load())
	}
}

func TestRepeaterAfterFlush(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_FALLBACK__RATE=20000", "FLASHGATE_FALLBACK__BURST=5000"}})
	c.putSKU("shoe", map[string]any{"total": 10_000_000})
	first := c.insist(0, "shoe", "parrot", "the-key", 10*time.Second)
	if !first.yes() {
		t.Fatalf("%+v", first)
	}
	l := c.load("shoe", 64)
	defer l.end()
	l.rate()
	c.redis.FlushAll(t)
	var repeated, other atomic.Int64
	compare(t, l, func(i int) {
		a := c.buy(c.gates[i%2], "shoe", "parrot", "the-key")
		if a.code == 200 && a.orderID == first.orderID {
			repeated.Add(1)
		} else {
			other.Add(1)
		}
	})
	if repeated.Load() < 100 || other.Load() > 0 {
		t.Errorf("%d repeats were answered with the order, %d with something else", repeated.Load(), other.Load())
	}
}
