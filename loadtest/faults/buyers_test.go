package faults

import (
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"flashgate/internal/testenv"
)

// answer is what a buyer heard.
type answer struct {
	buyer    string
	key      string
	code     int    // 0 = no answer
	problem  string // the problem's code
	orderID  string
	status   string
	replayed bool
	err      error
}

func (a answer) yes() bool { return a.code == 201 || a.code == 200 }

// final is a yes or a business no: nothing that a repeat would change.
func (a answer) final() bool { return a.yes() || a.code == 409 || a.code == 422 }

// busy is an answer that says to come again. A machine with other things to do makes
// gateways give it, so that it is never what a test fails on.
func (a answer) busy() bool {
	return a.code == 202 || a.code == 503 || a.code == 429 || a.code == 408
}

// buy makes one purchase of one unit through a gateway.
func (c *cluster) buy(g *gate, sku, user, key string) answer {
	a := answer{buyer: user, key: key}
	req, _ := http.NewRequest("POST", g.url+"/v1/skus/"+sku+"/orders", strings.NewReader(`{"quantity":1}`))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-User-ID", user)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		a.err = err
		return a
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		a.err = err
		return a
	}
	var doc struct {
		Code    string `json:"code"`
		OrderID string `json:"order_id"`
		Status  any    `json:"status"` // a name of orders, a number of problems
		UserID  string `json:"user_id"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		a.err = fmt.Errorf("%d %q: %w", res.StatusCode, body, err)
		return a
	}
	a.code, a.problem, a.orderID, a.status = res.StatusCode, doc.Code, doc.OrderID, fmt.Sprint(doc.Status)
	a.replayed = res.Header.Get("Idempotent-Replayed") == "true"
	if a.yes() && doc.UserID != user {
		a.err = fmt.Errorf("the order of %q was given to %q", doc.UserID, user)
	}
	if (a.code == 429 || a.code == 503) && res.Header.Get("Retry-After") == "" {
		a.err = fmt.Errorf("%d %s without Retry-After", a.code, a.problem)
	}
	return a
}

// insist repeats a purchase under its key, each time through the next running gateway,
// until it hears yes or a business no. What it has heard after Patience is returned.
func (c *cluster) insist(first int, sku, user, key string) answer {
	return c.insistOn(c.running, first, sku, user, key)
}

// insistAt is insist through one gateway alone.
func (c *cluster) insistAt(g *gate, sku, user, key string) answer {
	return c.insistOn(func() []*gate { return []*gate{g} }, 0, sku, user, key)
}

func (c *cluster) insistOn(gates func() []*gate, first int, sku, user, key string) (a answer) {
	i := first
	testenv.Patiently(func() bool {
		now := gates()
		a = c.buy(now[i%len(now)], sku, user, key)
		i++
		return a.final()
	})
	return a
}

// rush has n buyers at most `together` at a time, each making one call of fn, and
// returns all answers. progress counts the answers while it runs.
func rush(n, together int, progress *atomic.Int64, fn func(i int) answer) []answer {
	out := make([]answer, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range together {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				out[i] = fn(i)
				if progress != nil {
					progress.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return out
}

// tally counts answers by what they said.
func tally(answers []answer) map[string]int {
	m := make(map[string]int)
	for _, a := range answers {
		switch {
		case a.err != nil:
			m["error"]++
		case a.problem != "":
			m[fmt.Sprintf("%d %s", a.code, a.problem)]++
		default:
			m[fmt.Sprintf("%d %s", a.code, a.status)]++
		}
	}
	return m
}

func base32Lower(id []byte) string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id))
}

// noErrors fails the test for answers that broke the protocol or never came.
func noErrors(t testing.TB, answers []answer) {
	t.Helper()
	bad := 0
	for _, a := range answers {
		if a.err != nil {
			if bad++; bad <= 5 {
				t.Errorf("buyer %s: %v", a.buyer, a.err)
			}
		}
	}
	if bad > 5 {
		t.Errorf("and %d more", bad-5)
	}
}

// refusedConnection reports errors of a client that met a closed port or a connection
// that was closed while it was idle: the request was never accepted.
func refusedConnection(err error) bool {
	s := err.Error()
	return strings.Contains(s, "connection refused") || strings.Contains(s, "EOF") || strings.Contains(s, "connection reset") ||
		strings.Contains(s, "server closed idle connection")
}
