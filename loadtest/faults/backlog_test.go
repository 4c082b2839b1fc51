package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// order asks a gateway for an order.
func (c *cluster) order(g *gate, user, id string) (code int, status, reason string) {
	req, _ := http.NewRequest("GET", g.url+"/v1/orders/"+id, nil)
	req.Header.Set("X-User-ID", user)
	res, err := c.http.Do(req)
	if err != nil {
		return 0, err.Error(), ""
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	var doc struct {
		Status any    `json:"status"`
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(body, &doc)
	return res.StatusCode, fmt.Sprint(doc.Status), doc.Reason
}

// awaitBreaker waits until every running gateway's breaker is in this state.
func (c *cluster) awaitBreaker(name, state string, limit time.Duration) {
	c.t.Helper()
	for _, g := range c.running() {
		testenv.Eventually(c.t, func() bool {
			req, _ := http.NewRequest("GET", g.admin+"/v1/breakers", nil)
			req.Header.Set("Authorization", "Bearer "+adminKey)
			res, err := c.http.Do(req)
			if err != nil {
				return false
			}
			defer drain(res)
			var doc struct {
				Breakers []struct{ Name, State string } `json:"breakers"`
			}
			if json.NewDecoder(res.Body).Decode(&doc) != nil {
				return false
			}
			for _, b := range doc.Breakers {
				if b.Name == name {
					return b.State == state
				}
			}
			return false
		}, "%s: the breaker of %s is %s", g.Name, name, state)
	}
}

// verdicts polls, each on another gateway than the one that queued it, until every
// queued answer has its verdict, and counts the verdicts.
func (c *cluster) verdicts(answers []answer, limit time.Duration) map[string]int {
	c.t.Helper()
	deadline := time.Now().Add(limit)
	var mu sync.Mutex
	ends := make(map[string]int)
	gates := c.running()
	rush(len(answers), 100, nil, func(i int) answer {
		a := answers[i]
		if a.code != 202 {
			return a
		}
		for n := i + 1; ; n++ {
			code, status, reason := c.order(gates[n%len(gates)], a.buyer, a.orderID)
			if code == 200 && status != "queued" || time.Now().After(deadline) {
				mu.Lock()
				defer mu.Unlock()
				ends[fmt.Sprintf("%d %s %s", code, status, reason)]++
				return a
			}
			<-time.After(100 * time.Millisecond)
		}
	})
	return ends
}

// warm sells a few, so that every gateway's shield is loaded and used.
func (c *cluster) warm(sku string, n int) []answer {
	c.t.Helper()
	answers := rush(n, 3, nil, func(i int) answer {
		return c.insist(i, sku, fmt.Sprintf("early-%d", i), "k", 20*time.Second)
	})
	for _, a := range answers {
		if !a.yes() {
			c.t.Fatalf("%+v", a)
		}
	}
	testenv.Eventually(c.t, func() bool {
		_, doc := c.operate("GET", "/v1/skus/"+sku, nil)
		return doc["shield_left"] != nil
	}, "the shield of %s is loaded", sku)
	return answers
}

// away ends the ledger and waits until every gateway knows.
func (c *cluster) away() {
	c.t.Helper()
	c.maria.Kill()
	c.awaitBreaker("ledger", "open", 15*time.Second)
}

// queue has n buyers buy while the ledger is away; each must be queued.
func (c *cluster) queue(sku string, n int) []answer {
	c.t.Helper()
	gates := c.running()
	queued := rush(n, 200, nil, func(i int) answer {
		return c.buy(gates[i%len(gates)], sku, fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
	})
	noErrors(c.t, queued)
	if got := tally(queued); got["202 queued"] != n {
		c.t.Errorf("answers while the ledger was away: %v", got)
	}
	return queued
}

// sellOut has buyers insist until the SKU is sold out, and returns what they heard at
// last, the verdicts of queued ones included.
func (c *cluster) sellOut(sku string, buyers int) []answer {
	c.t.Helper()
	return rush(buyers, 100, nil, func(i int) answer {
		return c.follow(i, sku, fmt.Sprintf("late-%d", i), fmt.Sprintf("key-%d", i), 60*time.Second)
	})
}

// checkQueued checks that the queued became orders, that the sale sold its stock to
// the last unit, and that everything was published.
func (c *cluster) checkQueued(sku string, total int64, queued, others []answer) {
	c.t.Helper()
	noErrors(c.t, others)
	live := c.checkYes(sku, others)
	missing := 0
	for _, a := range queued {
		if !live[a.orderID] {
			missing++
		}
	}
	if missing > 0 {
		c.t.Errorf("%d queued claims are no orders", missing)
	}
	c.checkSoldOut(sku, total)
	c.checkPublished(sku, live, 30*time.Second)
}

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
	queued := c.queue("shoe", while)
	for i := range 10 {
		a := queued[i*100]
		if code, status, _ := c.order(c.gates[(i+1)%3], a.buyer, a.orderID); code != 200 || status != "queued" {
			t.Errorf("a parked order is %d %s on another gateway", code, status)
		}
	}
	// A repeat is queued again, the order of before is no exception.
	for _, a := range []answer{queued[0], all[0]} {
		if b := c.buy(c.gates[1], "shoe", a.buyer, a.key); b.code != 202 || b.orderID != a.orderID {
			t.Errorf("a repeat: %+v", b)
		}
	}
	if a := c.buy(c.gates[0], "cold", "somebody", "k"); a.code != 503 || a.problem != "unavailable" {
		t.Errorf("a cold SKU: %+v", a)
	}
	<-time.After(time.Until(killed.Add(10 * time.Second)))
	before := c.metric("flashgate_backlog_drained_total")
	c.maria.Restart(t)
	back := time.Now()
	testenv.Within(t, 5*time.Second, func() bool { return c.metric("flashgate_backlog_drained_total") > before }, "the drain begins")
	t.Logf("the drain began within %v", time.Since(back))

	// Others buy on while the backlog is drained, until nothing is left.
	var late []answer
	var others sync.WaitGroup
	others.Go(func() { late = c.sellOut("shoe", 1000) })
	ends := c.verdicts(queued, 30*time.Second)
	if ends["200 reserved "] != while {
		t.Errorf("verdicts of the queued: %v", ends)
	}
	others.Wait()
	t.Logf("answers afterwards: %v", tally(late))
	for _, a := range append(queued, all...) {
		b := c.insist(1, "shoe", a.buyer, a.key, 10*time.Second)
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
	}})
	const total = 300
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 10)
	c.away()
	queued := c.queue("shoe", total-10)
	<-time.After(4 * time.Second)
	c.maria.Restart(t)
	if ends := c.verdicts(queued, 20*time.Second); ends["200 rejected timeout"] != len(queued) {
		t.Errorf("verdicts: %v", ends)
	}
	late := c.sellOut("shoe", 2*total)
	c.checkQueued("shoe", total, nil, append(all, late...))
}

