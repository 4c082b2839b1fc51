package faults

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

const (
	buyers = 5000
	stock  = 500
)

// TestSaleSellsExactlyItsStock is the sale as it should be: nothing breaks.
func TestSaleSellsExactlyItsStock(t *testing.T) {
	c := newCluster(t, 3, parts{})
	c.putSKU("shoe", map[string]any{"total": stock})
	var again atomic.Int64
	answers := rush(buyers, 600, nil, func(i int) answer {
		user := fmt.Sprintf("buyer-%d", i)
		a := c.buy(c.gates[i%3], "shoe", user, "")
		if a.busy() || a.err != nil && refusedConnection(a.err) {
			again.Add(1)
			a = c.insist(i, "shoe", user, "k")
		}
		return a
	})
	noErrors(t, answers)
	// Who was told to come again, and had a unit nevertheless, has it without knowing.
	got := tally(answers)
	yes, no, unsure := got["201 reserved"]+got["200 reserved"], got["409 sold_out"], int(again.Load())
	if yes+no != buyers || yes > stock || yes < stock-unsure {
		t.Errorf("answers: %v, of which %d after another try", got, unsure)
	}
	live := c.checkYes("shoe", answers)
	c.checkSoldOut("shoe", stock)
	c.checkPublished("shoe", live)
}

