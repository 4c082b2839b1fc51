package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// TestSaleBesideATrouble measures what a trouble of one SKU, of one gateway or of one
// gateway's link leaves of the sale of others, as a part of what it is without.
func TestSaleBesideATrouble(t *testing.T) {
	redis, maria := testenv.Redis(t), testenv.OwnMariaDB(t)
	c := newCluster(t, 0, parts{redis: redis, maria: maria})
	redisLink, ledgerLink := testenv.NewProxy(t, redis.Addr), testenv.NewProxy(t, maria.Addr)
	natsLink := testenv.NewProxy(t, strings.TrimPrefix(c.nats.URL, "nats://"))
	c.startGate(0)
	c.startGate(1, "FLASHGATE_REDIS__ADDRS="+redisLink.Addr, "FLASHGATE_NATS__URL=nats://"+natsLink.Addr,
		"FLASHGATE_LEDGER__DSN=root@tcp("+ledgerLink.Addr+")/"+maria.Database)
	for _, g := range c.gates {
		c.awaitReady(g)
	}
	sound, lame := c.gates[0], c.gates[1]
	c.putSKU("lame", map[string]any{"total": 10_000_000, "heat": "hot"})
	others := c.crowd([]*gate{sound}, c.putMany("shoe", 20)...)
	leave := others.join(30)
	defer leave()
	// Its buyers put up with whatever happens.
	troubled := c.crowd(c.gates, "lame")
	defer troubled.join(4)()

	cut := func(p *testenv.Proxy) func() func() {
		return func() func() {
			p.Refuse(true)
			return func() { p.Refuse(false) }
		}
	}
	for _, trouble := range []struct {
		name  string
		begin func() (end func())
	}{
		{"a SKU's rows are held", func() func() {
			release := c.holdRows("lame")
			// Before that is known, others wait for a second, once.
			testenv.Eventually(t, func() bool { return c.metricOf(sound, "flashgate_ledger_held_skus") > 0 }, "the SKU is known to be held")
			return release
		}},
		{"a SKU's rules keep changing", func() func() {
			return again(1, 20*time.Millisecond, func(i int) { c.operate("PATCH", "/v1/skus/lame", map[string]any{"per_user_limit": 1000 + i%2}) })
		}},
		{"a SKU's copy keeps being evicted", func() func() {
			return again(1, 20*time.Millisecond, func(int) { redis.MustDo(t, "DEL", "fg:{lame:0}:gen") })
		}},
		{"a gateway's link to Redis is cut", cut(redisLink)},
		{"a gateway's link to the ledger is cut", cut(ledgerLink)},
		{"a gateway's link to NATS is cut", cut(natsLink)},
		{"a gateway is suspended", func() func() {
			lame.Stop()
			return lame.Cont
		}},
		{"a gateway's breaker is forced open", func() func() {
			c.force(lame, "redis", "forced_open", "gateway")
			return func() { c.force(lame, "redis", "auto", "gateway") }
		}},
		{"SKUs are imported", func() func() {
			return again(1, 20*time.Millisecond, func(i int) {
				c.operate("PUT", fmt.Sprintf("/v1/skus/imported-%d", i), map[string]any{"total": 1, "unit_price": 1, "currency": "EUR", "title": "A thing", "heat": "cold"})
			})
		}},
		{"buyers read their orders", func() func() {
			return again(1, 20*time.Millisecond, func(int) {
				if res, err := c.http.Get(lame.url + "/v1/orders/aaaaaaaaaaaaaaaaaaaaaaaaaa"); err == nil {
					drain(res)
				}
			})
		}},
	} {
		d, rounds := time.Second, 1
		if testenv.Long() {
			d, rounds = 4*time.Second, 3
		}
		var ratios []float64
		for range rounds {
			before := others.rate(d)
			end := trouble.begin()
			during := others.rate(d)
			end()
			ratios = append(ratios, during/((before+others.rate(d))/2))
		}
		slices.Sort(ratios)
		testenv.AtLeast(t, 0.8, ratios[rounds/2], "%s: throughput of others", trouble.name)
	}
	leave()
	others.noneWrong()
	for _, sku := range others.skus {
		c.checkStock(sku)
	}
}