// TestDrainersDieAndFreeze: the gateway that drains is killed in the middle of it, the
// next one is frozen for longer than its lease lives, and goes on as if nothing were.
func TestDrainersDieAndFreeze(t *testing.T) {
	c := newCluster(t, 4, parts{maria: testenv.OwnMariaDB(t), env: []string{"FLASHGATE_QUEUE__MAX_BATCH=8"}})
	const total, while = 2500, 2000
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 12)
	c.away()
	queued := c.queue("shoe", while)
	c.maria.Restart(t)
	// drainer is the gateway that has drained something since it was last looked at.
	seen := make(map[*gate]float64)
	drainer := func() (found *gate) {
		testenv.Eventually(t, func() bool {
			for _, g := range c.running() {
				n := c.metricOf(g, "flashgate_backlog_drained_total")
				if n > seen[g] {
					seen[g], found = n, g
					return true
				}
			}
			return false
		}, "somebody drains")
		return found
	}
	left := func() int64 { return while + 12 - c.query("SELECT COUNT(*) FROM orders WHERE sku = 'shoe'") }
	drainer().Kill()
	t.Logf("killed with %d left", left())
	frozen := drainer()
	frozen.Stop()
	t.Logf("frozen with %d left", left())
	testenv.Eventually(t, func() bool { return left() == 0 }, "others drain the rest")
	frozen.Cont()
	if ends := c.verdicts(queued, 30*time.Second); ends["200 reserved "] != while {
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
	answers := rush(1488, 100, &progress, func(i int) answer {
		user, key := fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i)
		for n := i; ; n++ {
			if a := c.buy(c.gates[n%3], "shoe", user, key); a.code == 202 || a.err != nil || n > i+100 {
				return a
			}
			<-time.After(100 * time.Millisecond)
		}
	})
	<-restarted
	noErrors(t, answers)
	if got := tally(answers); got["202 queued"] != len(answers) {
		t.Errorf("answers: %v", got)
	}
	c.maria.Restart(t)
	if ends := c.verdicts(answers, 30*time.Second); ends["200 reserved "] != len(answers) {
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
	queued := c.queue("shoe", while)
	c.redis.FlushAll(t)
	if a := c.buy(c.gates[0], "shoe", "somebody", "k"); a.code != 503 {
		t.Errorf("without ledger and shield: %+v", a)
	}
	c.maria.Restart(t)
	late := c.sellOut("shoe", 1500)
	if ends := c.verdicts(queued, 30*time.Second); ends["200 reserved "] != while {
		t.Errorf("verdicts: %v", ends)
	}
	c.checkQueued("shoe", total, queued, append(all, late...))
	reconcile := exec.Command(testenv.Binary(t), "reconcile")
	reconcile.Env = append(os.Environ(), c.env...)
	if out, err := reconcile.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(" 0 returned")) {
		t.Errorf("reconcile: %v\n%s", err, out)
	}
}

