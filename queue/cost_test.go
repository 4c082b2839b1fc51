package queue

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// An idle SKU has no goroutine, and a waiting async claim is small.
func TestWhatWaitingAndIdlingCost(t *testing.T) {
	const n = 100_000
	cfg := roomy()
	cfg.Linger = time.Millisecond
	d := newDesk()
	q, stop := started(t, cfg, d, func(q *Queue) { q.maxWaiting = 2 * n })
	blocker, err := q.Join(claimAt("s", "blocker"), false)
	if err != nil {
		t.Fatal(err)
	}
	first := <-d.calls
	goroutines := runtime.NumGoroutine()
	before := heap()
	for i := range n {
		user := fmt.Sprintf("user-%032d", i)
		c := claimAt("s", user)
		if _, err := q.Join(c, true); err != nil {
			t.Fatal(err)
		}
	}
	perClaim := float64(heap()-before) / n
	t.Logf("%.0f bytes per waiting async claim, its 37-byte user included", perClaim)
	if perClaim > 512 {
		t.Errorf("a waiting async claim costs %.0f bytes, want well below 1 KiB", perClaim)
	}
	if grown := runtime.NumGoroutine() - goroutines; grown > 1 {
		t.Errorf("%d goroutines for %d waiting claims", grown, n)
	}
	q.hardStop() // the desk need not decide them all
	first.all(sale.Reserved)
	<-blocker.Verdict()
	testenv.Eventually(t, func() bool { return q.Waiting() == 0 && runtime.NumGoroutine() < goroutines }, "no claim and no goroutine of the SKU is left")
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
