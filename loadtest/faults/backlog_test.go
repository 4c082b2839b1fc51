package faults

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// TestLedgerAwayQueuesBuyers: while the ledger is away, buyers whom the shield admits
// are answered 202; it comes back, and each has the verdict that the ledger gave.
func TestLedgerAwayQueuesBuyers(t *testing.T) {
	c := newCluster(t, 3, parts{maria: testenv.OwnMariaDB(t)})
	const total, early, while = 2000, 30, 1500
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot", "per_user_limit": 2})
	c.putSKU("cold", map[string]any{"total": 10, "heat": "cold"})
	all := c.warm("shoe", early)

	killed := time.Now()
	c.away()
	queued := c.queue("shoe", while, nil)
	for i := range 10 {
		a := queued[i*100]
		testenv.Eventually(t, func() bool {
			code, status, _ := c.order(c.gates[(i+1)%3], a.buyer, a.orderID)
			return code == 200 && status == "queued"
		}, "another gateway knows of parked order %s", a.orderID)
	}
	// A repeat is queued again, the order of before is no exception.
	for _, a := range []answer{queued[0], all[0]} {
		var b answer
		testenv.Eventually(t, func() bool {
			b = c.buy(c.gates[1], "shoe", a.buyer, a.key)
			return b.code != 503
		}, "a repeat is answered")
		if b.code != 202 || b.orderID != a.orderID {
			t.Errorf("a repeat: %+v", b)
		}
	}
	testenv.Eventually(t, func() bool {
		a := c.buy(c.gates[0], "cold", "somebody", "k")
		if a.code != 503 {
			t.Fatalf("a cold SKU: %+v", a)
		}
		return a.problem == "unavailable"
	}, "a cold SKU is refused as unavailable")
	// Parked claims outlive queue.max_age.
	<-time.After(time.Until(killed.Add(10 * time.Second)))
	before := c.metric("flashgate_backlog_drained_total")
	c.maria.Restart(t)
	testenv.Within(t, 5*time.Second, func() bool { return c.metric("flashgate_backlog_drained_total") > before }, "the drain begins")

	// Others buy on while the backlog is drained, until nothing is left.
	var late []answer
	var others sync.WaitGroup
	others.Go(func() { late = c.sellOut("shoe", 1000) })
	ends := c.verdicts(queued)
	if ends["200 reserved "] != while {
		t.Errorf("verdicts of the queued: %v", ends)
	}
	others.Wait()
	t.Logf("answers afterwards: %v", tally(late))
	for _, a := range append(queued, all...) {
		b := c.insist(1, "shoe", a.buyer, a.key)
		if b.code != 200 || !b.replayed || b.orderID != a.orderID {
			t.Errorf("a repeat afterwards: %+v of %+v", b, a)
			break
		}
	}
	c.checkQueued("shoe", total, queued, append(all, late...))
}

// TestQueuedForTooLong: who has waited for longer than backlog.max_wait is rejected once
// the ledger is back, and the units are anybody's again.
func TestQueuedForTooLong(t *testing.T) {
	c := newCluster(t, 2, parts{maria: testenv.OwnMariaDB(t), env: []string{
		"FLASHGATE_QUEUE__MAX_AGE=2s", "FLASHGATE_RECONCILE__GRACE=6s", "FLASHGATE_BACKLOG__MAX_WAIT=3s",
		// Their verdicts stand in Redis; a write that takes longer is lost.
		"FLASHGATE_REDIS__READ_TIMEOUT=5s",
	}})
	const total = 300
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 10)
	c.away()
	queued := c.queue("shoe", total-10, nil)
	<-time.After(4 * time.Second) // longer than max_wait, after the last of them came
	c.maria.Restart(t)
	ends := c.verdicts(queued, http.StatusNotFound)
	if rejected := ends["200 rejected timeout"]; rejected == 0 || rejected+ends["404 404 "] != len(queued) {
		t.Errorf("verdicts: %v", ends)
	}
	late := c.sellOut("shoe", 2*total)
	c.checkQueued("shoe", total, nil, append(all, late...))
}

// TestDrainersDieAndFreeze: the gateway that drains is killed in the middle of it, the
// next one is frozen for longer than its lease lives, and goes on as if nothing were.
func TestDrainersDieAndFreeze(t *testing.T) {
	maria := testenv.OwnMariaDB(t)
	front := testenv.NewProxy(t, maria.Addr)
	c := newCluster(t, 4, parts{maria: maria, dsn: "root@tcp(" + front.Addr + ")/" + maria.Database, env: []string{"FLASHGATE_QUEUE__MAX_BATCH=8"}})
	const total, while = 2500, 2000
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 12)
	front.Refuse(true)
	c.awaitBreaker("ledger", "open")
	queued := c.queue("shoe", while, nil)
	left := func() int64 { return while + 12 - c.query("SELECT COUNT(*) FROM orders WHERE sku = 'shoe'") }
	hold := c.holdStock()
	front.Refuse(false)
	drainer, hold := c.amidDrain(hold)
	t.Logf("killed with %d left", left())
	drainer.Kill()
	frozen, hold := c.amidDrain(hold)
	t.Logf("frozen with %d left", left())
	frozen.Stop()
	hold()
	testenv.Eventually(t, func() bool { return left() == 0 }, "others drain the rest")
	frozen.Cont()
	if ends := c.verdicts(queued); ends["200 reserved "] != while {
		t.Errorf("verdicts: %v", ends)
	}
	late := c.sellOut("shoe", 1000)
	c.checkQueued("shoe", total, queued, append(all, late...))
}

