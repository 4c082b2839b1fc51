package faults

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

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

// stretch is how long the throughput is measured each time.
const stretch = 500 * time.Millisecond

// compare interleaves stretches with and without the attack, until the attacker has
// been told off a hundred times, and holds what honest buyers got to what they had
// without it.
func compare(t *testing.T, l *crowd, told *atomic.Int64, fn func(i int)) {
	t.Helper()
	l.rate(stretch) // warm
	var calm, attacked []float64
	testenv.Eventually(t, func() bool {
		calm = append(calm, l.rate(stretch))
		end := attack(fn)
		attacked = append(attacked, l.rate(stretch))
		end()
		return len(calm) >= 7 && told.Load() >= 100
	}, "the attacker is answered a hundred times")
	slices.Sort(calm)
	slices.Sort(attacked)
	before, under := calm[len(calm)/2], attacked[len(attacked)/2]
	t.Logf("orders a second: %.0f before, %.0f under attack", before, under)
	testenv.AtLeast(t, 0.8, under/before, "throughput under attack, as part of that before")
}

func TestLimitBreakerOnColdSKU(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_FALLBACK__RATE=20000", "FLASHGATE_FALLBACK__BURST=5000"}})
	c.putSKU("shoe", map[string]any{"total": 10_000_000, "heat": "cold", "per_user_limit": 1})
	if a := c.insist(0, "shoe", "greedy", "first"); !a.yes() {
		t.Fatalf("%+v", a)
	}
	l := c.crowd(c.gates, "shoe")
	defer l.join(64)()
	var refused, busy atomic.Int64
	compare(t, l, &refused, func(i int) {
		switch a := c.buy(c.gates[i%2], "shoe", "greedy", fmt.Sprintf("fresh-%d-%d", i, time.Now().UnixNano())); {
		case a.problem == "purchase_limit":
			refused.Add(1)
		case a.busy():
			busy.Add(1)
		default:
			t.Errorf("the attacker heard %+v", a)
		}
	})
	t.Logf("the attacker was refused %d times, and told to come again %d times", refused.Load(), busy.Load())
}

func TestRepeaterAfterFlush(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_FALLBACK__RATE=20000", "FLASHGATE_FALLBACK__BURST=5000"}})
	c.putSKU("shoe", map[string]any{"total": 10_000_000})
	first := c.insist(0, "shoe", "parrot", "the-key")
	if !first.yes() {
		t.Fatalf("%+v", first)
	}
	l := c.crowd(c.gates, "shoe")
	defer l.join(64)()
	l.rate(stretch)
	c.redis.FlushAll(t)
	var repeated, busy atomic.Int64
	compare(t, l, &repeated, func(i int) {
		switch a := c.buy(c.gates[i%2], "shoe", "parrot", "the-key"); {
		case a.code == 200 && a.orderID == first.orderID:
			repeated.Add(1)
		case a.busy():
			busy.Add(1)
		default:
			t.Errorf("the repeat heard %+v", a)
		}
	})
	t.Logf("%d repeats were answered with the order, %d were told to come again", repeated.Load(), busy.Load())
}
