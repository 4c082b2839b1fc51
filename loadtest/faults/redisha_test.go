package faults

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"flashgate/internal/testenv"
)

// TestClusterSentinelFailover: the master dies in the middle of a sale, Sentinel promotes a
// replica, and the gateways follow it.
func TestClusterSentinelFailover(t *testing.T) {
	testenv.ClusterTier(t)
	master := testenv.Redis(t)
	testenv.RedisReplica(t, master)
	testenv.RedisReplica(t, master)
	sentinels := testenv.Sentinels(t, master, 2)
	c := newCluster(t, 3, parts{redis: master, redisAddr: strings.Join(sentinels.Addrs, ","),
		env: []string{"FLASHGATE_REDIS__SENTINEL_MASTER=" + sentinels.Master}})
	c.putSKU("shoe", map[string]any{"total": stock, "heat": "hot", "per_user_limit": 1})
	answers := c.during("shoe", stock/3, func() {
		master.Kill()
		testenv.Eventually(t, func() bool {
			at, err := sentinels.MasterAddr()
			return err == nil && at != master.Addr
		}, "a replica is promoted")
	})
	c.checkSale("shoe", answers)
	c.checkShieldUsed()
	c.drained()
	c.checkAudit()
}

// TestClusterRedisLosesAMaster: SKUs lie on all three masters of a Redis Cluster, one of
// which dies in the middle of their sales and comes back empty.
func TestClusterRedisLosesAMaster(t *testing.T) {
	testenv.ClusterTier(t)
	shards := testenv.Cluster(t, 3)
	c := newCluster(t, 3, parts{redis: shards.Masters[0], redisAddr: strings.Join(shards.Addrs(), ",")})
	skus := make([]string, len(shards.Masters))
	for i, left := 0, len(skus); left > 0; i++ {
		sku := fmt.Sprintf("shoe-%d", i)
		if at := shards.MasterOf(t, "fg:{"+sku+":0}:gen"); skus[at] == "" {
			skus[at] = sku
			left--
		}
	}
	for i, sku := range skus {
		c.putSKU(sku, map[string]any{"total": stock, "heat": "hot", "per_user_limit": 1})
		c.warm(sku, 3)
		if n := shards.Masters[i].MustDo(t, "EXISTS", "fg:{"+sku+":0}:gen"); n != "1" {
			t.Errorf("the shield of %s is not on master %d", sku, i)
		}
	}
	// One sale breaks it, the others feel it.
	half, broken := make(chan struct{}), make(chan struct{})
	answers := make([][]answer, len(skus))
	var selling sync.WaitGroup
	for i, sku := range skus[1:] {
		selling.Go(func() {
			answers[i+1] = rush(buyers/2, 100, nil, func(n int) answer {
				if n >= stock/2 {
					select {
					case <-half:
					case <-broken:
					}
				}
				return c.insist(n, sku, fmt.Sprintf("buyer-%d", n), fmt.Sprintf("key-%d", n))
			})
		})
	}
	answers[0] = c.during(skus[0], stock/3, func() {
		close(half)
		shards.Masters[0].Kill()
		before := c.query("SELECT COUNT(*) FROM orders WHERE sku = ?", skus[0])
		testenv.Eventually(t, func() bool {
			return c.query("SELECT COUNT(*) FROM orders WHERE sku = ?", skus[0]) >= min(before+50, stock)
		}, "what lay on the dead master is sold around it")
		shards.Masters[0].Restart(t)
	})
	close(broken)
	selling.Wait()
	for i, sku := range skus {
		noErrors(t, answers[i])
		t.Logf("%s: %v", sku, tally(answers[i]))
		c.lastUnits(sku, stock)
		live := c.checkYes(sku, answers[i])
		c.checkSoldOut(sku, stock)
		c.checkPublished(sku, live)
	}
	c.checkShieldUsed()
	c.drained()
	c.checkAudit()
}