// during runs a sale of 5,000 keyed buyers over the running gateways, who insist until
// they have a verdict, and breaks something once a good part of the stock is sold. Until
// then some buyers are held back, so that units are left to be sold while it is broken.
func (c *cluster) during(sku string, breakAt int, breakIt func()) []answer {
	c.t.Helper()
	breaking, broken := make(chan struct{}), make(chan struct{})
	var sold atomic.Int64
	go func() { // joined by <-broken below
		defer close(broken)
		testenv.Eventually(c.t, func() bool { return sold.Load() >= int64(breakAt) }, "%d orders", breakAt)
		close(breaking)
		breakIt()
	}()
	answers := rush(buyers, 300, nil, func(i int) answer {
		if i >= (breakAt+stock)/2 {
			select {
			case <-breaking:
			case <-broken:
			}
		}
		a := c.insist(i, sku, fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
		if a.yes() {
			sold.Add(1)
		}
		return a
	})
	<-broken
	return answers
}

// checkSale checks what every disturbed sale must end with.
func (c *cluster) checkSale(sku string, answers []answer) {
	c.t.Helper()
	noErrors(c.t, answers)
	got := tally(answers)
	c.t.Logf("answers: %v", got)
	if yes := got["201 reserved"] + got["200 reserved"]; yes > stock {
		c.t.Errorf("%d buyers heard yes to %d units", yes, stock)
	}
	live := c.checkYes(sku, answers)
	c.checkSoldOut(sku, stock)
	c.checkPublished(sku, live)
}

func TestRedisFlushed(t *testing.T) {
	c := newCluster(t, 3, parts{})
	c.putSKU("shoe", map[string]any{"total": stock})
	answers := c.during("shoe", stock/3, func() { c.redis.FlushAll(t) })
	c.checkSale("shoe", answers)
}

func TestRedisKilledAndRestartedEmpty(t *testing.T) {
	c := newCluster(t, 3, parts{redis: testenv.Redis(t)})
	c.putSKU("shoe", map[string]any{"total": stock})
	answers := c.during("shoe", stock/3, func() {
		c.redis.Kill()
		c.sellsOn(100)
		c.redis.Restart(t)
	})
	c.checkSale("shoe", answers)
	c.checkShieldUsed()
}

// sellsOn waits until n more orders are in the ledger, or all.
func (c *cluster) sellsOn(n int64) {
	c.t.Helper()
	enough := min(c.query("SELECT COUNT(*) FROM orders")+n, stock)
	testenv.Eventually(c.t, func() bool { return c.query("SELECT COUNT(*) FROM orders") >= enough }, "it sells without what is broken")
}

// checkShieldUsed checks that the part that came back is used again within five seconds,
// by every gateway: a claim goes through the shield, which was loaded for it.
func (c *cluster) checkShieldUsed() {
	c.t.Helper()
	c.putSKU("sock", map[string]any{"total": 1000})
	for i, g := range c.running() {
		testenv.Within(c.t, 5*time.Second, func() bool {
			around := c.metricOf(g, "flashgate_around_claims_total")
			a := c.buy(g, "sock", fmt.Sprintf("later-%d", i), "")
			return a.code == 201 && c.metricOf(g, "flashgate_around_claims_total") == around
		}, "%s sells through the shield again", g.Name)
	}
}

// TestStaleReplicaPromoted is what oversells elsewhere: the primary dies and a replica
// that stopped replicating long before takes its place, with stock that was sold.
func TestStaleReplicaPromoted(t *testing.T) {
	primary := testenv.Redis(t)
	replica := testenv.RedisReplica(t, primary)
	front := testenv.NewProxy(t, primary.Addr)
	c := newCluster(t, 3, parts{redis: primary, redisAddr: front.Addr})
	c.putSKU("shoe", map[string]any{"total": stock})
	// A few orders load the shield, and the replica with it.
	first := rush(10, 2, nil, func(i int) answer {
		return c.insist(i, "shoe", fmt.Sprintf("early-%d", i), "k")
	})
	testenv.Eventually(t, func() bool {
		size, err := replica.Do("DBSIZE")
		return err == nil && size != "0"
	}, "the replica has the shield")
	replica.Promote(t) // from here on it hears nothing of what is sold
	answers := c.during("shoe", stock/2, func() {
		front.Retarget(replica.Addr)
		front.Cut()
		primary.Kill()
	})
	c.checkSale("shoe", append(answers, first...))
}

// TestLimitHoldsWhenRedisForgets: every buyer tries five times over different gateways
// with fresh keys, and Redis forgets everything in the middle.
func TestLimitHoldsWhenRedisForgets(t *testing.T) {
	c := newCluster(t, 3, parts{})
	c.putSKU("shoe", map[string]any{"total": 2000, "per_user_limit": 1})
	const people = 600
	var done atomic.Int64
	flushed := make(chan struct{})
	go func() { // joined by <-flushed below
		defer close(flushed)
		testenv.Eventually(t, func() bool { return done.Load() > people }, "a third of the calls")
		c.redis.FlushAll(t)
	}()
	answers := rush(5*people, 200, &done, func(i int) answer {
		user := fmt.Sprintf("buyer-%d", i%people)
		return c.insist(i, "shoe", user, fmt.Sprintf("try-%d", i/people))
	})
	<-flushed
	noErrors(t, answers)
	c.checkYes("shoe", answers)
	got := tally(answers)
	if got["201 reserved"]+got["200 reserved"] != people || got["409 purchase_limit"] != 4*people {
		t.Errorf("answers: %v", got)
	}
	if n := c.query("SELECT MAX(n) FROM (SELECT COUNT(*) AS n FROM orders WHERE sku = 'shoe' GROUP BY user_id) x"); n != 1 {
		t.Errorf("one buyer has %d orders", n)
	}
	if n := c.query("SELECT COUNT(*) FROM orders WHERE sku = 'shoe'"); n != people {
		t.Errorf("%d orders for %d people", n, people)
	}
}

// TestGatewayKilled: the buyers of a gateway that dies repeat with their keys on the
// others, and what it had taken from the shield is sold all the same.
func TestGatewayKilled(t *testing.T) {
	c := newCluster(t, 3, parts{})
	c.putSKU("shoe", map[string]any{"total": stock})
	var killed time.Time
	answers := c.during("shoe", stock/3, func() {
		c.gates[1].Kill()
		killed = time.Now()
	})
	// What the dead gateway had taken from the shield comes back within 15 s, and is
	// sold to whoever asks then.
	late := 0
	testenv.Eventually(t, func() bool {
		late++
		answers = append(answers, c.buy(c.running()[late%2], "shoe", fmt.Sprintf("late-%d", late), fmt.Sprintf("late-key-%d", late)))
		return c.query("SELECT SUM(sold) FROM stock WHERE sku = 'shoe'") == stock
	}, "sold to the last unit")
	testenv.Took(t, 15*time.Second, time.Since(killed), "what the dead gateway had taken is sold")
	c.checkSale("shoe", answers)
}

func TestNATSStoppedAndRestarted(t *testing.T) {
	c := newCluster(t, 3, parts{})
	c.putSKU("shoe", map[string]any{"total": stock})
	c.nats.Kill()
	answers := c.during("shoe", stock/2, func() { c.nats.Restart(t) })
	if got := tally(answers); got["201 reserved"]+got["200 reserved"] != stock {
		t.Errorf("the sale was disturbed: %v", got)
	}
	c.checkSale("shoe", answers)
}

func TestLedgerKilledAndRestarted(t *testing.T) {
	c := newCluster(t, 3, parts{maria: testenv.OwnMariaDB(t)})
	c.putSKU("shoe", map[string]any{"total": stock})
	answers := c.during("shoe", stock/3, func() {
		c.maria.Kill()
		c.maria.Restart(t)
	})
	c.checkSale("shoe", answers)
}
