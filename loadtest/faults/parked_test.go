package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
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
func (c *cluster) awaitBreaker(name, state string) {
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
// queued answer has its verdict, or one of the codes that end it too, and counts them.
func (c *cluster) verdicts(answers []answer, final ...int) map[string]int {
	c.t.Helper()
	var mu sync.Mutex
	ends := make(map[string]int)
	gates := c.running()
	rush(len(answers), 100, nil, func(i int) answer {
		a := answers[i]
		if a.code != 202 {
			return a
		}
		var code int
		var status, reason string
		n := i
		testenv.Patiently(func() bool {
			n++
			code, status, reason = c.order(gates[n%len(gates)], a.buyer, a.orderID)
			return code == 200 && status != "queued" || slices.Contains(final, code)
		})
		mu.Lock()
		defer mu.Unlock()
		ends[fmt.Sprintf("%d %s %s", code, status, reason)]++
		return a
	})
	return ends
}

// warm sells a few, so that every gateway's shield is loaded and used.
func (c *cluster) warm(sku string, n int) []answer {
	c.t.Helper()
	answers := rush(n, 3, nil, func(i int) answer {
		return c.insist(i, sku, fmt.Sprintf("early-%d", i), "k")
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
	c.awaitBreaker("ledger", "open")
}

// queue has n buyers buy while the ledger is away, and counts them in progress where
// it is given; each must be queued. Who is told to come again repeats with the same key.
func (c *cluster) queue(sku string, n int, progress *atomic.Int64) []answer {
	c.t.Helper()
	gates := c.running()
	var again atomic.Int64
	queued := rush(n, 200, progress, func(i int) (a answer) {
		at := i
		testenv.Patiently(func() bool {
			a = c.buy(gates[at%len(gates)], sku, fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
			at++
			if a.code == 202 || !a.busy() {
				return true
			}
			again.Add(1)
			return false
		})
		return a
	})
	c.t.Logf("%d buyers were told to come again %d times while the ledger was away", n, again.Load())
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
		return c.follow(i, sku, fmt.Sprintf("late-%d", i), fmt.Sprintf("key-%d", i))
	})
}

// lastUnits sells what is given back late, as what was tentative is: within 15 seconds.
func (c *cluster) lastUnits(sku string, total int64) (answers []answer) {
	c.t.Helper()
	testenv.Within(c.t, 15*time.Second, func() bool {
		n, gates := len(answers), c.running()
		answers = append(answers, c.buy(gates[n%len(gates)], sku, fmt.Sprintf("last-%d", n), "k"))
		return c.query("SELECT SUM(sold) FROM stock WHERE sku = ?", sku) == total
	}, "%s is sold to the last unit", sku)
	return answers
}

// checkQueued checks that the queued became orders, that the sale sold its stock to
// the last unit, and that everything was published.
func (c *cluster) checkQueued(sku string, total int64, queued, others []answer) {
	c.t.Helper()
	noErrors(c.t, others)
	others = append(others, c.lastUnits(sku, total)...)
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
	c.checkPublished(sku, live)
}

// follow is a buyer who insists until there is an answer and, when it is 202, asks for
// the verdict.
func (c *cluster) follow(first int, sku, user, key string) (a answer) {
	i := first
	testenv.Patiently(func() bool {
		gates := c.running()
		if a.code == 202 {
			code, status, reason := c.order(gates[i%len(gates)], user, a.orderID)
			switch {
			case code == 200 && status == "queued" || code == 503 || code == 0:
				return false
			case code == 200 && status == "rejected":
				a.code, a.status, a.problem = 409, status, reason
			case code == 200:
				a.code, a.status = 200, status
			default: // 404: nothing is known of it, repeat
				a.code = 0
			}
		} else {
			a = c.buy(gates[i%len(gates)], sku, user, key)
		}
		i++
		return a.final()
	})
	return a
}

// holdStock locks the stock of every SKU until the function that it returns is called:
// nobody's transaction gets past it.
func (c *cluster) holdStock() (release func()) {
	c.t.Helper()
	tx, err := c.db.Begin()
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := tx.Exec("SELECT * FROM stock FOR UPDATE"); err != nil {
		c.t.Fatal(err)
	}
	return func() { _ = tx.Rollback() }
}

// transactions counts those of the server of which the condition is true. The server
// looks anew only when it has not been asked for a tenth of a second.
func (c *cluster) transactions(condition string) int64 {
	c.t.Helper()
	<-time.After(150 * time.Millisecond)
	return c.query("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE " + condition)
}

// someoneWaits waits until a transaction stands before a lock.
func (c *cluster) someoneWaits() {
	c.t.Helper()
	testenv.Eventually(c.t, func() bool { return c.transactions("trx_state = 'LOCK WAIT'") > 0 }, "a transaction waits for the stock")
}

// amidDrain lets the drain go on for a transaction or a few, holds it up again, and
// returns the gateway that drains. Who waits for a row does so for a second, and then
// looks from time to time whether it is free: if nobody waits, the drain goes on once more.
func (c *cluster) amidDrain(hold func()) (drainer *gate, again func()) {
	c.t.Helper()
	c.someoneWaits()
	hold()
	again = c.holdStock()
	testenv.Eventually(c.t, func() bool {
		for range 10 {
			if c.transactions("trx_state = 'LOCK WAIT'") > 0 {
				return true
			}
		}
		again()
		again = c.holdStock()
		return false
	}, "the drain waits for the stock")
	return c.leader("drain"), again
}
