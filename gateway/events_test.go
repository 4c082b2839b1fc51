package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// told is one event as a client reads it.
type told struct{ name, id, data, retry, comment string }

// follower is a client of an event stream.
type follower struct {
	t     *testing.T
	conn  net.Conn
	br    *bufio.Reader // of the connection
	resp  *http.Response
	lines *bufio.Reader // of the stream
}

// follow asks for the stream of an order on a connection of its own.
func (r *running) follow(t *testing.T, id sale.OrderID, header ...string) *follower {
	t.Helper()
	f := &follower{t: t, conn: r.dial(t)}
	f.br = bufio.NewReader(f.conn)
	raw := "GET /v1/orders/" + id.String() + "/events HTTP/1.1\r\nHost: a\r\nX-User-ID: ann\r\n"
	if len(header) > 0 {
		raw += strings.Join(header, "\r\n") + "\r\n"
	}
	if _, err := io.WriteString(f.conn, raw+"\r\n"); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.resp, err = http.ReadResponse(f.br, nil); err != nil {
		t.Fatal(err)
	}
	// Closing the body alone would read the stream to its end.
	t.Cleanup(func() { _, _ = f.conn.Close(), f.resp.Body.Close() })
	f.lines = bufio.NewReader(f.resp.Body)
	return f
}

// block reads up to the next empty line; false is the end of the stream.
func (f *follower) block() (e told, ok bool) {
	f.t.Helper()
	for {
		line, err := f.lines.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return e, false
		}
		if err != nil {
			f.t.Fatalf("reading the stream: %v after %q", err, line)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "\n":
			return e, true
		case name == "":
			e.comment = line
		case name == "event":
			e.name = value
		case name == "id":
			e.id = value
		case name == "data":
			e.data = value
		case name == "retry":
			e.retry = value
		default:
			f.t.Fatalf("what is %q?", line)
		}
	}
}

// next reads the next event, passing over heartbeats and what is no event.
func (f *follower) next() told {
	f.t.Helper()
	for {
		e, ok := f.block()
		if !ok {
			f.t.Fatal("the stream has ended")
		}
		if e.name != "" {
			return e
		}
	}
}

func (f *follower) order(id sale.OrderID, status string) {
	f.t.Helper()
	e := f.next()
	for e.name == "position" { // of a moment before
		e = f.next()
	}
	if e.name != "order" || e.id != id.String()+"/"+status || !strings.Contains(e.data, `"status":"`+status+`"`) || !strings.HasPrefix(e.data, `{"order_id":"`+id.String()) {
		f.t.Fatalf("got %+v, want the order to be %s", e, status)
	}
}

func (f *follower) nowhere() {
	f.t.Helper()
	if e := f.next(); e.name != "position" || e.data != `{"eta_seconds":0,"eta_known":false}` {
		f.t.Errorf("got %+v, want no place that is known", e)
	}
}

// ended reads to the end and returns the last retry.
func (f *follower) ended() (retry string) {
	f.t.Helper()
	for {
		e, ok := f.block()
		if !ok {
			return retry
		}
		if e.name != "" {
			f.t.Fatalf("after the end: %+v", e)
		}
		if e.retry != "" {
			retry = e.retry
		}
	}
}

func (g *Gateway) openStreams() int {
	g.streams.mu.Lock()
	defer g.streams.mu.Unlock()
	return g.streams.open
}

func quick(c *Config) { c.Heartbeat = 20 * time.Millisecond }

func annsClaim() *sale.Claim {
	return &sale.Claim{ID: sale.DeriveOrderID("phone", "ann", "k"), SKU: "phone", User: "ann", Quantity: 2}
}

