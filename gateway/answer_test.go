package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"flashgate/sale"
)

// promised are the codes that users rely on.
var promised = map[string]int{
	"malformed": 400, "unauthenticated": 401, "forbidden": 403, "unknown_sku": 404, "unknown_order": 404,
	"sold_out": 409, "purchase_limit": 409, "sale_not_open": 409, "sale_paused": 409, "sale_closed": 409,
	"already_paid": 409, "order_expired": 409, "stock_below_sold": 409, "order_queued": 409,
	"content_too_large": 413, "unsupported_media_type": 415, "invalid_request": 422, "idempotency_key_reused": 422,
	"rate_limited": 429, "queue_full": 503, "degraded": 503, "timeout": 503, "unavailable": 503, "shutting_down": 503,
}

func TestTable(t *testing.T) {
	w := newWorld(t, nil)
	seen := map[string]bool{}
	for a := range answerCount {
		e := answers[a]
		if e.status == 0 || e.code == "" || seen[e.code] {
			t.Errorf("row %d is empty or its code %q stands twice", a, e.code)
		}
		seen[e.code] = true
		if must := e.status == 429 || e.status == 503; must && e.retry == 0 {
			t.Errorf("%s has no Retry-After", e.code)
		}
		if e.status < 400 {
			continue
		}
		if e.title == "" || e.detail == "" || !json.Valid(w.g.problems[a]) {
			t.Errorf("%s is incomplete: %s", e.code, w.g.problems[a])
		}
		page := w.buyer(t, call{method: "GET", path: "/problems/" + e.code})
		if page.status != 200 || page.json["code"] != e.code || page.json["status"] != float64(e.status) {
			t.Errorf("/problems/%s: %d %s", e.code, page.status, page.body)
		}
	}
	for code, status := range promised {
		if i := slices.IndexFunc(answers[:], func(e entry) bool { return e.code == code }); i < 0 || answers[i].status != status {
			t.Errorf("%s must be %d", code, status)
		}
	}
	w.buyer(t, call{method: "GET", path: "/problems/ok"}).check(t, 404, "not_found")
	w.buyer(t, call{method: "GET", path: "/problems/nonsense"}).check(t, 404, "not_found")
}

func TestEveryErrorHasAnAnswer(t *testing.T) {
	for err, want := range map[error]string{
		sale.ErrUnavailable: "unavailable", sale.ErrDegraded: "degraded", sale.ErrQueueFull: "queue_full",
		sale.ErrShuttingDown: "shutting_down", sale.ErrUnknownSKU: "unknown_sku", sale.ErrUnknownOrder: "unknown_order",
		sale.ErrAlreadyPaid: "already_paid", sale.ErrOrderExpired: "order_expired", sale.ErrOrderQueued: "order_queued",
		sale.ErrInvalid: "invalid_request", sale.ErrUnknown: "unavailable", errElse: "unavailable",
		&sale.StockBelowSoldError{}: "stock_below_sold",
	} {
		if got := answers[ofError(fmt.Errorf("wrapped: %w", err))].code; got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
	for o := sale.NoOutcome; o <= sale.Queued; o++ {
		if o.Refusal() && answers[ofOutcome(o)].status < 400 {
			t.Errorf("outcome %d refuses with %d", o, answers[ofOutcome(o)].status)
		}
		if ofOutcome(o) == internalError {
			t.Errorf("outcome %d has no answer", o)
		}
	}
	if ofOutcome(sale.Queued+1) != internalError {
		t.Error("an outcome that does not exist must not be answered as if it did")
	}
}

func TestDocuments(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Gatherer = prometheus.NewRegistry() })
	for name, x := range map[string]struct {
		got    reply
		routes []route
	}{
		"buyers":    {w.buyer(t, call{method: "GET", path: "/openapi.yaml"}), w.g.buyerRoutes()},
		"operators": {w.operator(t, call{method: "GET", path: "/openapi.yaml"}), w.g.operatorRoutes()},
	} {
		var doc struct {
			Paths      map[string]map[string]any
			Components struct {
				Schemas map[string]struct{ Enum []string }
			}
		}
		if err := yaml.Unmarshal([]byte(x.got.body), &doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		told := map[string]bool{}
		for path, methods := range doc.Paths {
			for method := range methods {
				if method != "parameters" {
					told[method+" "+path] = true
				}
			}
		}
		served := map[string]bool{}
		for _, r := range x.routes {
			served[documented(r)] = true
		}
		for r := range served {
			if !told[r] {
				t.Errorf("%s: %s is served and not documented", name, r)
			}
		}
		for r := range told {
			if !served[r] {
				t.Errorf("%s: %s is documented and not served", name, r)
			}
		}
		if name == "operators" {
			continue
		}
		var codes []string
		for _, e := range answers[malformed:] {
			codes = append(codes, e.code)
		}
		if listed := doc.Components.Schemas["Code"].Enum; !slices.Equal(listed, codes) {
			t.Errorf("the document's codes are\n%v, the table's\n%v", listed, codes)
		}
	}
}

// documented is a route as the documents spell it; the profiles are one entry.
func documented(r route) string {
	path := []byte(r.path)
	out := make([]byte, 0, len(path)+2)
	for i := 0; i < len(path); i++ {
		if path[i] != ':' {
			out = append(out, path[i])
			continue
		}
		out = append(out, '{')
		for i++; i < len(path) && path[i] != '/'; i++ {
			out = append(out, path[i])
		}
		out = append(out, '}')
		i--
	}
	if len(out) >= 12 && string(out[:12]) == "/debug/pprof" {
		out = []byte("/debug/pprof/{profile}")
	}
	return map[string]string{http.MethodGet: "get ", http.MethodPost: "post ", http.MethodPut: "put ", http.MethodPatch: "patch ", http.MethodDelete: "delete "}[r.method] + string(out)
}
