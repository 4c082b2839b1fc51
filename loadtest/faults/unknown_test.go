package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"syscall"
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
		c.putSKU(sku, map[string]any{"total": 1000, "heat": way, "per_user_limit": 3})
		if way == "hot" {
			// The first orders load the shield, so that the next one goes through it.
			c.warm(sku, 3)
		}
		for name, trap := range map[string]func(first, pattern string) <-chan struct{}{
			"after": front.SwallowReplyAfter, "before": front.CutAfter,
		} {
			t.Run(way+", lost "+name+" the commit", func(t *testing.T) {
				// The COMMIT that is cut is the one of the connection that has written
				// this buyer's order.
				user := way + "-lost-" + name
				sprung := trap(user, "COMMIT")
				defer front.Disarm()
				a := c.insist(0, sku, user, "the-key")
				if !a.yes() {
					t.Errorf("%+v", a)
				}
				testenv.Eventually(t, func() bool {
					select {
					case <-sprung:
						return true
					default:
						return false
					}
				}, "a COMMIT is cut")
				if n := c.query("SELECT COUNT(*) FROM orders WHERE sku = ? AND user_id = ?", sku, user); n != 1 {
					t.Errorf("%d order rows", n)
				}
				if b := c.insist(0, sku, user, "the-key"); b.code != 200 || !b.replayed || b.orderID != a.orderID {
					t.Errorf("repeat: %+v", b)
				}
			})
		}
		c.checkStock(sku)
	}
}