// The whole way: a place in the line, the verdict, and payment.
func TestEvents(t *testing.T) {
	r := serve(t, withPayments)
	r.queue.number, r.queue.rate = 3, 2
	claim := annsClaim()
	ticket, _ := r.queue.Join(claim, false)
	f := r.follow(t, claim.ID)
	h := f.resp.Header
	if f.resp.StatusCode != 200 || h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" ||
		h.Get("X-Accel-Buffering") != "no" || len(f.resp.TransferEncoding) != 1 {
		t.Fatalf("%d %v", f.resp.StatusCode, h)
	}
	if !ticket.Detached() {
		t.Error("a refusal of the claim would not be remembered")
	}
	if e, _ := f.block(); e.retry == "" {
		t.Errorf("the stream begins with %+v", e)
	}
	if e := f.next(); e != (told{name: "position", data: `{"position":3,"eta_seconds":2,"eta_known":true}`}) {
		t.Errorf("%+v", e)
	}
	r.queue.taken.Add(3)
	if e := f.next(); e != (told{name: "position", data: `{"position":0,"eta_seconds":1,"eta_known":true}`}) {
		t.Errorf("%+v", e)
	}
	o := r.sold()
	r.queue.forget(claim.ID)
	f.order(o.ID, "reserved")
	if got := r.buyer(t, event(eventBody("e", o.ID, 3998, "EUR", "succeeded"))); got.status != 200 {
		t.Fatal(got.body)
	}
	f.order(o.ID, "paid")
	f.ended()
	// The connection goes on; who comes back is told the end again, or that it knows it.
	_, _ = io.WriteString(f.conn, "GET /v1/orders/"+o.ID.String()+"/events HTTP/1.1\r\nHost: a\r\nX-User-ID: ann\r\n\r\n")
	resp, err := http.ReadResponse(f.br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("on the same connection: %v", err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if !strings.Contains(string(body), "id: "+o.ID.String()+"/paid\nevent: order\n") {
		t.Errorf("%q", body)
	}
	if again := r.follow(t, o.ID, "Last-Event-ID: "+o.ID.String()+"/paid"); again.resp.StatusCode != 204 {
		t.Errorf("who knows the end hears %d", again.resp.StatusCode)
	}
	testenv.Eventually(t, func() bool { return r.g.openStreams() == 0 }, "the stream is given back")
}

// Refusals are told as rejected orders, which ends the stream.
func TestEventsRejected(t *testing.T) {
	r := serve(t, nil)
	claim := annsClaim()
	_, _ = r.queue.Join(claim, true)
	a, b := r.follow(t, claim.ID), r.follow(t, claim.ID)
	_, _ = a.next(), b.next()
	r.queue.forget(claim.ID)
	r.shield.keep(sale.Rejected(claim, sale.SoldOut))
	for _, f := range []*follower{a, b} {
		e := f.next()
		if e.name != "order" || !strings.Contains(e.data, `"status":"rejected","reason":"sold_out"`) {
			t.Errorf("%+v", e)
		}
		f.ended()
	}
	if again := r.follow(t, claim.ID, "Last-Event-ID: "+claim.ID.String()+"/rejected"); again.resp.StatusCode != 204 {
		t.Errorf("who knows the end hears %d", again.resp.StatusCode)
	}
}

// What others change in the ledger is seen, what this gateway changes is told at once,
// and an order that was given back may still be paid.
func TestEventsAfterTheVerdict(t *testing.T) {
	r := serve(t, nil)
	o := r.sold()
	f := r.follow(t, o.ID)
	f.order(o.ID, "reserved")
	known := r.follow(t, o.ID, "Last-Event-ID: "+o.ID.String()+"/reserved")
	if e, ok := known.block(); !ok || e.retry == "" {
		t.Errorf("it begins with %+v", e)
	}
	if got := r.buyer(t, call{method: "DELETE", path: "/v1/orders/" + o.ID.String(), header: []string{"X-User-ID", "ann"}}); got.status != 200 {
		t.Fatal(got.body)
	}
	f.order(o.ID, "cancelled")
	known.order(o.ID, "cancelled")
	r.ledger.put(o, sale.StatusPaid) // by another gateway
	f.order(o.ID, "paid")
	f.ended()
	known.order(o.ID, "paid")
	known.ended()
}

// A claim that is parked, or waits in another gateway, has no place that is known here.
func TestEventsParked(t *testing.T) {
	r := serve(t, nil)
	claim := annsClaim()
	_, _ = r.queue.Join(claim, true)
	f := r.follow(t, claim.ID)
	if e := f.next(); !strings.Contains(e.data, `"position":0`) {
		t.Errorf("%+v", e)
	}
	r.ledger.fail(sale.ErrUnavailable)
	r.shield.keep(sale.QueuedOrder(claim))
	r.queue.forget(claim.ID)
	// While the ledger is away it could still have the verdict; after a moment, that is
	// not likely.
	late := r.follow(t, claim.ID)
	if e := late.next(); strings.Contains(e.data, `"position":0`) {
		late.nowhere()
	}
	f.nowhere()
	r.ledger.fail(nil)
	o := r.sold()
	f.order(o.ID, "reserved")
	late.order(o.ID, "reserved")
}

func TestEventsRefused(t *testing.T) {
	w := newWorld(t, nil)
	o := w.sold()
	get := func(id, user string) reply {
		return w.buyer(t, call{method: "GET", path: "/v1/orders/" + id + "/events", header: []string{"X-User-ID", user}})
	}
	get(o.ID.String(), "bob").check(t, 404, "unknown_order")
	get("nonsense", "ann").check(t, 404, "unknown_order")
	get(sale.DeriveOrderID("a", "b", "c").String(), "ann").check(t, 404, "unknown_order")
	get(o.ID.String(), "").check(t, 401, "unauthenticated")
	w.ledger.fail(sale.ErrUnavailable)
	get(o.ID.String(), "ann").check(t, 503, "unavailable")
	w.ledger.fail(nil)
	w.g.streams.close()
	get(o.ID.String(), "ann").check(t, 503, "shutting_down")
}

// There are so many streams and no more, and one buyer cannot have them all. One that
// is closed makes room once a heartbeat has failed.
func TestEventsAreBounded(t *testing.T) {
	r := serve(t, func(c *Config) { quick(c); c.MaxStreams, c.MaxStreamsPerUser = 3, 2 })
	o := r.sold()
	id := sale.DeriveOrderID("phone", "bob", "k")
	bobs := o
	bobs.ID, bobs.User, bobs.Version = id, "bob", 1
	r.ledger.put(bobs, sale.StatusReserved)
	get := func(id sale.OrderID, user string) reply {
		return r.buyer(t, call{method: "GET", path: "/v1/orders/" + id.String() + "/events", header: []string{"X-User-ID", user}})
	}
	first, second := r.follow(t, o.ID), r.follow(t, o.ID)
	first.order(o.ID, "reserved")
	second.order(o.ID, "reserved")
	get(o.ID, "ann").check(t, 429, "rate_limited")
	c := r.dial(t)
	_, _ = io.WriteString(c, "GET /v1/orders/"+id.String()+"/events HTTP/1.1\r\nHost: a\r\nX-User-ID: bob\r\n\r\n")
	testenv.Eventually(t, func() bool { return r.g.openStreams() == 3 }, "bob follows")
	get(id, "bob").check(t, 503, "unavailable")
	_ = first.conn.Close()
	testenv.Eventually(t, func() bool { return r.g.openStreams() == 2 }, "the closed one is noticed")
	r.follow(t, o.ID).order(o.ID, "reserved")
	_, _ = c.Close(), second.conn.Close()
}

// Silence is broken by comments, so long streams outlive the time in which an answer
// has to be written.
func TestEventsHeartbeat(t *testing.T) {
	r := serve(t, func(c *Config) { quick(c); c.WriteTimeout = 60 * time.Millisecond })
	o := r.sold()
	f := r.follow(t, o.ID)
	f.order(o.ID, "reserved")
	began := time.Now()
	for beats := 0; beats < 10 || time.Since(began) < 5*r.g.cfg.WriteTimeout+slack; beats++ {
		if e, ok := f.block(); !ok || e.comment != ":\n" {
			t.Fatalf("%+v", e)
		}
	}
	r.ledger.put(o, sale.StatusExpired)
	f.order(o.ID, "expired")
}

// A stream ends when its time is over, and its client comes back.
func TestEventsLifetime(t *testing.T) {
	r := serve(t, func(c *Config) { quick(c); c.StreamLifetime = 100 * time.Millisecond })
	o := r.sold()
	f := r.follow(t, o.ID)
	f.order(o.ID, "reserved")
	f.ended()
	r.follow(t, o.ID, "Last-Event-ID: "+o.ID.String()+"/reserved").ended()
}

// A drain ends streams, tells their clients when to come back, and does not wait for
// anything else of theirs.
func TestEventsDrain(t *testing.T) {
	r := serve(t, nil)
	o := r.sold()
	claim := &sale.Claim{ID: sale.DeriveOrderID("phone", "ann", "other"), SKU: "phone", User: "ann", Quantity: 1}
	_, _ = r.queue.Join(claim, true)
	a, b := r.follow(t, o.ID), r.follow(t, claim.ID)
	a.order(o.ID, "reserved")
	b.next()
	r.cancel()
	for _, f := range []*follower{a, b} {
		if ms, err := strconv.Atoi(f.ended()); err != nil || ms < comeBackFirst || ms > comeBackLast {
			t.Errorf("come back after %d ms, %v", ms, err)
		}
	}
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Who cannot read a stream without end gets what is known now.
func TestEventsInOnePiece(t *testing.T) {
	r := serve(t, nil)
	o := r.sold()
	claim := &sale.Claim{ID: sale.DeriveOrderID("phone", "ann", "other"), SKU: "phone", User: "ann", Quantity: 1}
	_, _ = r.queue.Join(claim, true)
	get := "GET /v1/orders/%s/events HTTP/1.0\r\nHost: a\r\nX-User-ID: ann\r\n\r\n"
	if status, body, _ := r.send(t, fmt.Sprintf(get, o.ID)); status != 200 || !strings.Contains(body, "event: order\n") || !strings.HasPrefix(body, "retry: ") {
		t.Errorf("order: %d %q", status, body)
	}
	if status, body, _ := r.send(t, fmt.Sprintf(get, claim.ID)); status != 200 || !strings.Contains(body, "event: position\ndata: {\"position\":0,") {
		t.Errorf("place: %d %q", status, body)
	}
	head, err := http.NewRequestWithContext(t.Context(), http.MethodHead, r.url("/v1/orders/"+o.ID.String()+"/events"), nil)
	if err != nil {
		t.Fatal(err)
	}
	head.Header.Set("X-User-ID", "ann")
	resp, err := http.DefaultClient.Do(head)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %v", err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if n := r.g.openStreams(); n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

// deadConn counts deadlines.
type deadConn struct {
	net.Conn
	deadlines []time.Time
}

func (c *deadConn) SetWriteDeadline(t time.Time) error {
	c.deadlines = append(c.deadlines, t)
	return nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Each write has its own deadline, and the first that fails ends the stream.
func TestEventsWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		o := w.sold()
		e, a := w.join(&standing{order: o})
		if a != answerOK {
			t.Fatal(a)
		}
		c := &deadConn{}
		e.conn = c
		writes := 0
		n, err := e.WriteTo(writerFunc(func(b []byte) (int, error) {
			if want := time.Now().Add(w.g.cfg.WriteTimeout); c.deadlines[writes] != want {
				t.Errorf("write %d: the deadline is %v, want %v", writes, c.deadlines[writes], want)
			}
			if writes++; writes == 4 {
				return 0, errElse
			}
			return len(b), nil
		}))
		if !errors.Is(err, errElse) || n == 0 || len(c.deadlines) != 4 {
			t.Errorf("%d bytes, %v, %d deadlines", n, err, len(c.deadlines))
		}
		_, _ = e.Close(), e.Close()
		if s := w.g.streams; s.open != 0 || len(s.orders)+len(s.round)+len(s.users) != 0 {
			t.Errorf("something is left: %+v", s)
		}
	})
}

// A stream is little beside its connection.
func TestMemoryOfStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections; run without -short")
	}
	const clients, most = 4000, 20 << 10
	r := serve(t, func(c *Config) { c.MaxStreamsPerUser = clients })
	var ids []sale.OrderID
	for i := range clients {
		c := annsClaim()
		c.ID = sale.DeriveOrderID("phone", "ann", fmt.Sprint(i))
		ids = append(ids, c.ID)
		r.ledger.put(sale.NewOrder(c, testSKU("phone"), 0, testNow), sale.StatusReserved)
	}
	in := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before, goroutines := in(), runtime.NumGoroutine()
	for _, id := range ids {
		c, err := net.Dial("tcp", r.g.BuyersAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET /v1/orders/%s/events HTTP/1.1\r\nHost: a\r\nX-User-ID: ann\r\n\r\n", id); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, func() bool { return r.g.openStreams() == clients }, "all are followed")
	each := (in() - before) / clients
	t.Logf("%d bytes and %.2f goroutines per stream, its client included", each, float64(runtime.NumGoroutine()-goroutines)/clients)
	if each > most && !underRace {
		t.Errorf("%d bytes per stream, want at most %d", each, most)
	}
	if n := runtime.NumGoroutine() - goroutines; n > clients+clients/100 {
		t.Errorf("%d goroutines for %d streams", n, clients)
	}
}
