package gateway

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counted is a listener that refuses connections beyond a number, with an answer that
// says so, before they cost a goroutine.
type counted struct {
	net.Listener
	most    int64
	open    atomic.Int64
	busy    []byte
	refused prometheus.Counter

	mu     sync.Mutex
	silent map[*conn]struct{} // those that have sent nothing yet
}

func newCounted(ln net.Listener, most int, busy []byte, refused prometheus.Counter) *counted {
	head := fmt.Sprintf("HTTP/1.1 503 Service Unavailable\r\nContent-Type: %s\r\nContent-Length: %d\r\nRetry-After: %d\r\nConnection: close\r\n\r\n",
		mimeProblem, len(busy), answers[unavailable].retry)
	return &counted{Listener: ln, most: int64(most), busy: append([]byte(head), busy...), refused: refused, silent: make(map[*conn]struct{})}
}

func (l *counted) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most {
			open := &conn{Conn: c, owner: l}
			l.mu.Lock()
			l.silent[open] = struct{}{}
			l.mu.Unlock()
			return open, nil
		}
		l.open.Add(-1)
		l.refused.Inc()
		// The socket's buffer is empty, so this does not wait; the deadline is only for
		// what is no socket.
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(l.busy)
		_ = c.Close()
	}
}

// heard forgets a connection that is not silent any more, or closed.
func (l *counted) heard(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.silent, c)
}

// hurry gives connections that have sent nothing yet so long to do so. The HTTP server
// would wait for them as for requests.
func (l *counted) hurry(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.silent {
		c.hurried.Store(true)
		_ = c.Conn.SetReadDeadline(time.Now().Add(d))
	}
}

// conn makes deadlines cheap. The HTTP server moves three with every request, and each
// move costs a lock and a timer (BenchmarkConnDeadlines: 0.12 us a request instead of
// 0.67); but almost always the one that is armed comes no
// later than the one that is wanted. Such a move is only noted, and made when the
// armed one has passed. A deadline that is armed is at most slack too late.
//
// One goroutine at a time reads and one writes, which is what the server does.
type conn struct {
	net.Conn
	owner       *counted
	closed      atomic.Bool
	spoke       bool // the reader's
	hurried     atomic.Bool
	read, write deadline
}

// deadline is a wanted and an armed time; zero is none.
type deadline struct{ wanted, armed time.Time }

const slack = 500 * time.Millisecond

// move notes what is wanted and reports whether it must be armed now.
func (d *deadline) move(t time.Time) bool {
	d.wanted = t
	switch {
	case t.IsZero():
		return !d.armed.IsZero()
	case d.armed.IsZero(), d.armed.After(t.Add(slack)):
		return true
	}
	return false
}

// early reports whether err only means that the armed deadline has passed, and the wanted
// one has not.
func (d *deadline) early(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && d.armed.Before(d.wanted) && time.Now().Before(d.wanted)
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if n > 0 && !c.spoke {
			c.spoke = true
			c.owner.heard(c)
			if c.hurried.Swap(false) {
				_ = c.armRead() // the rest may take its time; an error comes with the next read
			}
		}
		if err == nil || n > 0 || c.hurried.Load() || !c.read.early(err) {
			return n, err
		}
		if err := c.armRead(); err != nil {
			return 0, err
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	written := 0
	for {
		n, err := c.Conn.Write(b[written:])
		written += n
		if err == nil || !c.write.early(err) {
			return written, err
		}
		if err := c.armWrite(); err != nil {
			return written, err
		}
	}
}

func (c *conn) SetReadDeadline(t time.Time) error {
	if c.read.move(t) {
		return c.armRead()
	}
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.write.move(t) {
		return c.armWrite()
	}
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) armRead() error {
	c.read.armed = c.read.wanted
	return c.Conn.SetReadDeadline(c.read.armed)
}

func (c *conn) armWrite() error {
	c.write.armed = c.write.wanted
	return c.Conn.SetWriteDeadline(c.write.armed)
}

func (c *conn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.owner.open.Add(-1)
		c.owner.heard(c)
	}
	return c.Conn.Close()
}
