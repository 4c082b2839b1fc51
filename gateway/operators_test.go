package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

func TestOperatorsKey(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Gatherer = prometheus.NewRegistry() })
	handler := w.g.operators.app.Server().Handler
	for _, r := range w.g.operatorRoutes() {
		path := strings.NewReplacer(":sku", "phone", ":name", "redis", ":code", "sold_out", ":profile", "heap").Replace(r.path)
		for _, header := range [][]string{nil, {"Authorization", "Bearer wrong"}, {"Authorization", testAdminKey}, {"Authorization", "Bearer "}} {
			got := call{method: r.method, path: path, header: header}.do(t, handler)
			if (got.status == 401) == (path == "/livez" || path == "/readyz") {
				t.Errorf("%s %s with %v: %d", r.method, path, header, got.status)
			}
		}
	}
	open := newWorld(t, func(c *Config) { c.Gatherer, c.OpenMetrics = prometheus.NewRegistry(), true })
	if got := (call{method: "GET", path: "/metrics"}).do(t, open.g.operators.app.Server().Handler); got.status != 200 {
		t.Errorf("open metrics: %d", got.status)
	}
}

func TestPutSKU(t *testing.T) {
	w := newWorld(t, nil)
	put := func(sku, body string) reply {
		return w.operator(t, call{method: "PUT", path: "/v1/skus/" + sku, body: body})
	}
	r := put("tv", `{"total":50,"reserved":5,"title":"A \"TV\"","unit_price":99900,"currency":"EUR","per_user_limit":2,
		"opens_at":"2030-01-01T10:00:00Z","closes_at":"2030-01-02T10:00:00+02:00","pay_within":"10m","state":"paused","heat":"hot","segments":4}`)
	if r.status != 201 || r.header("Location") != "/v1/skus/tv" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for name, want := range map[string]any{
		"sku": "tv", "total": 50.0, "reserved": 5.0, "sold": 0.0, "available": 45.0, "title": `A "TV"`, "unit_price": 99900.0, "currency": "EUR",
		"per_user_limit": 2.0, "opens_at": "2030-01-01T10:00:00.000Z", "closes_at": "2030-01-02T08:00:00.000Z", "pay_within": "10m0s",
		"state": "paused", "heat": "hot", "segments": 4.0, "shield_left": 7.0, "queue_depth": 0.0, "path": "shield",
	} {
		if r.json[name] != want {
			t.Errorf("%s is %v, want %v", name, r.json[name], want)
		}
	}
	r = put("tv", `{"total":60}`)
	if r.status != 200 || r.json["state"] != "open" || r.json["title"] != "" || r.json["opens_at"] != nil || r.json["currency"] != noCurrency || r.json["pay_within"] != "15m0s" {
		t.Errorf("replaced: %d %s", r.status, r.body)
	}
	r = put("phone", `{"total":39}`)
	r.check(t, 409, "stock_below_sold")
	if r.json["max_reduction"] != 50.0 {
		t.Errorf("max_reduction is %v", r.json["max_reduction"])
	}
	for body, status := range map[string]int{
		`{}`: 422, `{"total":-1}`: 422, `{"total":1,"reserved":2}`: 422, `{"total":1,"unit_price":5}`: 422, `{"total":1,"unit_price":5,"currency":"eur"}`: 422,
		`{"total":1,"state":"shut"}`: 422, `{"total":1,"heat":"warm"}`: 422, `{"total":1,"pay_within":"soon"}`: 422, `{"total":1,"opens_at":"today"}`: 422,
		`{"total":1,"opens_at":5}`: 422, `{"total":1,"segments":0}`: 422, `{"total":1,"colour":"red"}`: 422, `{"total":1,"sku":"radio"}`: 422, `{"total":"1"}`: 422,
		`{"total":1`: 400, `{"total":1}{}`: 400, `{"total":1,"total":2}`: 400, `{"total":1,"sku":"tv"}`: 200,
		`{"total":1,"opens_at":"2030-01-02T00:00:00Z","closes_at":"2030-01-01T00:00:00Z"}`: 422,
	} {
		if r := put("tv", body); r.status != status {
			t.Errorf("%s: %d %s, want %d", body, r.status, r.body, status)
		}
	}
	put("a.b", `{"total":1}`).check(t, 422, "invalid_request")
	w.operator(t, call{method: "PUT", path: "/v1/skus/tv", body: "x", header: []string{"Content-Type", "text/plain"}}).check(t, 415, "unsupported_media_type")
	w.ledger.err = sale.ErrUnavailable
	put("tv", `{"total":1}`).check(t, 503, "unavailable")
}

