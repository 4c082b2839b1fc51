package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// cuts are what can happen to one gateway's link: nobody answers there, or somebody
// took the call and says nothing.
var cuts = map[string]func(*testenv.Proxy){
	"refused": func(p *testenv.Proxy) { p.Refuse(true) },
	"hung":    func(p *testenv.Proxy) { p.Pause() },
}

// lameLeader starts a gateway with this environment, waits until it leads the jobs, and
// then starts another one.
func (c *cluster) lameLeader(env string, jobs ...string) (lame, sound *gate) {
	c.t.Helper()
	lame = c.startGate(0, env)
	c.awaitReady(lame)
	for _, job := range jobs {
		c.leader(job)
	}
	sound = c.startGate(1)
	c.awaitReady(sound)
	return lame, sound
}

// leads waits until the gateway leads the jobs, which it has to within 5 s.
func (c *cluster) leads(g *gate, jobs ...string) {
	c.t.Helper()
	testenv.Within(c.t, 5*time.Second, func() bool {
		for _, job := range jobs {
			if c.leader(job) != g {
				return false
			}
		}
		return true
	}, "%s leads %v", g.Name, jobs)
}

// tenures is how often the job's lease was taken.
func (c *cluster) tenures(job string) int64 {
	c.t.Helper()
	return c.query("SELECT token FROM job_leases WHERE name = ?", job)
}

// TestLeaderCutOffFromNATS: the gateway that relays and drains has no link to NATS any
// more. The other one publishes everything, what the first one commits included, and
// decides what is parked.
func TestLeaderCutOffFromNATS(t *testing.T) {
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 0, parts{maria: testenv.OwnMariaDB(t)})
			front := testenv.NewProxy(t, c.nats.URL[len("nats://"):])
			lame, sound := c.lameLeader("FLASHGATE_NATS__URL=nats://"+front.Addr, "relay", "drain")
			c.putSKU("shoe", map[string]any{"total": 500, "heat": "hot"})
			all := c.warm("shoe", 20)
			cut(front)
			c.leads(sound, "relay", "drain")
			for i := range 40 {
				all = append(all, c.insistAt(c.gates[i%2], "shoe", fmt.Sprintf("buyer-%d", i), "k"))
			}
			for _, a := range all[:20] {
				c.cancel(lame, a)
			}
			c.drained()
			c.away()
			parked := rush(20, 20, nil, func(i int) (a answer) {
				testenv.Patiently(func() bool {
					a = c.buy(sound, "shoe", fmt.Sprintf("parked-%d", i), "k")
					return !a.busy() || a.code == 202
				})
				return a
			})
			c.maria.Restart(t)
			if ends := c.verdicts(parked); ends["200 reserved "] != 20 {
				t.Errorf("verdicts of the parked: %v", ends)
			}
			if a := c.insistAt(sound, "shoe", "afterwards", "k"); a.code != 201 {
				t.Errorf("a buyer afterwards: %+v", a)
			}
			c.drained()
			c.checkStock("shoe")
			published := c.results("shoe")
			for _, a := range append(all, parked...) {
				if published[a.orderID] == 0 {
					t.Errorf("not published: %+v", a)
				}
			}
			if n := c.tenures("relay"); n > 4 {
				t.Errorf("the relay's lease was taken %d times", n)
			}
		})
	}
}

// TestLeaderCutOffFromRedis: the gateway that reconciles has no link to Redis any more.
// What a third one left tentative when it died is on sale again through the other.
func TestLeaderCutOffFromRedis(t *testing.T) {
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 0, parts{})
			front := testenv.NewProxy(t, c.redis.Addr)
			_, sound := c.lameLeader("FLASHGATE_REDIS__ADDRS="+front.Addr, "reconcile")
			mortal := c.startGate(2)
			c.awaitReady(mortal)
			const total, lost = 120, 90
			c.putSKU("shoe", map[string]any{"total": total, "heat": "hot"})
			all := c.warm("shoe", 12)
			hold := c.holdStock()
			var dead []answer
			done := make(chan struct{})
			go func() { // joined by <-done below
				defer close(done)
				dead = rush(lost, lost, nil, func(i int) answer { return c.buy(mortal, "shoe", fmt.Sprintf("dead-%d", i), "k") })
			}()
			testenv.Eventually(t, func() bool {
				_, doc := c.operate("GET", "/v1/skus/shoe", nil)
				left, ok := doc["shield_left"].(float64)
				// How many of them is up to the batches: two wait for the ledger, the rest for those.
				return ok && int(left) < total-12
			}, "the shield has let some of them in")
			mortal.Kill()
			hold()
			<-done
			t.Logf("answers of the one that died: %v", tally(dead))
			cut(front)
			c.leads(sound, "reconcile")
			late := rush(total, 40, nil, func(i int) answer {
				return c.follow(1, "shoe", fmt.Sprintf("late-%d", i), "k")
			})
			all = append(append(all, dead...), late...)
			all = append(all, c.lastUnits("shoe", total)...)
			c.checkYes("shoe", all)
			if sold := c.query("SELECT SUM(sold) FROM stock WHERE sku = 'shoe'"); sold != total {
				t.Errorf("%d of %d sold", sold, total)
			}
			if n := c.tenures("reconcile"); n > 4 {
				t.Errorf("the reconciler's lease was taken %d times", n)
			}
		})
	}
}