// TestLedgerHangs: it does not refuse, it does not answer.
func TestLedgerHangs(t *testing.T) {
	c := newCluster(t, 2, parts{maria: testenv.OwnMariaDB(t)})
	const total, while = 600, 500
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 10)
	c.maria.Stop()
	c.awaitBreaker("ledger", "open", 30*time.Second)
	queued := c.queue("shoe", while)
	c.maria.Cont()
	if ends := c.verdicts(queued, 30*time.Second); ends["200 reserved "] != while {
		t.Errorf("verdicts: %v", ends)
	}
	late := c.sellOut("shoe", 300)
	c.checkQueued("shoe", total, queued, append(all, late...))
}

// TestLongOutageInMidSale: buyers come before, during and after an outage of a minute,
// and follow up what they are told until they have a verdict.
func TestLongOutageInMidSale(t *testing.T) {
	if os.Getenv("TEST_LONG") == "" {
		t.Skip("takes two minutes; set TEST_LONG=1")
	}
	c := newCluster(t, 3, parts{maria: testenv.OwnMariaDB(t)})
	const total = 3000
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
	all := c.warm("shoe", 20)
	outage := make(chan struct{})
	go func() { // joined by <-outage below
		defer close(outage)
		<-time.After(2 * time.Second)
		c.maria.Kill()
		<-time.After(time.Minute)
		c.maria.Restart(t)
	}()
	began := time.Now()
	answers := rush(9000, 9000, nil, func(i int) answer {
		// They come in over 75 seconds.
		<-time.After(time.Until(began.Add(time.Duration(i) * 75 * time.Second / 9000)))
		return c.follow(i, "shoe", fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i), 120*time.Second)
	})
	<-outage
	noErrors(t, answers)
	t.Logf("answers: %v", tally(answers))
	live := c.checkYes("shoe", append(all, answers...))
	c.checkSoldOut("shoe", total)
	c.checkPublished("shoe", live, 30*time.Second)
	for _, a := range answers {
		if !a.yes() && a.problem != "sold_out" && a.status != "rejected" {
			t.Errorf("no verdict: %+v", a)
			break
		}
	}
}

// follow is a buyer who insists until there is an answer and, when it is 202, asks for
// the verdict.
func (c *cluster) follow(first int, sku, user, key string, limit time.Duration) answer {
	deadline := time.Now().Add(limit)
	for i := first; ; i++ {
		gates := c.running()
		a := c.buy(gates[i%len(gates)], sku, user, key)
		for a.code == 202 && time.Now().Before(deadline) {
			i++
			code, status, reason := c.order(gates[i%len(gates)], user, a.orderID)
			switch {
			case code == 200 && status == "rejected":
				a.code, a.status, a.problem = 409, status, reason
			case code == 200 && status != "queued":
				a.code, a.status = 200, status
			default:
				<-time.After(2 * time.Second)
			}
		}
		if a.yes() || a.code == 409 || a.code == 422 || time.Now().After(deadline) {
			return a
		}
		<-time.After(500 * time.Millisecond)
	}
}