func TestPatchSKU(t *testing.T) {
	w := newWorld(t, nil)
	patch := func(sku, body string) reply {
		return w.operator(t, call{method: "PATCH", path: "/v1/skus/" + sku, body: body})
	}
	if r := patch("early", `{"opens_at":null,"state":"closed"}`); r.status != 200 || r.json["opens_at"] != nil || r.json["state"] != "closed" || r.json["unit_price"] != 1999.0 {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := patch("phone", `{"total":null,"title":"x"}`); r.status != 200 || r.json["total"] != 100.0 || r.json["title"] != "x" {
		t.Errorf("%d %s", r.status, r.body)
	}
	patch("phone", `{"currency":"??"}`).check(t, 422, "invalid_request")
	patch("none", `{}`).check(t, 404, "unknown_sku")
	r := patch("phone", `{"total":10}`)
	r.check(t, 409, "stock_below_sold")
	if r.json["max_reduction"] != 50.0 {
		t.Error(r.body)
	}
}

func TestAddStock(t *testing.T) {
	w := newWorld(t, nil)
	add := func(sku, body string) reply {
		return w.operator(t, call{method: "POST", path: "/v1/skus/" + sku + "/stock", body: body})
	}
	if r := add("phone", `{"delta":25}`); r.status != 200 || r.json["total"] != 125.0 || r.json["available"] != 75.0 {
		t.Errorf("%d %s", r.status, r.body)
	}
	r := add("phone", `{"delta":-76}`)
	r.check(t, 409, "stock_below_sold")
	if r.json["max_reduction"] != 75.0 {
		t.Error(r.body)
	}
	if r := add("phone", `{"delta":-75}`); r.status != 200 || r.json["available"] != 0.0 {
		t.Errorf("%d %s", r.status, r.body)
	}
	for _, body := range []string{`{}`, `{"delta":0}`, `{"delta":1.5}`, `{"delta":9000000000000000}`, `{"delta":1,"x":1}`} {
		add("phone", body).check(t, 422, "invalid_request")
	}
	add("none", `{"delta":1}`).check(t, 404, "unknown_sku")
}

// One key adds once, and changes are made only of what the operator has seen.
func TestOperatorsRepeatAndExpect(t *testing.T) {
	w := newWorld(t, nil)
	do := func(method, path, body string, header ...string) reply {
		return w.operator(t, call{method: method, path: path, body: body, header: header})
	}
	const stock = "/v1/skus/phone/stock"
	first := do("POST", stock, `{"delta":5}`, "Idempotency-Key", "k1")
	again := do("POST", stock, `{"delta":5}`, "Idempotency-Key", `"k1"`)
	if first.status != 200 || first.header("Idempotent-Replayed") != "" || again.status != 200 || again.header("Idempotent-Replayed") != "true" || again.json["total"] != 105.0 {
		t.Errorf("%d %s, then %d %s", first.status, first.body, again.status, again.body)
	}
	do("POST", stock, `{"delta":6}`, "Idempotency-Key", "k1").check(t, 422, "idempotency_key_reused")
	do("POST", stock, `{"delta":6}`, "Idempotency-Key", "").check(t, 400, "malformed")
	do("POST", stock, `{"delta":6}`, "Idempotency-Key", "a b").check(t, 400, "malformed")

	const sku = "/v1/skus/phone"
	seen := do("GET", sku, "").header("Etag")
	if seen == "" || seen != again.header("Etag") {
		t.Fatalf("ETag %s, and of the answer before %s", seen, again.header("Etag"))
	}
	if r := do("PATCH", sku, `{"total":110}`, "If-Match", `"nothing of ours", `+seen); r.status != 200 || r.header("Etag") == seen {
		t.Errorf("%d %s", r.status, r.body)
	}
	do("PATCH", sku, `{"total":200}`, "If-Match", seen).check(t, 412, "precondition_failed")
	do("PUT", sku, `{"total":200}`, "If-Match", seen).check(t, 412, "precondition_failed")
	do("PUT", sku, `{"total":200}`, "If-None-Match", "*").check(t, 412, "precondition_failed")
	do("PUT", "/v1/skus/new", `{"total":200}`, "If-Match", "*").check(t, 412, "precondition_failed")
	do("PATCH", sku, `{"total":200}`, "If-Match", "W/"+do("GET", sku, "").header("Etag")).check(t, 412, "precondition_failed")
	if r := do("PUT", "/v1/skus/new", `{"total":200}`, "If-None-Match", "*"); r.status != 201 {
		t.Errorf("%d %s", r.status, r.body)
	}
	for _, h := range [][]string{{"If-Match", "7"}, {"If-Match", `"7`}, {"If-Match", ""}, {"If-Match", `"a"b"`}, {"If-None-Match", `"7"`}} {
		do("PATCH", sku, `{}`, h...).check(t, 400, "malformed")
	}
}

func TestGetAndListSKUs(t *testing.T) {
	w := newWorld(t, nil)
	get := func(path string) reply { return w.operator(t, call{method: "GET", path: path}) }
	if r := get("/v1/skus/phone"); r.status != 200 || r.json["sold"] != 40.0 || r.json["available"] != 50.0 || r.json["shield_left"] != 7.0 {
		t.Errorf("%d %s", r.status, r.body)
	}
	w.shield.err = errElse
	if r := get("/v1/skus/phone"); r.status != 200 || r.json["shield_left"] != nil || !strings.Contains(r.body, `"shield_left":null`) {
		t.Errorf("shield away: %d %s", r.status, r.body)
	}
	get("/v1/skus/none").check(t, 404, "unknown_sku")
	get("/v1/skus/a.b").check(t, 404, "unknown_sku")
	r := get("/v1/skus?limit=2&after=closed")
	list, _ := r.json["skus"].([]any)
	if r.status != 200 || len(list) != 2 || r.json["next"] != "paused" || list[0].(map[string]any)["sku"] != "early" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if r := get("/v1/skus?after=paused"); r.json["next"] != nil || len(r.json["skus"].([]any)) != 1 {
		t.Error(r.body)
	}
	for _, q := range []string{"limit=0", "limit=1001", "limit=x", "after=a.b"} {
		get("/v1/skus?"+q).check(t, 422, "invalid_request")
	}
	w.ledger.err = sale.ErrUnavailable
	get("/v1/skus").check(t, 503, "unavailable")
	get("/v1/skus/phone").check(t, 503, "unavailable")
}

// Until the orders of before are counted for its first limit, everybody sees a SKU as
// paused, and operators why.
func TestASKUWhoseBuyersAreCounted(t *testing.T) {
	w := newWorld(t, nil)
	counted := func() (reply, reply) {
		return w.operator(t, call{method: "GET", path: "/v1/skus/phone"}), w.buyer(t, call{method: "GET", path: "/v1/skus/phone"})
	}
	if o, b := counted(); o.json["pending"] != nil || o.json["state"] != "open" || b.json["state"] != "open" {
		t.Errorf("%s, %s", o.body, b.body)
	}
	sku := *w.ledger.skus["phone"]
	sku.PerUserLimit, sku.Counting = 2, true
	w.ledger.skus["phone"] = &sku
	o, b := counted()
	if pending, _ := o.json["pending"].(string); !strings.HasPrefix(pending, "per_user_limit") || o.json["state"] != "paused" || o.json["per_user_limit"] != 2.0 {
		t.Errorf("operators see %s", o.body)
	}
	if b.json["state"] != "paused" || b.json["pending"] != nil {
		t.Errorf("buyers see %s", b.body)
	}
}

func TestBreakers(t *testing.T) {
	w := newWorld(t, nil)
	r := w.operator(t, call{method: "GET", path: "/v1/breakers"})
	first := r.json["breakers"].([]any)[0].(map[string]any)
	if r.status != 200 || first["name"] != "redis" || first["state"] != "closed" || first["mode"] != "auto" || first["since"] == nil || first["until"] != nil {
		t.Errorf("%d %s", r.status, r.body)
	}
	post := func(name, body string) reply {
		return w.operator(t, call{method: "POST", path: "/v1/breakers/" + name, body: body})
	}
	until := sale.FormatTime(testNow + 300_000)
	for body, scope := range map[string]string{
		`{"mode":"forced_open","for":"5m","reason":"drill"}`:                   "fleet",
		`{"mode":"forced_open","for":"5m","reason":"drill","scope":"fleet"}`:   "fleet",
		`{"mode":"forced_open","for":"5m","reason":"drill","scope":"gateway"}`: "gateway",
	} {
		if r := post("redis", body); r.status != 200 || r.json["mode"] != "forced_open" || r.json["reason"] != "drill" ||
			r.json["until"] != until || r.json["scope"] != scope || r.json["by"] != "here/1" {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	post("gin", `{"mode":"auto"}`).check(t, 404, "not_found")
	for _, body := range []string{`{}`, `{"mode":"open"}`, `{"mode":"auto","scope":"all"}`, `{"mode":"auto","for":"x"}`, `{"mode":"auto","for":"-1s"}`, `{"mode":"auto","for":"999h"}`, `{"mode":"auto","reason":"` + strings.Repeat("r", 201) + `"}`} {
		post("redis", body).check(t, 422, "invalid_request")
	}
	w.breakers.err = fmt.Errorf("x: %w", sale.ErrUnavailable)
	r = post("redis", `{"mode":"auto"}`)
	r.check(t, 503, "unavailable")
	if detail := fmt.Sprint(r.json["detail"]); !strings.Contains(detail, `"scope":"gateway"`) {
		t.Errorf("the detail does not say what is left to do: %s", r.body)
	}
	if r := post("redis", `{"mode":"auto","scope":"gateway"}`); r.status != 200 || r.json["mode"] != "auto" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

func TestAudit(t *testing.T) {
	w := newWorld(t, nil)
	if r := w.operator(t, call{method: "GET", path: "/v1/audit"}); r.status != 200 || r.body != `{"broken":[]}` {
		t.Errorf("%d %s", r.status, r.body)
	}
	w.auditor.err = sale.ErrUnavailable
	w.operator(t, call{method: "GET", path: "/v1/audit"}).check(t, 503, "unavailable")
	w.operator(t, call{method: "GET", path: "/v1/audit?since=17-x"}).check(t, 422, "invalid_request")
	w.operator(t, call{method: "GET", path: "/v1/audit?since=17-4-2-9"})
	if want := (sale.AuditPosition{At: 17, Message: 4, Change: 2, Stream: 9}); w.auditor.since != want {
		t.Errorf("audited since %v", w.auditor.since)
	}
	deps := w.deps()
	deps.Auditor = nil
	g, err := New(testConfig(), deps)
	if err != nil {
		t.Fatal(err)
	}
	w.g = g
	w.operator(t, call{method: "GET", path: "/v1/audit"}).check(t, 404, "not_found")
}

func TestMetricsAndProfiles(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := newWorld(t, func(c *Config) { c.Registerer, c.Gatherer = registry, registry })
	w.queue.rule = reserved
	w.buyer(t, purchase(""))
	w.buyer(t, purchase("x"))
	r := w.operator(t, call{method: "GET", path: "/metrics"})
	for _, line := range []string{
		`flashgate_http_requests_total{code="reserved"} 1`, `flashgate_http_requests_total{code="malformed"} 1`,
		`flashgate_http_request_seconds_count{route="POST /v1/skus/:sku/orders"} 2`,
	} {
		if !strings.Contains(r.body, line) {
			t.Errorf("%s is missing", line)
		}
	}
	for _, path := range []string{"/debug/pprof", "/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		if r := w.operator(t, call{method: "GET", path: path}); r.status != http.StatusOK || r.body == "" {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	cfg := testConfig()
	cfg.Registerer = registry
	if _, err := New(cfg, w.deps()); err == nil {
		t.Error("the same metrics twice were accepted")
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t, nil)
	ready := func() reply { return w.buyer(t, call{method: "GET", path: "/readyz"}) }
	if r := w.buyer(t, call{method: "GET", path: "/livez"}); r.status != 200 {
		t.Errorf("livez: %d", r.status)
	}
	ready().check(t, 503, "unavailable")
	w.ready.ready.Store(true)
	if r := ready(); r.status != 200 {
		t.Errorf("proved: %d", r.status)
	}
	w.ready.ready.Store(false)
	if r := ready(); r.status != 200 {
		t.Errorf("a ledger that fails later must not empty the load balancer: %d", r.status)
	}
	w.ready.details = []string{`one "thing"`, "another"}
	for _, c := range []struct {
		ask  func(testing.TB, call) reply
		want string
	}{{w.buyer, `{"status":"ready"}`}, {w.operator, `{"status":"ready","details":["one \"thing\"","another"]}`}} {
		if r := c.ask(t, call{method: "GET", path: "/readyz"}); r.status != 200 || r.body != c.want {
			t.Errorf("%d %s, want %s", r.status, r.body, c.want)
		}
	}
	w.g.draining.Store(true)
	ready().check(t, 503, "shutting_down")
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t, nil)
	for name, change := range map[string]func(*Config, *Deps){
		"no key":         func(c *Config, _ *Deps) { c.AdminKey = "" },
		"no max wait":    func(c *Config, _ *Deps) { c.MaxWait = 0 },
		"no verdict TTL": func(c *Config, _ *Deps) { c.VerdictTTL = 0 },
		"no connections": func(c *Config, _ *Deps) { c.MaxConnections = 0 },
		"no entries":     func(c *Config, _ *Deps) { c.Limits.MaxEntries = 0 },
		"no tolerance":   func(c *Config, _ *Deps) { c.Payments.Tolerance = 0 },
		"short shutdown": func(c *Config, _ *Deps) { c.ShutdownTimeout = c.MaxWait },
		"proxy":          func(c *Config, _ *Deps) { c.TrustedProxies = []string{"x"} },
		"auth":           func(c *Config, _ *Deps) { c.Auth.Mode = "" },
		"header limit":   func(c *Config, _ *Deps) { c.HeaderLimit = 10 },
		"limits":         func(c *Config, _ *Deps) { c.Limits.User.Rate = -1 },
		"dependency":     func(_ *Config, d *Deps) { d.Shield = nil },
	} {
		cfg, deps := testConfig(), w.deps()
		change(&cfg, &deps)
		if _, err := New(cfg, deps); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// Operators' bodies are read by exact names and types, and refused in words that know none of
// ours inside.
func TestOperatorsBodies(t *testing.T) {
	w := newWorld(t, nil)
	for body, want := range map[string]string{
		`{"Total":5}`:                                 `unknown field "Total"`,
		`{"total":5,"TOTAL":6}`:                       `unknown field "TOTAL"`,
		`{"total":"5"}`:                               "total must be an integer",
		`{"total":5.5}`:                               "total must be an integer",
		`{"total":5,"title":7}`:                       "title must be a string",
		`{"total":5,"opens_at":"tomorrow"}`:           "opens_at must be an RFC 3339 time or null",
		`{"total":5,"segments":99999999999999999999}`: "segments must be an integer",
		`[{"total":5}]`:                               "the body must be a JSON object",
	} {
		r := w.operator(t, call{method: "PUT", path: "/v1/skus/phone", body: body})
		if detail, _ := r.json["detail"].(string); r.status != 422 || !strings.Contains(detail, want) || strings.Contains(detail, "Go ") || strings.Contains(detail, "skuBody") {
			t.Errorf("%s: %d %s", body, r.status, r.body)
		}
	}
	for _, body := range []string{`{"total":5,"total":6}`, `{"total":5} {}`, `{"total":5`} {
		w.operator(t, call{method: "PUT", path: "/v1/skus/phone", body: body}).check(t, 400, "malformed")
	}
}
