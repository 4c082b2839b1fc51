package faults

import (
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// TestSuspendedGateway suspends a gateway for longer than its time-outs and its leases,
// with calls of many SKUs under way to Redis. That they all took too long is its own
// doing: no breaker opens, though one failure would do, and the other gateway sells on.
func TestSuspendedGateway(t *testing.T) {
	redis := testenv.Redis(t)
	link := testenv.NewProxy(t, redis.Addr)
	const timeout = 2 * time.Second
	c := newCluster(t, 0, parts{redis: redis})
	c.startGate(0, "FLASHGATE_REDIS__ADDRS="+link.Addr, "FLASHGATE_REDIS__READ_TIMEOUT="+timeout.String(), "FLASHGATE_BREAKER__REDIS__CONSECUTIVE=1")
	c.startGate(1, "FLASHGATE_REDIS__READ_TIMEOUT=5s")
	for _, g := range c.gates {
		c.awaitReady(g)
	}
	lame, sound := c.gates[0], c.gates[1]
	skus := c.putMany("shoe", 20)
	for _, sku := range skus {
		c.warm(sku, 4)
	}
	waits, goOn := c.crowd([]*gate{lame}, skus...), c.crowd([]*gate{sound}, skus...)
	leave, alsoLeave := waits.join(60), goOn.join(10)
	defer leave()
	defer alsoLeave()

	opened := func() int { return strings.Count(lame.Output(), "\"usable\":false") }
	testenv.Eventually(t, func() bool {
		before := opened()
		began := time.Now()
		link.Pause()
		<-time.After(timeout / 10) // until calls of most SKUs wait for an answer
		lame.Stop()
		if time.Since(began) < timeout/2 && opened() == before {
			return true
		}
		link.Resume() // the machine is busy, and they may be Redis' time-outs
		lame.Cont()
		return false
	}, "the gateway is suspended with calls under way")
	before := opened()
	since := time.Now()
	sold := goOn.sold.Load()
	<-time.After(2*timeout - time.Since(since)) // it is the gateway's, and cannot be waited for otherwise
	testenv.Eventually(t, func() bool { return goOn.sold.Load() > sold }, "the other one sells on")
	lame.Cont()

	// Their answers are still on their way, so that all of them are late.
	counted := time.AfterFunc(timeout/2, link.Resume)
	testenv.Eventually(t, func() bool { return c.metricOf(lame, "flashgate_lag_timeouts_total") > 0 || opened() > before }, "calls timed out")
	counted.Stop()
	link.Resume()
	testenv.Within(t, 5*time.Second, func() bool {
		return c.insistAt(lame, skus[0], "thawed", "k").yes()
	}, "the suspended gateway sells again")
	leave()
	alsoLeave()
	if n := opened() - before; n != 0 {
		t.Errorf("%d breakers of the suspended gateway opened", n)
	}
	if n := strings.Count(sound.Output(), "\"usable\":false"); n != 0 {
		t.Errorf("%d breakers of the other gateway opened", n)
	}
	waits.noneWrong()
	goOn.noneWrong()
	for _, sku := range skus {
		c.checkStock(sku)
	}
}