// TestRepeatAfterItsGatewayDied: the order stands; whatever became of the sale
// meanwhile, the repeat is answered with it, by a gateway that never saw it.
func TestRepeatAfterItsGatewayDied(t *testing.T) {
	c := newCluster(t, 2, parts{})
	patch := func(field string, value any) func(sku string) {
		return func(sku string) {
			if code, doc := c.operate("PATCH", "/v1/skus/"+sku, map[string]any{field: value}); code != 200 {
				t.Fatalf("%s: %d %v", sku, code, doc)
			}
		}
	}
	end := map[string]func(sku string){
		"soldout": func(sku string) {
			for i := range 4 {
				if a := c.insist(1, sku, fmt.Sprintf("other-%d", i), "k"); !a.yes() {
					t.Fatalf("%s: %+v", sku, a)
				}
			}
			if a := c.insist(1, sku, "too-late", "k"); a.problem != "sold_out" {
				t.Fatalf("%s: %+v", sku, a)
			}
		},
		"paused":  patch("state", "paused"),
		"closed":  patch("state", "closed"),
		"over":    patch("closes_at", "2020-01-01T00:00:00Z"),
		"flushed": func(string) { c.redis.FlushAll(t) },
		"cold":    patch("heat", "cold"),
	}
	first := make(map[string]answer)
	for name := range end {
		c.putSKU(name, map[string]any{"total": 5, "per_user_limit": 1})
		a := c.insist(0, name, "buyer", "the-key")
		if !a.yes() {
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
			b := c.insist(1, name, "buyer", "the-key")
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
	testenv.Eventually(t, func() bool { return c.frozenInTransaction() }, "the gateway is caught inside a transaction")
	testenv.Within(t, 5*time.Second, func() bool {
		a := c.buy(c.gates[1], "shoe", "the-other", "k")
		if a.final() && !a.yes() {
			t.Fatalf("%+v", a)
		}
		return a.yes()
	}, "the other gateway sells on")
	close(stop)
	c.gates[0].Cont()
	<-done
	if a := c.insistAt(c.gates[0], "shoe", "thawed", "k"); !a.yes() {
		t.Errorf("the thawed gateway: %+v", a)
	}
	c.checkStock("shoe")
}

// frozenInTransaction stops the first gateway while its transaction waits for the stock,
// lets that have it, and reports whether a transaction is left that has locks and waits
// for its client. One that was about to commit is not; then the gateway goes on.
func (c *cluster) frozenInTransaction() bool {
	c.t.Helper()
	hold := c.holdStock()
	c.someoneWaits()
	c.gates[0].Stop()
	hold()
	// The server ends an idle transaction after three seconds.
	for range 5 {
		if c.transactions("trx_rows_locked > 0 AND trx_query IS NULL") > 0 {
			return true
		}
	}
	c.gates[0].Cont()
	return false
}

// TestGracefulDrain: SIGTERM turns ready off, gives every waiting buyer an answer, and
// ends the process without error.
func TestGracefulDrain(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_SERVER__DRAIN_DELAY=5s"}})
	c.putSKU("shoe", map[string]any{"total": 1_000_000})
	var progress atomic.Int64
	var draining, closed atomic.Bool
	stopped := make(chan error, 1)
	go func() { // joined by <-stopped below
		testenv.Eventually(t, func() bool { return progress.Load() > 500 }, "some have bought")
		c.gates[0].Signal(syscall.SIGTERM)
		testenv.Eventually(t, func() bool { return !c.gates[0].Running() || c.drains(c.gates[0], &draining) }, "the gateway drains")
		stopped <- c.gates[0].Wait()
	}()
	answers := rush(1_000_000, 50, &progress, func(i int) answer {
		if closed.Load() {
			return answer{code: 1}
		}
		if draining.Load() {
			<-time.After(10 * time.Millisecond) // they go on, but need not fill the stream
		}
		a := c.buy(c.gates[0], "shoe", fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
		if a.err != nil {
			closed.Store(true)
		}
		return a
	})
	if err := <-stopped; err != nil {
		t.Errorf("the gateway ended with %v", err)
	}
	if !draining.Load() {
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
	c.checkPublished("shoe", live)
}

// drains notes that a gateway says itself that it is not ready.
func (c *cluster) drains(g *gate, draining *atomic.Bool) bool {
	res, err := c.http.Get(g.url + "/readyz")
	if err != nil {
		return false
	}
	defer drain(res)
	draining.Store(res.StatusCode == http.StatusServiceUnavailable)
	return draining.Load()
}

// TestAsyncVerdicts: respond-async is answered 202 at once, and the verdict is found by
// any gateway afterwards.
func TestAsyncVerdicts(t *testing.T) {
	c := newCluster(t, 2, parts{})
	c.putSKU("shoe", map[string]any{"total": 5})
	ids := make([]string, 20)
	for i := range ids {
		ids[i] = c.buyAsync(i)
	}
	ends := make(map[string]int)
	for i, id := range ids {
		var status, reason string
		testenv.Eventually(t, func() bool {
			var code int
			code, status, reason = c.order(c.gates[i%2], fmt.Sprintf("buyer-%d", i), id)
			if code == 404 || reason == "timeout" {
				c.buyAsync(i) // what was not decided in time is to be repeated
				return false
			}
			return code == 200 && status != "queued"
		}, "order %s has a verdict", id)
		ends[status+" "+reason]++
	}
	if ends["reserved "] != 5 || ends["rejected sold_out"] != 15 {
		t.Errorf("verdicts: %v", ends)
	}
}

// buyAsync has a buyer ask without waiting, and returns the order's id.
func (c *cluster) buyAsync(i int) (id string) {
	c.t.Helper()
	testenv.Eventually(c.t, func() bool {
		req, _ := http.NewRequest("POST", c.gates[0].url+"/v1/skus/shoe/orders", nil)
		req.Header.Set("X-User-ID", fmt.Sprintf("buyer-%d", i))
		req.Header.Set("Prefer", "respond-async")
		req.Header.Set("Idempotency-Key", "k")
		res, err := c.http.Do(req)
		if err != nil {
			c.t.Fatal(err)
		}
		defer drain(res)
		var doc struct {
			OrderID string `json:"order_id"`
			Status  any    `json:"status"`
		}
		_ = json.NewDecoder(res.Body).Decode(&doc)
		if res.StatusCode == 503 {
			return false
		}
		if id = doc.OrderID; res.StatusCode == 200 {
			return true // a repeat, which is known meanwhile
		}
		if res.StatusCode != 202 || doc.Status != "queued" || res.Header.Get("Location") == "" || res.Header.Get("Preference-Applied") != "respond-async" {
			c.t.Fatalf("%d %v %v", res.StatusCode, doc, res.Header)
		}
		return true
	}, "buyer %d is queued", i)
	return id
}