// TestNATSRestartsWhileTheLedgerIsAway: who cannot be queued for certain hears 503 and
// repeats; who was queued stays queued.
func TestNATSRestartsWhileTheLedgerIsAway(t *testing.T) {
	c := newCluster(t, 3, parts{maria: testenv.OwnMariaDB(t)})
	const total = 1500
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 12)
	c.away()
	var progress atomic.Int64
	restarted := make(chan struct{})
	go func() { // joined by <-restarted below
		defer close(restarted)
		testenv.Eventually(t, func() bool { return progress.Load() > 500 }, "a third is queued")
		c.nats.Restart(t)
	}()
	answers := c.queue("shoe", 1488, &progress)
	<-restarted
	c.maria.Restart(t)
	if ends := c.verdicts(answers); ends["200 reserved "] != len(answers) {
		t.Errorf("verdicts: %v", ends)
	}
	c.checkQueued("shoe", total, answers, all)
}

// TestRedisForgetsWhileClaimsAreParked: the shield that is loaded when the ledger is
// back counts parked units as gone, so nobody takes them from those who were queued.
func TestRedisForgetsWhileClaimsAreParked(t *testing.T) {
	c := newCluster(t, 3, parts{maria: testenv.OwnMariaDB(t), env: []string{"FLASHGATE_QUEUE__MAX_BATCH=8"}})
	const total, while = 2000, 1500
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot", "per_user_limit": 1})
	all := c.warm("shoe", 12)
	c.away()
	queued := c.queue("shoe", while, nil)
	c.redis.FlushAll(t)
	if a := c.buy(c.gates[0], "shoe", "somebody", "k"); a.code != 503 {
		t.Errorf("without ledger and shield: %+v", a)
	}
	c.maria.Restart(t)
	late := c.sellOut("shoe", 1500)
	if ends := c.verdicts(queued); ends["200 reserved "] != while {
		t.Errorf("verdicts: %v", ends)
	}
	c.checkQueued("shoe", total, queued, append(all, late...))
	// What a busy gateway gave up may be returned; nothing of it is for sale.
	out, ok := c.command("reconcile")
	if t.Logf("reconcile: %s", out); !ok {
		t.Error("reconcile failed")
	}
	if a := c.insist(0, "shoe", "too-late", "k"); a.problem != "sold_out" {
		t.Errorf("after everything was sold: %+v", a)
	}
	c.checkSoldOut("shoe", total)
}

// TestLedgerHangs: it does not refuse, it does not answer.
func TestLedgerHangs(t *testing.T) {
	c := newCluster(t, 2, parts{maria: testenv.OwnMariaDB(t)})
	const total, while = 600, 500
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 10)
	c.maria.Stop()
	c.awaitBreaker("ledger", "open")
	queued := c.queue("shoe", while, nil)
	c.maria.Cont()
	if ends := c.verdicts(queued); ends["200 reserved "] != while {
		t.Errorf("verdicts: %v", ends)
	}
	late := c.sellOut("shoe", 300)
	c.checkQueued("shoe", total, queued, append(all, late...))
}

// TestLongOutageInMidSale: buyers come before, during and after an outage of a minute,
// and follow up what they are told until they have a verdict.
func TestLongOutageInMidSale(t *testing.T) {
	testenv.LongTier(t)
	c := newCluster(t, 3, parts{maria: testenv.OwnMariaDB(t)})
	const total = 3000
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 20)
	outage := make(chan struct{})
	var progress atomic.Int64
	go func() { // joined by <-outage below
		defer close(outage)
		testenv.Eventually(t, func() bool { return progress.Load() > 200 }, "some have bought")
		c.maria.Kill()
		<-time.After(time.Minute)
		c.maria.Restart(t)
	}()
	began := time.Now()
	answers := rush(9000, 9000, &progress, func(i int) answer {
		// They come in over 75 seconds.
		<-time.After(time.Until(began.Add(time.Duration(i) * 75 * time.Second / 9000)))
		return c.follow(i, "shoe", fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
	})
	<-outage
	noErrors(t, answers)
	t.Logf("answers: %v", tally(answers))
	live := c.checkYes("shoe", append(all, answers...))
	c.checkSoldOut("shoe", total)
	c.checkPublished("shoe", live)
	for _, a := range answers {
		if !a.yes() && a.problem != "sold_out" && a.status != "rejected" {
			t.Errorf("no verdict: %+v", a)
			break
		}
	}
}
