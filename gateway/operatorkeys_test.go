package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"flashgate/sale"
)

func keyOf(name, scope, key string) string {
	sum := sha256.Sum256([]byte(key))
	return name + ":" + scope + ":" + hex.EncodeToString(sum[:])
}

// Each key has a name and a scope; what changes something needs the scope for it, whatever
// the path, and is entered under the name.
func TestOperatorKeys(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.OperatorKeys = []string{keyOf("alice", "operate", "the key of alice"), keyOf("grafana", "read", "the key of grafana")}
	})
	handler := w.g.operators.app.Server().Handler
	as := func(key string, c call) reply {
		c.header = append(c.header, "Authorization", "Bearer "+key)
		return c.do(t, handler)
	}
	for _, r := range w.g.operatorRoutes() {
		path := strings.NewReplacer(":sku", "phone", ":name", "redis", ":code", "malformed", ":profile", "heap").Replace(r.path)
		if r.open || strings.Contains(path, "profile") || strings.Contains(path, "trace") {
			continue
		}
		got := as("the key of grafana", call{method: r.method, path: path})
		if looks := r.method == "GET"; looks == (got.status == 403) || got.status == 401 {
			t.Errorf("%s %s with a key that may look: %d", r.method, path, got.status)
		}
		if got := as("the key of alice", call{method: r.method, path: path}); got.status == 401 || got.status == 403 {
			t.Errorf("%s %s with a key that may change: %d", r.method, path, got.status)
		}
		if got := as("no key", call{method: r.method, path: path}); got.status != 401 && got.status != 429 {
			t.Errorf("%s %s with no key: %d", r.method, path, got.status)
		}
	}
	r := as("the key of alice", call{method: "POST", path: "/v1/breakers/redis", body: `{"mode":"forced_open","scope":"gateway"}`, header: []string{"Flashgate-Reason", "a drill"}})
	if r.status != 200 || len(w.log.entries) != 1 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if e := w.log.entries[0]; e.By != "alice" || e.Why != "a drill" || e.Action != "breaker.set" || e.Target != "redis" {
		t.Errorf("entered %+v", e)
	}
	as("the key of alice", call{method: "POST", path: "/v1/breakers/redis", body: `{"mode":"auto"}`, header: []string{"Flashgate-Reason", strings.Repeat("x", 201)}}).check(t, 400, "malformed")
}

// Guesses are limited by address, and never keep out who has a key.
func TestGuessesAtOperatorsKeys(t *testing.T) {
	w := newWorld(t, nil)
	handler := w.g.operators.app.Server().Handler
	guess := func(from string) reply {
		return call{method: "GET", path: "/v1/skus", from: from, header: []string{"Authorization", "Bearer guess"}}.do(t, handler)
	}
	statuses := map[int]int{}
	for range 3 * guessesAtOnce {
		statuses[guess("10.1.1.1").status]++
	}
	if statuses[401] < guessesAtOnce || statuses[429] < guessesAtOnce {
		t.Errorf("%v", statuses)
	}
	guess("10.1.1.1").check(t, 429, "rate_limited")
	guess("10.1.1.2").check(t, 401, "unauthenticated")
	r := call{method: "GET", path: "/v1/skus", from: "10.1.1.1", header: []string{"Authorization", "Bearer " + testAdminKey}}.do(t, handler)
	if r.status != 200 {
		t.Errorf("who has the key hears %d", r.status)
	}
}

func TestOperatorKeysThatCannotBe(t *testing.T) {
	good := keyOf("alice", "operate", "k")
	for _, keys := range [][]string{
		{"alice"}, {"alice:operate"}, {"alice:write:" + strings.Repeat("0", 64)}, {"alice:operate:" + strings.Repeat("0", 63)},
		{"alice:operate:" + strings.Repeat("0", 65)}, {"alice:operate:" + strings.Repeat("g", 64)}, {"a b:operate:" + strings.Repeat("0", 64)},
		{":operate:" + strings.Repeat("0", 64)}, {good, good}, {good, keyOf("alice", "read", "other")}, {good, keyOf("bob", "read", "k")}, {keyOf("admin", "read", "x")},
	} {
		if _, err := newOperatorKeys("master", keys); err == nil {
			t.Errorf("%q was taken", keys)
		}
	}
}

func TestListLog(t *testing.T) {
	w := newWorld(t, nil)
	for i := range 5 {
		w.log.entries = append(w.log.entries, sale.LogEntry{
			ID: int64(i + 1), At: testNow, By: "alice", Action: "sku.patch", Target: []string{"phone", "shoe"}[i%2],
			Before: `{"total":1}`, After: fmt.Sprintf(`{"total":%d}`, i), Why: `more "units"`,
		})
	}
	r := w.operator(t, call{method: "GET", path: "/v1/audit-log?limit=2"})
	want := `{"entries":[{"id":5,"at":"` + sale.FormatTime(testNow) + `","by":"alice","action":"sku.patch","target":"phone","was":{"total":1},"became":{"total":4},"why":"more \"units\""},`
	if r.status != 200 || !strings.HasPrefix(r.body, want) || r.json["before"] != float64(4) {
		t.Errorf("%d %s", r.status, r.body)
	}
	r = w.operator(t, call{method: "GET", path: "/v1/audit-log?target=shoe&before=4"})
	if entries, _ := r.json["entries"].([]any); len(entries) != 1 || r.json["before"] != nil {
		t.Errorf("%d %s", r.status, r.body)
	}
	for _, query := range []string{"limit=0", "limit=1001", "before=0", "before=x", "target=a%20b"} {
		w.operator(t, call{method: "GET", path: "/v1/audit-log?" + query}).check(t, 422, "invalid_request")
	}
	w.log.err = sale.ErrUnavailable
	w.operator(t, call{method: "GET", path: "/v1/audit-log"}).check(t, 503, "unavailable")
}
