package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// running serves a world until the test ends, or stop is called.
type running struct {
	*world
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func serve(t *testing.T, change func(*Config)) *running {
	t.Helper()
	r := &running{world: newWorld(t, change), done: make(chan struct{})}
	if err := r.g.Listen(); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() { // joined by stop
		defer close(r.done)
		r.err = r.g.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *running) stop() error {
	r.cancel()
	<-r.done
	return r.err
}

func (r *running) url(path string) string { return "http://" + r.g.BuyersAddr().String() + path }

// dial opens a connection that no test can hang on.
func (r *running) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.g.BuyersAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// send writes raw bytes and reads one response.
func (r *running) send(t *testing.T, raw string) (status int, body string, rest *bufio.Reader) {
	t.Helper()
	c := r.dial(t)
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, string(b), br
}

const post = "POST /v1/skus/phone/orders HTTP/1.1\r\nHost: a\r\nX-User-ID: ann\r\n"

func TestServing(t *testing.T) {
	r := serve(t, nil)
	r.queue.rule = reserved
	status, body, _ := r.send(t, post+"Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"quantity\":3}")
	if status != 201 || !strings.Contains(body, `"quantity":3`) {
		t.Errorf("%d %s", status, body)
	}
	status, body, _ = r.send(t, post+"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{\"quantity\":4}\r\n0\r\n\r\n")
	if status != 201 || !strings.Contains(body, `"quantity":4`) {
		t.Errorf("chunked: %d %s", status, body)
	}
	resp, err := http.Get("http://" + r.g.OperatorsAddr().String() + "/livez")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("operators: %v", err)
	}
	_ = resp.Body.Close()
	head, err := http.Head(r.url("/livez"))
	if err != nil || head.StatusCode != 200 {
		t.Errorf("HEAD: %v %d", err, head.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()
}

// What two servers could read as two different things is refused, and the connection
// is closed, so that nothing can be hidden behind it.
func TestSmuggling(t *testing.T) {
	r := serve(t, nil)
	r.queue.rule = reserved
	hidden := "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, raw := range map[string]string{
		"both lengths":         post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"two lengths":          post + "Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}" + hidden,
		"same length twice":    post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + hidden,
		"length list":          post + "Content-Length: 2, 2\r\n\r\n{}" + hidden,
		"signed length":        post + "Content-Length: +2\r\n\r\n{}" + hidden,
		"odd encoding":         post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
		"two encodings":        post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"encoding in HTTP/1.0": strings.Replace(post, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"space before colon":   post + "Content-Length : 2\r\n\r\n{}" + hidden,
		"folded field":         post + "Content-Length: 2\r\n X: y\r\n\r\n{}" + hidden,
		"bad chunk":            post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + hidden,
		"two hosts":            post + "Host: b\r\n\r\n" + hidden,
		"NUL in a field":       post + "X: a\x00b\r\n\r\n" + hidden,
		"no HTTP":              "hello\r\n\r\n" + hidden,
	} {
		t.Run(name, func(t *testing.T) {
			status, body, rest := r.send(t, raw)
			if status != 400 || !strings.Contains(body, `"code":"malformed"`) {
				t.Errorf("%d %s", status, body)
			}
			if more, _ := io.ReadAll(rest); len(more) > 0 {
				t.Errorf("the connection went on: %q", more)
			}
		})
	}
}

func TestSizes(t *testing.T) {
	r := serve(t, func(c *Config) { c.BodyLimit, c.HeaderLimit = 1024, 2048 })
	r.queue.rule = reserved
	big := strings.Repeat(" ", 1025)
	for name, x := range map[string]struct {
		raw    string
		status int
		code   string
	}{
		"announced body": {post + "Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n", 413, "content_too_large"},
		"body":           {post + "Content-Type: application/json\r\nContent-Length: 1025\r\n\r\n" + big, 413, "content_too_large"},
		"chunked body":   {post + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n" + big + "\r\n0\r\n\r\n", 413, "content_too_large"},
		"header":         {post + "X: " + strings.Repeat("x", 2048) + "\r\n\r\n", 431, "headers_too_large"},
		"path":           {"GET /" + strings.Repeat("x", 2048) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431, "headers_too_large"},
	} {
		if status, body, _ := r.send(t, x.raw); status != x.status || !strings.Contains(body, `"code":"`+x.code+`"`) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// A client that dribbles its request is cut off in time, wherever it stops.
func TestSlowClients(t *testing.T) {
	r := serve(t, func(c *Config) { c.ReadTimeout, c.IdleTimeout = 60*time.Millisecond, 90*time.Millisecond })
	r.queue.rule = reserved
	for name, raw := range map[string]string{
		"in the header": post + "X-Slow: ",
		"in the body":   post + "Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"qua",
	} {
		status, body, rest := r.send(t, raw)
		if status != 408 || !strings.Contains(body, `"code":"request_timeout"`) {
			t.Errorf("%s: %d %s", name, status, body)
		}
		if _, err := rest.ReadByte(); err != io.EOF {
			t.Errorf("%s: the connection stayed open: %v", name, err)
		}
	}
	// One that is idle after a request is closed without a word.
	_, _, rest := r.send(t, post+"\r\n")
	if b, err := rest.ReadByte(); err != io.EOF {
		t.Errorf("idle: %q %v", b, err)
	}
}

// The claim of a client that goes away lives on, and its handler ends.
func TestClientGoesAway(t *testing.T) {
	r := serve(t, nil)
	c := r.dial(t)
	if _, err := io.WriteString(c, post+"Idempotency-Key: k\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	id := sale.DeriveOrderID("phone", "ann", "k")
	testenv.Eventually(t, func() bool { return r.queue.Find(id) != nil }, "the claim is queued")
	_ = c.Close()
	ticket := r.queue.Find(id)
	v, _ := reserved(ticket.Claim)
	ticket.Resolve(v)
	open := func() int64 { return r.g.buyers.ln.Load().open.Load() }
	testenv.Eventually(t, func() bool { return open() == 0 }, "the connection is given back")
}

func TestTooManyConnections(t *testing.T) {
	r := serve(t, func(c *Config) { c.MaxConnections = 2 })
	a, b := r.dial(t), r.dial(t)
	counted := r.g.buyers.ln.Load()
	testenv.Eventually(t, func() bool { return counted.open.Load() == 2 }, "both are open")
	resp, err := http.ReadResponse(bufio.NewReader(r.dial(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"code":"unavailable"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	_, _ = a.Close(), b.Close()
	testenv.Eventually(t, func() bool { return counted.open.Load() == 0 }, "both are closed")
	if status, _, _ := r.send(t, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"); status != 200 {
		t.Errorf("room again: %d", status)
	}
}

// A drain answers who waits, refuses who comes, and leaves the operators' listener up
// until the buyers' is closed.
func TestDrain(t *testing.T) {
	r := serve(t, func(c *Config) { c.DrainDelay = 50 * time.Millisecond })
	r.ready.ready.Store(true)
	c := r.dial(t)
	if _, err := io.WriteString(c, post+"Idempotency-Key: k\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	id := sale.DeriveOrderID("phone", "ann", "k")
	testenv.Eventually(t, func() bool { return r.queue.Find(id) != nil }, "the claim is queued")
	kept := r.dial(t)
	reader := bufio.NewReader(kept)
	ask := func(raw string) int {
		if _, err := io.WriteString(kept, raw); err != nil {
			return 0
		}
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return 0
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	readyz := "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
	if status := ask(readyz); status != 200 {
		t.Fatalf("readyz before: %d", status)
	}
	r.cancel()
	testenv.Eventually(t, func() bool { return r.g.draining.Load() }, "readyz says no")
	if status := ask(readyz); status != 503 {
		t.Errorf("readyz while draining: %d", status)
	}
	testenv.Eventually(t, func() bool {
		extra, err := net.Dial("tcp", r.g.BuyersAddr().String())
		if err == nil {
			_ = extra.Close()
		}
		return err != nil
	}, "the listener is closed")
	if resp, err := http.Get("http://" + r.g.OperatorsAddr().String() + "/livez"); err != nil {
		t.Errorf("operators while buyers drain: %v", err)
	} else {
		_ = resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	ticket := r.queue.Find(id)
	v, _ := reserved(ticket.Claim)
	ticket.Resolve(v)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 201 {
		t.Fatalf("who waited: %v", err)
	}
	_ = resp.Body.Close()
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A request that outlasts the deadline does not keep Run.
// Browsers and proxies open connections that they may never use. Nobody waits for those:
// they get a moment for a request that is on its way.
func TestDrainDoesNotWaitForSilence(t *testing.T) {
	r := serve(t, nil)
	_ = r.dial(t)
	late := r.dial(t)
	if status, _, _ := r.send(t, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	began := time.Now()
	r.cancel()
	if _, err := io.WriteString(late, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(bufio.NewReader(late), nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a request that came in time: %v, error %v", resp, err)
	}
	if err := r.stop(); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("ended after %v with %v", time.Since(began), err)
	}
}

func TestDrainDeadline(t *testing.T) {
	r := serve(t, func(c *Config) {
		c.Wait, c.MaxWait, c.ShutdownTimeout = 400*time.Millisecond, 400*time.Millisecond, 401*time.Millisecond
	})
	c := r.dial(t)
	if _, err := io.WriteString(c, "POST /v1/skus"); err != nil { // and never the rest
		t.Fatal(err)
	}
	counted := r.g.buyers.ln.Load()
	testenv.Eventually(t, func() bool { return counted.open.Load() == 1 }, "it is open")
	r.cancel()
	<-r.done
	if r.err == nil || !strings.Contains(r.err.Error(), "in flight") {
		t.Errorf("Run: %v", r.err)
	}
	r.err = nil
	_ = c.Close()
	testenv.Eventually(t, func() bool { return counted.open.Load() == 0 }, "the handler has ended")
}

func TestListenTellsErrors(t *testing.T) {
	r := serve(t, nil)
	for _, change := range []func(*Config){
		func(c *Config) { c.Listen = r.g.BuyersAddr().String() },
		func(c *Config) { c.AdminListen = r.g.BuyersAddr().String() },
	} {
		w := newWorld(t, change)
		if err := w.g.Run(t.Context()); err == nil {
			t.Error("a taken address was accepted")
		}
		if w.g.BuyersAddr() != nil {
			t.Error("a listener was left behind")
		}
	}
}

// Marks reach the shield for claims that still wait, and never for decided ones.
func TestMarks(t *testing.T) {
	r := serve(t, nil)
	for _, user := range []string{"ann", "bob"} {
		raw := strings.Replace(post, "ann", user, 1) + "Idempotency-Key: k\r\nPrefer: respond-async\r\n\r\n"
		if status, body, _ := r.send(t, raw); status != 202 {
			t.Fatalf("%d %s", status, body)
		}
		id := sale.DeriveOrderID("phone", user, "k")
		testenv.Eventually(t, func() bool { return r.shield.has(id) }, "%s's mark", user)
	}
	r.queue.answer(sale.Verdict{Outcome: sale.SoldOut}) // decided at once: in no line
	decided := sale.DeriveOrderID("phone", "cat", "k")
	raw := strings.Replace(post, "ann", "cat", 1) + "Idempotency-Key: k\r\nPrefer: respond-async\r\n\r\n"
	if status, _, _ := r.send(t, raw); status != 202 {
		t.Fatal("not queued")
	}
	testenv.Eventually(t, func() bool { return len(r.g.marks.pending) == 0 }, "the writer has looked")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if r.shield.has(decided) {
		t.Error("a decided claim was marked as queued")
	}
}

// slowShield decides claims while their marks are on the way, and remembers the refusal
// first: the mark must not hide it.
type slowShield struct {
	fakeShield
	decide func()
}

func (s *slowShield) Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error {
	if decide := s.decide; decide != nil {
		s.decide = nil
		decide()
	}
	return s.fakeShield.Remember(ctx, orders, ttl)
}

func TestMarkDoesNotHideARefusal(t *testing.T) {
	claim := &sale.Claim{ID: sale.OrderID{1}, SKU: "phone", User: "ann", Quantity: 1}
	ticket := sale.NewTicket(claim, 1, new(atomic.Int64))
	shield := &slowShield{fakeShield: fakeShield{kept: map[sale.OrderID]sale.Order{}}}
	shield.decide = func() {
		ticket.Resolve(sale.Verdict{Outcome: sale.LimitReached})
		_ = shield.fakeShield.Remember(t.Context(), []sale.Order{sale.Rejected(claim, sale.LimitReached)}, time.Minute)
	}
	w := newWorld(t, nil)
	m := w.g.marks
	m.shield = shield
	m.write(t.Context(), m.collect(nil, ticket))
	if o := shield.kept[claim.ID]; o.Status != sale.StatusRejected || o.Reason != "limit_reached" {
		t.Errorf("remembered: %v %q", o.Status, o.Reason)
	}
}

func TestMarksNeverBlock(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Marks = 4 })
	for range 100 { // nobody writes them: the gateway does not run
		if r := w.buyer(t, purchase("", "Prefer", "respond-async")); r.status != 202 {
			t.Fatal(r.status)
		}
	}
	if len(w.g.marks.pending) != 4 {
		t.Errorf("%d marks are pending", len(w.g.marks.pending))
	}
}

// A buyer who waits costs 16 KiB at most, also on a connection that has bought before.
// The client's end and the fakes, which live in this process too, are worth another.
func TestMemoryOfWaitingConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections; run without -short")
	}
	const buyers, most = 4000, 17 << 10
	r := serve(t, func(c *Config) { c.Wait, c.MaxWait = time.Minute, time.Minute })
	r.queue.rule = func(c *sale.Claim) (sale.Verdict, bool) {
		if c.Quantity == 2 {
			return sale.Verdict{}, false
		}
		return reserved(c)
	}
	in := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := in()
	conns := make([]net.Conn, buyers)
	answer := make([]byte, 1024)
	for i := range conns {
		c, err := net.Dial("tcp", r.g.BuyersAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
		for quantity := 1; quantity <= 2; quantity++ {
			if _, err := fmt.Fprintf(c, "%sIdempotency-Key: k-%d-%d\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"quantity\":%d}", post, i, quantity, quantity); err != nil {
				t.Fatal(err)
			}
			if quantity == 1 {
				if n, err := c.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 201") {
					t.Fatalf("%v %q", err, answer[:n])
				}
			}
		}
	}
	waiting := func() int { r.queue.mu.Lock(); defer r.queue.mu.Unlock(); return len(r.queue.waiting) }
	testenv.Eventually(t, func() bool { return waiting() == buyers }, "all wait")
	each := (in() - before) / buyers
	t.Logf("%d bytes per waiting connection, its client included", each)
	if each > most && !underRace {
		t.Errorf("%d bytes per waiting connection, want at most %d", each, most)
	}
	for _, ticket := range r.queue.waiting {
		v, _ := reserved(ticket.Claim)
		ticket.Resolve(v)
	}
}
