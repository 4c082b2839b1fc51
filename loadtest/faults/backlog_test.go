package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
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
		testenv.Eventually(c.t, limit, func() bool {
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
	testenv.Eventually(c.t, 10*time.Second, func() bool {
		_, doc := c.operate("GET", "/v1/skus/"+sku, nil)
		return doc["shield_left"] != nil
	}, "the shield of %s is loaded", sku)
	return answers
}

// TestLedgerAwayQueuesBuyers: while the ledger is away, buyers whom the shield admits
// are answered 202; it comes back, and each has the verdict that the ledger gave.
func TestLedgerAwayQueuesBuyers(t *testing.T) {
	c := newCluster(t, 3, parts{maria: testenv.OwnMariaDB(t)})
	const total, early, while = 2000, 30, 1500
	c.putSKU("shoe", map[string]any{"total": total, "heat": "hot", "per_user_limit": 2})
	c.putSKU("cold", map[string]any{"total": 10, "heat": "cold"})
	all := c.warm("shoe", early)

	c.maria.Kill()
	killed := time.Now()
	c.awaitBreaker("ledger", "open", 15*time.Second)
	queued := rush(while, 200, nil, func(i int) answer {
		return c.buy(c.gates[i%3], "shoe", fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
	})
	noErrors(t, queued)
	if got := tally(queued); got["202 queued"] != while {
		t.Errorf("answers while the ledger was away: %v", got)
	}
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
	testenv.Eventually(t, 5*time.Second, func() bool { return c.metric("flashgate_backlog_drained_total") > before }, "the drain begins")
	t.Logf("the drain began within %v", time.Since(back))

	// Others buy on while the backlog is drained, until nothing is left.
	var late []answer
	var others sync.WaitGroup
	others.Go(func() {
		late = rush(1000, 100, nil, func(i int) answer {
			return c.insist(i, "shoe", fmt.Sprintf("late-%d", i), fmt.Sprintf("key-%d", i), 40*time.Second)
		})
	})
	ends := c.verdicts(queued, 30*time.Second)
	if ends["200 reserved "] != while {
		t.Errorf("verdicts of the queued: %v", ends)
	}
	others.Wait()
	noErrors(t, late)
	t.Logf("answers afterwards: %v", tally(late))
	for i := range late {
		if late[i].code == 202 {
			late[i].code = 0 // its verdict is asked for below
			late = append(late, answer{buyer: late[i].buyer, key: late[i].key, code: 202, orderID: late[i].orderID})
		}
	}
	t.Logf("verdicts of those queued afterwards: %v", c.verdicts(late, 30*time.Second))
	for _, a := range append(queued, all...) {
		b := c.insist(1, "shoe", a.buyer, a.key, 10*time.Second)
		if b.code != 200 || !b.replayed || b.orderID != a.orderID {
			t.Errorf("a repeat afterwards: %+v of %+v", b, a)
			break
		}
	}
	live := c.checkYes("shoe", append(all, late...))
	for _, a := range queued {
		if !live[a.orderID] {
			t.Errorf("%s of %s is not in the ledger", a.orderID, a.buyer)
			break
		}
	}
	c.checkSoldOut("shoe", total)
	c.checkPublished("shoe", live, 30*time.Second)
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
	answers := rush(9000, 400, nil, func(i int) answer {
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
				<-time.After(500 * time.Millisecond)
			}
		}
		if a.yes() || a.code == 409 || a.code == 422 || time.Now().After(deadline) {
			return a
		}
		<-time.After(500 * time.Millisecond)
	}
}
