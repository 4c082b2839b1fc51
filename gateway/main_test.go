package gateway

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// fasthttp's first answer starts a goroutine that keeps the Date header current for
	// the life of the process: it must not belong to the bubble of a test.
	_ = new(fasthttp.ResponseHeader).Header()
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		// A server's cleaner sleeps for up to ten seconds before it sees that its server is gone.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		// So do those of a client, which benchmarks have.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*Client).mCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*TCPDialer).tcpAddrsClean"),
	)
}

// call is a request to be made in a test.
type call struct {
	method, path, body string
	header             []string // name, value, ...
	from               string   // peer address; default is a trusted one
}

// reply is what came back.
type reply struct {
	status int
	header func(string) string
	body   string
	json   map[string]any
}

func (c call) do(t testing.TB, handler fasthttp.RequestHandler) reply {
	t.Helper()
	var req fasthttp.Request
	req.Header.SetMethod(c.method)
	req.SetRequestURI("http://localhost" + c.path)
	if c.body != "" {
		req.SetBodyString(c.body)
		req.Header.SetContentType("application/json")
	}
	for i := 0; i+1 < len(c.header); i += 2 {
		if c.header[i] == "Content-Type" {
			req.Header.SetContentType(c.header[i+1])
			continue
		}
		req.Header.Add(c.header[i], c.header[i+1])
	}
	from := c.from
	if from == "" {
		from = "127.0.0.1"
	}
	ctx := &fasthttp.RequestCtx{}
	ctx.Init(&req, &net.TCPAddr{IP: net.ParseIP(from), Port: 1}, nil)
	handler(ctx)
	r := reply{status: ctx.Response.StatusCode(), body: string(ctx.Response.Body())}
	r.header = func(name string) string { return string(ctx.Response.Header.Peek(name)) }
	if kind := string(ctx.Response.Header.ContentType()); strings.HasSuffix(kind, "json") {
		if err := json.Unmarshal([]byte(r.body), &r.json); err != nil {
			t.Fatalf("%s %s: the body is not JSON: %v\n%s", c.method, c.path, err, r.body)
		}
	}
	return r
}

// buyer makes a call as a buyer, operator one as an operator.
func (w *world) buyer(t testing.TB, c call) reply {
	t.Helper()
	return c.do(t, w.g.buyers.app.Server().Handler)
}

func (w *world) operator(t testing.TB, c call) reply {
	t.Helper()
	c.header = append(c.header, "Authorization", "Bearer "+testAdminKey)
	return c.do(t, w.g.operators.app.Server().Handler)
}

// purchase is a POST of the buyer "ann" for the phone.
func purchase(body string, header ...string) call {
	return call{method: "POST", path: "/v1/skus/phone/orders", body: body, header: append(header, "X-User-ID", "ann")}
}

func (r reply) code() string {
	s, _ := r.json["code"].(string)
	return s
}

// check holds a problem against the table: status, code, type, and Retry-After where
// it must be.
func (r reply) check(t *testing.T, status int, code string) {
	t.Helper()
	if r.status != status || r.code() != code {
		t.Fatalf("got %d %s, want %d %s", r.status, r.body, status, code)
	}
	if r.header("Content-Type") != mimeProblem || r.json["type"] != "/problems/"+code || r.json["status"] != float64(status) ||
		r.json["title"] == "" || r.json["detail"] == "" {
		t.Errorf("not a complete problem: %s %s", r.header("Content-Type"), r.body)
	}
	if must := status == 429 || status == 503; must != (r.header("Retry-After") != "") {
		t.Errorf("%s: Retry-After is %q", code, r.header("Retry-After"))
	}
}
