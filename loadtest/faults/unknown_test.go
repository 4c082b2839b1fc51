package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// TestCommitOutcomeUnknown cuts the connection between COMMIT and its answer: the
// gateway cannot know whether the order was committed, and must not guess.
func TestCommitOutcomeUnknown(t *testing.T) {
	maria := testenv.MariaDB(t)
	front := testenv.NewProxy(t, maria.Addr)
	c := newCluster(t, 1, parts{maria: maria, dsn: "root@tcp(" + front.Addr + ")/" + maria.Database})
	for _, way := range []string{"hot", "cold"} {
		sku := "shoe-" + way
		c.putSKU(sku, map[string]any{"total": 10, "heat": way, "per_user_limit": 3})
		// The first orders load the shield, so that the next one goes through it.
		for i := range 3 {
			if a := c.insist(0, sku, fmt.Sprintf("early-%d", i), "k", 10*time.Second); !a.yes() {
				t.Fatalf("%s: %+v", sku, a)
			}
		}
		for name, trap := range map[string]func(string) <-chan struct{}{
			"lost after the commit": front.SwallowReply, "lost before the commit": front.CutBefore,
		} {
			user := "buyer-" + name[5:9]
			sprung := trap("COMMIT")
			a := c.buy(c.gates[0], sku, user, "the-key")
			select {
			case <-sprung:
			default:
				t.Fatalf("%s, %s: no COMMIT was cut", way, name)
			}
			if a.code != 201 || a.err != nil {
				t.Errorf("%s, %s: %+v", way, name, a)
			}
			if n := c.query("SELECT COUNT(*) FROM orders WHERE sku = ? AND user_id = ?", sku, user); n != 1 {
				t.Errorf("%s, %s: %d order rows", way, name, n)
			}
			if b := c.buy(c.gates[0], sku, user, "the-key"); b.code != 200 || !b.replayed || b.orderID != a.orderID {
				t.Errorf("%s, %s: repeat: %+v", way, name, b)
			}
		}
		c.checkStock(sku)
	}
}

// TestRepeatAfterItsGatewayDied: the order stands; whatever became of the sale
// meanwhile, the repeat is answered with it, by a gateway that never saw it.
func TestRepeatAfterItsGatewayDied(t *testing.T) {
	c := newCluster(t, 2, parts{})
	end := map[string]func(sku string){
		"soldout": func(sku string) {
			for i := range 4 {
				if a := c.insist(1, sku, fmt.Sprintf("other-%d", i), "k", 20*time.Second); !a.yes() {
					t.Fatalf("%s: %+v", sku, a)
				}
			}
			if a := c.insist(1, sku, "too-late", "k", 20*time.Second); a.problem != "sold_out" {
				t.Fatalf("%s: %+v", sku, a)
			}
		},
		"paused": func(sku string) { c.operate("PATCH", "/v1/skus/"+sku, map[string]any{"state": "paused"}) },
		"closed": func(sku string) { c.operate("PATCH", "/v1/skus/"+sku, map[string]any{"state": "closed"}) },
		"over": func(sku string) {
			c.operate("PATCH", "/v1/skus/"+sku, map[string]any{"closes_at": "2020-01-01T00:00:00Z"})
		},
		"flushed": func(string) { c.redis.FlushAll(t) },
		"cold":    func(sku string) { c.operate("PATCH", "/v1/skus/"+sku, map[string]any{"heat": "cold"}) },
	}
	first := make(map[string]answer)
	for name := range end {
		c.putSKU(name, map[string]any{"total": 5, "per_user_limit": 1})
		a := c.insist(0, name, "buyer", "the-key", 20*time.Second)
		if a.code != 201 {
			t.Fatalf("%s: %+v", name, a)
		}
		first[name] = a
	}
	c.gates[0].Kill()
	for name, f := range end {
		f(name)
	}
	refusals := map[string]string{"soldout": "purchase_limit", "paused": "sale_paused", "closed": "sale_closed", "over": "sale_closed"}
	for name, want := range refusals {
		testenv.Eventually(t, func() bool {
			a := c.buy(c.gates[1], name, "buyer", "another-key")
			return a.problem == want
		}, "%s: a new key hears %s", name, want)
	}
	for name, a := range first {
		for range 3 {
			b := c.insist(1, name, "buyer", "the-key", 20*time.Second)
			if b.code != 200 || !b.replayed || b.orderID != a.orderID {
				t.Errorf("%s: repeat heard %+v, want 200 and order %s", name, b, a.orderID)
			}
		}
	}
}

