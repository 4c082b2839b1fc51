package faults

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flashgate/internal/testenv"
)

// webhook sends the payment provider's signed report that an order of one unit was paid.
func (c *cluster) webhook(g *gate, event, order string) (int, map[string]any) {
	c.t.Helper()
	body := fmt.Sprintf(`{"event_id":%q,"order_id":%q,"amount":4999,"currency":"EUR","status":"succeeded"}`, event, order)
	return c.call(func() *http.Request {
		at := fmt.Sprint(time.Now().Unix())
		mac := hmac.New(sha256.New, []byte(paymentSecret))
		mac.Write([]byte(at + "." + body))
		req, _ := http.NewRequest("POST", g.url+"/v1/payments", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Flashgate-Signature", "t="+at+",v1="+hex.EncodeToString(mac.Sum(nil)))
		return req
	})
}

// delete is the buyer's DELETE of an order.
func (c *cluster) delete(g *gate, a answer) (int, map[string]any) {
	c.t.Helper()
	return c.call(func() *http.Request {
		req, _ := http.NewRequest("DELETE", g.url+"/v1/orders/"+a.orderID, nil)
		req.Header.Set("X-User-ID", a.buyer)
		return req
	})
}

// timeIsUp has the time to pay for a SKU's orders end now. A short pay_within would end
// it at a moment of its own, before or after what a test means to do first.
func (c *cluster) timeIsUp(sku string) {
	c.t.Helper()
	tx, err := c.db.Begin()
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	// One time for both: the due list names the orders' own.
	now := fmt.Sprint(c.query("SELECT FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000)"))
	for _, q := range []string{
		"UPDATE orders SET pay_by = " + now + " WHERE sku = '" + sku + "' AND status = 'reserved'",
		// A row of the list names orders of all SKUs that one commit made; tests that
		// use this have one SKU.
		"UPDATE due SET pay_by = " + now,
	} {
		if _, err := tx.Exec(q); err != nil {
			c.t.Fatalf("%s: %v", q, err)
		}
	}
	if err := tx.Commit(); err != nil {
		c.t.Fatal(err)
	}
}

// soldOut has every gateway refuse keyless buyers from then on, so that it remembers.
func (c *cluster) soldOut(sku string) {
	c.t.Helper()
	for _, g := range c.running() {
		for i := range 20 {
			testenv.Eventually(c.t, func() bool {
				a := c.buy(g, sku, fmt.Sprintf("loser-%d", i), "")
				if a.final() && a.problem != "sold_out" {
					c.t.Fatalf("%s: %+v", g.Name, a)
				}
				return a.final()
			}, "%s refuses a buyer of %s", g.Name, sku)
		}
	}
}

// sells has new buyers without a key ask a gateway until one of them has a unit.
func (c *cluster) sells(g *gate, sku, prefix string) func() bool {
	n := 0
	return func() bool {
		n++
		return c.buy(g, sku, fmt.Sprintf("%s-%d", prefix, n), "").yes() ||
			// The answer may have been lost, or late.
			c.query("SELECT COUNT(*) FROM orders WHERE sku = ? AND user_id LIKE ?", sku, prefix+"-%") > 0
	}
}

// TestGivenBackUnitsAreSoldAgain: what a buyer cancels, or does not pay, is on sale
// again within a second on every gateway, those that remember "sold out" included.
func TestGivenBackUnitsAreSoldAgain(t *testing.T) {
	c := newCluster(t, 2, parts{})
	c.putSKU("shoe", map[string]any{"total": 2, "per_user_limit": 1})
	first, second := c.insist(0, "shoe", "anna", "k"), c.insist(1, "shoe", "berta", "k")
	if !first.yes() || !second.yes() {
		t.Fatalf("%+v %+v", first, second)
	}
	c.soldOut("shoe")
	c.cancel(c.gates[0], first)
	testenv.Within(t, time.Second, c.sells(c.gates[1], "shoe", "clara"), "the cancelled unit is on sale on the other gateway")
	// The limit counts live orders: who holds one may not buy again, who cancelled may.
	if a := c.insistAt(c.gates[1], "shoe", "berta", "another"); a.problem != "purchase_limit" {
		t.Errorf("%+v", a)
	}
	c.soldOut("shoe")
	c.cancel(c.gates[1], second)
	testenv.Within(t, time.Second, func() bool {
		return c.buy(c.gates[0], "shoe", "anna", "once-more").yes()
	}, "the other way round")
	c.soldOut("shoe")
	// Nobody pays: both units come back, at most three seconds late.
	c.timeIsUp("shoe")
	dora, emma := c.sells(c.gates[0], "shoe", "dora"), c.sells(c.gates[1], "shoe", "emma")
	var haveDora, haveEmma bool
	testenv.Within(t, 3*time.Second+time.Second, func() bool {
		haveDora, haveEmma = haveDora || dora(), haveEmma || emma()
		return haveDora && haveEmma
	}, "expired units are on sale on both gateways")
	if n := c.query("SELECT COUNT(*) FROM orders WHERE sku = 'shoe' AND status = 'expired'"); n != 2 {
		t.Errorf("%d orders expired", n)
	}
	c.checkStock("shoe")
}

// TestOneOfPaidAndCancelledWins races the provider's webhook and the buyer's DELETE
// through different gateways: each order ends as exactly one of the two, and the stock
// says so.
func TestOneOfPaidAndCancelledWins(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_PAYMENTS__WEBHOOK_SECRETS=an-older-secret-of-some-length," + paymentSecret}})
	c.putSKU("shoe", map[string]any{"total": 100})
	const n = 60
	orders := rush(n, 10, nil, func(i int) answer {
		return c.insist(i, "shoe", fmt.Sprintf("buyer-%d", i), "k")
	})
	noErrors(t, orders)
	var wg sync.WaitGroup
	for i, o := range orders {
		wg.Go(func() {
			code, doc := c.webhook(c.gates[i%2], fmt.Sprintf("event-%d", i), o.orderID)
			if code != 200 {
				t.Errorf("pay: %d %v", code, doc)
			}
		})
		wg.Go(func() {
			code, doc := c.delete(c.gates[(i+1)%2], o)
			if code != 200 && doc["code"] != "already_paid" {
				t.Errorf("cancel: %d %v", code, doc)
			}
		})
	}
	wg.Wait()
	// A payment after the cancellation takes the unit again, so every order is paid now,
	// or was paid first; none is both, and every unit is bound to a live order.
	paid := c.query("SELECT COUNT(*) FROM orders WHERE sku = 'shoe' AND status = 'paid'")
	cancelled := c.query("SELECT COUNT(*) FROM orders WHERE sku = 'shoe' AND status = 'cancelled'")
	if paid+cancelled != n || paid != n {
		t.Errorf("%d paid and %d cancelled of %d", paid, cancelled, n)
	}
	if sold := c.query("SELECT SUM(sold) FROM stock WHERE sku = 'shoe'"); sold != paid {
		t.Errorf("%d units sold for %d paid orders", sold, paid)
	}
	if code, _ := c.operate("GET", "/v1/audit", nil); code != 200 {
		t.Errorf("audit: %d", code)
	}
}

// TestConsumerCrashes: coupons and the inventory service hear of orders by messages. The
// consumer here dies between receiving and acknowledging half of the time, and NATS
// itself is killed in between; by the order's id every coupon is still redeemed, and
// every paid order deducted, exactly once.
func TestConsumerCrashes(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_PAYMENTS__WEBHOOK_SECRETS=" + paymentSecret}})
	c.putSKU("shoe", map[string]any{"total": 1000})
	const n = 80
	orders := rush(n/2, 10, nil, func(i int) answer { return c.buyWithCoupon(i) })
	c.nats.Kill()
	orders = append(orders, rush(n/2, 10, nil, func(i int) answer { return c.buyWithCoupon(n/2 + i) })...)
	noErrors(t, orders)
	for i, o := range orders {
		if !o.yes() {
			t.Fatalf("%+v", o)
		}
		c.pay(c.gates[i%2], fmt.Sprintf("event-%d", i), o.orderID)
	}
	c.nats.Restart(t)

	nc, err := nats.Connect(c.nats.URL, nats.Timeout(testenv.Patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"flashgate.coupons.redeem", "flashgate.inventory.deduct"} {
		done := consumeCrashing(t, js, subject, n)
		for _, o := range orders {
			if done[o.orderID] != 1 {
				t.Errorf("%s: order %s took effect %d times", subject, o.orderID, done[o.orderID])
			}
		}
	}
}

func (c *cluster) buyWithCoupon(i int) answer {
	user := fmt.Sprintf("buyer-%d", i)
	code, doc := c.call(func() *http.Request {
		req, _ := http.NewRequest("POST", c.gates[i%2].url+"/v1/skus/shoe/orders", strings.NewReader(fmt.Sprintf(`{"coupon":"SAVE-%d"}`, i)))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-User-ID", user)
		req.Header.Set("Idempotency-Key", "k")
		return req
	})
	id, _ := doc["order_id"].(string)
	return answer{buyer: user, code: code, orderID: id, status: fmt.Sprint(doc["status"])}
}

// consumeCrashing works a durable consumer that dies after every second message it
// receives, before it acknowledges, until n orders have taken effect. Effects are
// idempotent by event id, as every consumer's have to be.
func consumeCrashing(t *testing.T, js jetstream.JetStream, subject string, n int) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*testenv.Patience)
	defer cancel()
	cons, err := js.CreateConsumer(ctx, "FLASHGATE", jetstream.ConsumerConfig{
		Durable: "crashing", FilterSubject: subject, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 300 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = js.DeleteConsumer(ctx, "FLASHGATE", "crashing") }()
	seen := make(map[string]bool)
	effects := make(map[string]int)
	for received := 1; len(effects) < n; received++ {
		msg, err := cons.Next(jetstream.FetchMaxWait(testenv.Patience))
		if err != nil {
			t.Fatalf("%s: after %d orders: %v", subject, len(effects), err)
		}
		var events []struct {
			ID   string `json:"id"`
			Data struct {
				OrderID string `json:"order_id"`
			} `json:"data"`
		}
		if err := json.Unmarshal(msg.Data(), &events); err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if !seen[e.ID] {
				seen[e.ID] = true
				effects[e.Data.OrderID]++
			}
		}
		if received%2 == 0 {
			continue // dies here: the message comes again
		}
		if err := msg.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	return effects
}

// TestFrozenLeader stops the gateway that holds the lease of the expiry until another
// has done its work, and wakes it: nothing is given back a second time.
func TestFrozenLeader(t *testing.T) {
	c := newCluster(t, 2, parts{})
	c.putSKU("shoe", map[string]any{"total": 300, "per_user_limit": 1})
	orders := rush(300, 20, nil, func(i int) answer {
		return c.insist(i, "shoe", fmt.Sprintf("buyer-%d", i), "k")
	})
	noErrors(t, orders)
	leader := c.leader("expire")
	leader.Stop()
	c.timeIsUp("shoe")
	testenv.Eventually(t, func() bool {
		return c.query("SELECT COUNT(*) FROM orders WHERE status = 'expired'") == 300
	}, "the other gateway expires what the frozen one does not")
	if c.leader("expire") == leader {
		t.Error("the lease is still the frozen gateway's")
	}
	leader.Cont()
	// It may say sold out for a moment: what was given back meanwhile was another's doing.
	testenv.Eventually(t, func() bool { return c.insistAt(leader, "shoe", "thawed", "k").yes() }, "the thawed gateway sells what was given back")
	for name, n := range map[string]int64{
		"orders that changed once":   c.query("SELECT COUNT(*) FROM orders WHERE status = 'expired' AND version = 2"),
		"units given back in all":    c.query("SELECT SUM(delta) FROM stock_moves WHERE sku = 'shoe' AND reason <> 'operator'"),
		"units free, the thawed one": c.query("SELECT SUM(total - sold) FROM stock WHERE sku = 'shoe'") + 1,
	} {
		if n != 300 {
			t.Errorf("%s: %d, want 300", name, n)
		}
	}
	c.checkStock("shoe")
}

// leader is the running gateway that holds a job's lease.
func (c *cluster) leader(job string) (leader *gate) {
	c.t.Helper()
	testenv.Eventually(c.t, func() bool {
		var holder string
		if c.db.QueryRow("SELECT holder FROM job_leases WHERE name = ? AND expires_at > 0", job).Scan(&holder) != nil {
			return false
		}
		for _, g := range c.running() {
			if strings.HasSuffix(holder, fmt.Sprintf("/%d", g.Pid())) {
				leader = g
			}
		}
		return leader != nil
	}, "a gateway holds the lease of %s", job)
	return leader
}