// TestForcedBreakerOnTheLeader: an operator keeps one gateway, which expires, from the
// ledger. The other one expires.
func TestForcedBreakerOnTheLeader(t *testing.T) {
	c := newCluster(t, 2, parts{})
	c.putSKU("shoe", map[string]any{"total": 50})
	all := c.sell("shoe", "early", 50)
	lame := c.leader("expire")
	sound := c.gates[0]
	if sound == lame {
		sound = c.gates[1]
	}
	if code, doc := c.force(lame, "ledger", "forced_open", "gateway"); code != 200 || doc["state"] != "open" || doc["scope"] != "gateway" {
		t.Fatalf("%d %v", code, doc)
	}
	c.leads(sound, "expire", "drain", "reconcile")
	c.timeIsUp("shoe")
	testenv.Within(t, 3*time.Second, func() bool {
		return c.query("SELECT COUNT(*) FROM orders WHERE status = 'expired'") == int64(len(all))
	}, "every order expires")
	c.checkStock("shoe")
	late := rush(50, 20, nil, func(i int) answer { return c.insistAt(sound, "shoe", fmt.Sprintf("late-%d", i), "k") })
	c.checkYes("shoe", late)
	if sold := c.query("SELECT SUM(sold) FROM stock WHERE sku = 'shoe'"); sold != 50 {
		t.Errorf("%d of 50 sold", sold)
	}
}

// force gives one gateway's breaker an operator's order.
func (c *cluster) force(g *gate, breaker, mode, scope string) (code int, doc map[string]any) {
	c.t.Helper()
	req, _ := http.NewRequest("POST", g.admin+"/v1/breakers/"+breaker, strings.NewReader(
		fmt.Sprintf(`{"mode":%q,"scope":%q,"for":"1h","reason":"a drill"}`, mode, scope)))
	req.Header.Set("Authorization", "Bearer "+adminKey)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer drain(res)
	if err := json.NewDecoder(res.Body).Decode(&doc); err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, doc
}

// TestBreakerOrderForTheFleet: every gateway obeys, also one that starts later. While the
// ledger hangs nobody can order the fleet, but each gateway alone.
func TestBreakerOrderForTheFleet(t *testing.T) {
	c := newCluster(t, 2, parts{maria: testenv.OwnMariaDB(t)})
	c.putSKU("shoe", map[string]any{"total": 50, "heat": "hot"})
	began := time.Now()
	if code, doc := c.force(c.gates[1], "redis", "forced_open", "fleet"); code != 200 || doc["scope"] != "fleet" || doc["until"] == nil {
		t.Fatalf("%d %v", code, doc)
	}
	c.awaitBreaker("redis", "open")
	testenv.Took(t, 2*time.Second, time.Since(began), "both gateways obey")
	c.awaitReady(c.startGate(2))
	c.awaitBreaker("redis", "open")
	if a := c.insistAt(c.gates[2], "shoe", "somebody", "k"); a.code != 201 {
		t.Errorf("around the shield: %+v", a)
	}
	c.maria.Stop()
	if code, doc := c.force(c.gates[0], "redis", "auto", "fleet"); code != 503 || doc["code"] != "unavailable" {
		t.Errorf("an order that nobody can keep: %d %v", code, doc)
	}
	if code, doc := c.force(c.gates[0], "ledger", "forced_open", "gateway"); code != 200 || doc["state"] != "open" {
		t.Errorf("an order for one gateway: %d %v", code, doc)
	}
	c.maria.Cont()
	testenv.Eventually(t, func() bool {
		code, _ := c.force(c.gates[2], "redis", "auto", "fleet")
		return code == 200
	}, "an order is kept again")
	c.awaitBreaker("redis", "closed")
	if code, _ := c.force(c.gates[1], "ledger", "auto", "fleet"); code != 200 {
		t.Errorf("auto for the fleet: %d", code)
	}
	c.awaitBreaker("ledger", "closed")
}