// TestFrozenGateway stops a gateway in the middle of a transaction, which then holds
// its locks without end; the others sell on within five seconds.
func TestFrozenGateway(t *testing.T) {
	c := newCluster(t, 2, parts{maria: testenv.OwnMariaDB(t), env: []string{"FLASHGATE_FALLBACK__RATE=50000"}})
	// Claims of a cold SKU are decided under locks, over several round trips.
	c.putSKU("shoe", map[string]any{"total": 1_000_000, "heat": "cold", "per_user_limit": 2})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // joined by <-done below
		defer close(done)
		rush(1_000_000, 50, nil, func(i int) answer {
			select {
			case <-stop:
				return answer{code: 1}
			default:
				return c.buy(c.gates[0], "shoe", fmt.Sprintf("frozen-%d", i), "")
			}
		})
	}()
	held := false
	for range 400 {
		c.gates[0].Stop()
		// The server refreshes this table ten times a second at most, and what it was
		// still doing for the gateway is over by then: only a transaction that waits
		// for its client is what this test is about.
		<-time.After(150 * time.Millisecond)
		if held = c.query("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_locked > 0") > 0; held {
			break
		}
		c.gates[0].Cont()
		<-time.After(7 * time.Millisecond)
	}
	if !held {
		t.Fatal("the gateway was never caught inside a transaction")
	}
	began := time.Now()
	a := c.insist(1, "shoe", "the-other", "k", 10*time.Second)
	if took := time.Since(began); !a.yes() || took > 5*time.Second {
		t.Errorf("after %v: %+v", took, a)
	} else {
		t.Logf("the other gateway sold on after %v", took)
	}
	close(stop)
	c.gates[0].Cont()
	<-done
	testenv.Eventually(t, func() bool {
		return c.insist(0, "shoe", "thawed", "k", 5*time.Second).yes()
	}, "the thawed gateway sells")
	c.checkStock("shoe")
}

// TestGracefulDrain: SIGTERM turns ready off, gives every waiting buyer an answer, and
// ends the process without error.
func TestGracefulDrain(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_SERVER__DRAIN_DELAY=1s"}})
	c.putSKU("shoe", map[string]any{"total": 100_000})
	stopped := make(chan error, 1)
	go func() { // joined by <-stopped below
		<-time.After(300 * time.Millisecond)
		stopped <- c.gates[0].Terminate(20 * time.Second)
	}()
	began := time.Now()
	var sawDraining atomic.Bool
	answers := rush(20_000, 100, nil, func(i int) answer {
		if time.Since(began) > 800*time.Millisecond && !sawDraining.Load() && i%100 == 0 {
			if res, err := c.http.Get(c.gates[0].url + "/readyz"); err == nil {
				if res.StatusCode == http.StatusServiceUnavailable {
					sawDraining.Store(true)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		}
		if time.Since(began) > 3*time.Second {
			return answer{code: 1}
		}
		return c.buy(c.gates[0], "shoe", fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
	})
	if err := <-stopped; err != nil {
		t.Errorf("the gateway ended with %v", err)
	}
	if !sawDraining.Load() {
		t.Error("readyz never said 503 while draining")
	}
	// A buyer whose connection met the closed port has no answer; nobody who was
	// accepted may be without one.
	for _, a := range answers {
		if a.err != nil && !refusedConnection(a.err) {
			t.Errorf("%+v", a)
			break
		}
	}
	live := c.checkYes("shoe", answers)
	c.checkPublished("shoe", live, 10*time.Second)
}

// TestAsyncVerdicts: respond-async is answered 202 at once, and the verdict is found by
// any gateway afterwards.
func TestAsyncVerdicts(t *testing.T) {
	c := newCluster(t, 2, parts{})
	c.putSKU("shoe", map[string]any{"total": 5})
	type queued struct{ user, id string }
	var all []queued
	for i := range 20 {
		user := fmt.Sprintf("buyer-%d", i)
		req, _ := http.NewRequest("POST", c.gates[0].url+"/v1/skus/shoe/orders", nil)
		req.Header.Set("X-User-ID", user)
		req.Header.Set("Prefer", "respond-async")
		req.Header.Set("Idempotency-Key", "k")
		res, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		_ = json.NewDecoder(res.Body).Decode(&doc)
		_ = res.Body.Close()
		if res.StatusCode != 202 || doc["status"] != "queued" || res.Header.Get("Location") == "" || res.Header.Get("Preference-Applied") != "respond-async" {
			t.Fatalf("%d %v %v", res.StatusCode, doc, res.Header)
		}
		all = append(all, queued{user, doc["order_id"].(string)})
	}
	ends := make(map[string]int)
	for i, q := range all {
		testenv.Eventually(t, func() bool {
			req, _ := http.NewRequest("GET", c.gates[i%2].url+"/v1/orders/"+q.id, nil)
			req.Header.Set("X-User-ID", q.user)
			res, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var doc map[string]any
			_ = json.NewDecoder(res.Body).Decode(&doc)
			_ = res.Body.Close()
			if res.StatusCode != 200 || doc["status"] == "queued" {
				return false
			}
			ends[fmt.Sprint(doc["status"], " ", doc["reason"])]++
			return true
		}, "order %s has a verdict", q.id)
	}
	if ends["reserved <nil>"] != 5 || ends["rejected sold_out"] != 15 {
		t.Errorf("verdicts: %v", ends)
	}
}
