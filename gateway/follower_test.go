package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

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

func annsClaim() *sale.Claim {
	return &sale.Claim{ID: sale.DeriveOrderID("phone", "ann", "k"), SKU: "phone", User: "ann", Quantity: 2}
}
