package testenv

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// slots is how many hash slots a Redis Cluster has.
const slots = 16384

// RedisCluster is a Redis Cluster of masters without replicas: the slots of one that
// ended are nobody's until it is back, those of the others are served.
type RedisCluster struct {
	Masters []*RedisServer
}

// Cluster starts a Redis Cluster of n masters with an equal share of the slots, and
// waits until each knows the whole.
func Cluster(t testing.TB, n int) *RedisCluster {
	t.Helper()
	c := &RedisCluster{}
	bus := make([]int, n)
	for i := range n {
		bus[i] = Port(t)
		r := Redis(t, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus[i]),
			"--cluster-node-timeout", "5000", "--cluster-require-full-coverage", "no")
		r.MustDo(t, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		r.MustDo(t, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/n), strconv.Itoa((i+1)*slots/n-1))
		c.Masters = append(c.Masters, r)
	}
	for i, r := range c.Masters[1:] {
		c.Masters[0].MustDo(t, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(r.Port), strconv.Itoa(bus[i+1]))
	}
	for _, r := range c.Masters {
		Eventually(t, func() bool {
			info, err := r.Do("CLUSTER", "INFO")
			return err == nil && strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, fmt.Sprintf("cluster_slots_ok:%d", slots)) &&
				strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n))
		}, "%s knows the whole cluster", r.Name)
	}
	return c
}

// Addrs are the masters' addresses.
func (c *RedisCluster) Addrs() (addrs []string) {
	for _, r := range c.Masters {
		addrs = append(addrs, r.Addr)
	}
	return addrs
}

// MasterOf is the index of the master that has a key's slot.
func (c *RedisCluster) MasterOf(t testing.TB, key string) int {
	t.Helper()
	slot, err := strconv.Atoi(c.Masters[0].MustDo(t, "CLUSTER", "KEYSLOT", key))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.Masters {
		if slot < (i+1)*slots/len(c.Masters) {
			return i
		}
	}
	t.Fatalf("no master has slot %d", slot)
	return -1
}
