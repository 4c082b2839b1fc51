package gateway

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
)

// running serves a world until the test ends, or stop is called.
type running struct {
	*world
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	buyersNet, operatorsNet *pipes // nil: real sockets
}

// serve serves over real sockets.
func serve(t *testing.T, change func(*Config)) *running {
	t.Helper()
	r := &running{world: newWorld(t, change)}
	if err := r.g.listen(); err != nil {
		t.Fatal(err)
	}
	r.run(t)
	return r
}

// servePipes serves inside a synctest bubble, whose clock moves when all of it waits, so
// that the product's own times can be kept to and cost none.
func servePipes(t *testing.T, change func(*Config)) *running {
	t.Helper()
	r := &running{world: newWorld(t, change), buyersNet: newPipes(), operatorsNet: newPipes()}
	r.g.buyers.ln.Store(newCounted(r.buyersNet, r.g.buyers.bounds, nil, r.g.metrics.refused, r.g.log))
	r.g.operators.ln.Store(newCounted(r.operatorsNet, r.g.operators.bounds, nil, r.g.metrics.refused, r.g.log))
	// fasthttp's cleaner sleeps for ten seconds before it sees that its server is gone.
	t.Cleanup(func() { time.Sleep(11 * time.Second) })
	r.run(t)
	synctest.Wait()
	return r
}

func (r *running) run(t *testing.T) {
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	r.done = make(chan struct{})
	go func() { // joined by stop
		defer close(r.done)
		r.err = r.g.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
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
	dial, patience := func() (net.Conn, error) { return net.Dial("tcp", r.g.BuyersAddr().String()) }, testenv.Patience
	if r.buyersNet != nil {
		dial, patience = r.buyersNet.dial, time.Hour // of the bubble's clock
	}
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
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

// pipes is a listener without a network: its connections are those of net.Pipe, which a
// synctest bubble can wait for.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept waits for dial.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the listener; connections stay.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr is one that nobody listens on.
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipes) dial() (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- pipeEnd{far, p.Addr()}:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// pipeEnd says that it comes from a trusted address.
type pipeEnd struct {
	net.Conn
	peer net.Addr
}

func (e pipeEnd) RemoteAddr() net.Addr { return e.peer }
