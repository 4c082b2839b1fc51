package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counted is a listener that refuses connections beyond a number, in all or of one
// address, with an answer that says so, before they cost a goroutine. A failure to accept
// that passes, such as that there is no file descriptor left, is waited out: to the HTTP
// server any error of a listener is the end.
type counted struct {
	net.Listener
	bounds  bounds
	open    atomic.Int64
	busy    []byte
	refused prometheus.Counter
	log     *slog.Logger
	closed  chan struct{}
	once    sync.Once // closes closed

	mu     sync.Mutex
	silent map[*conn]struct{} // those that have sent nothing yet
	of     map[netip.Addr]int // open connections, where eachMost is set
}

// bounds are how many connections there may be.
type bounds struct {
	most int
	// eachMost bounds those of one address; 0 does not. Trusted proxies, which have those of
	// everybody, are exempt.
	eachMost int
	exempt   proxies
}

// newCounted refuses with busy, a problem in JSON, or without a word where that is nil: with
// TLS that would cost a handshake.
func newCounted(ln net.Listener, b bounds, busy []byte, refused prometheus.Counter, log *slog.Logger) *counted {
	if busy != nil {
		busy = append(fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: %s\r\nContent-Length: %d\r\nRetry-After: %d\r\nConnection: close\r\n\r\n",
			mimeProblem, len(busy), answers[unavailable].retry), busy...)
	}
	return &counted{
		Listener: ln, bounds: b, busy: busy, refused: refused, log: log,
		closed: make(chan struct{}), silent: make(map[*conn]struct{}), of: make(map[netip.Addr]int),
	}
}

// The pauses after a failure to accept: short, because connections wait meanwhile, and not so
// short that a process without descriptors also lacks a processor.
const (
	acceptPause    = 5 * time.Millisecond
	acceptPauseMax = 500 * time.Millisecond
)

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.next()
	if err != nil {
		return nil, err // and no nil *conn in an interface
	}
	return c, nil
}

// next is Accept by its type.
func (l *counted) next() (*conn, error) {
	for pause := acceptPause; ; {
		c, err := l.Listener.Accept()
		if err != nil {
			if !passes(err) {
				return nil, err
			}
			l.log.Warn("connections cannot be accepted; trying again", "error", err, "in", pause)
			select {
			case <-l.closed:
				return nil, err
			case <-time.After(pause):
			}
			pause = min(2*pause, acceptPauseMax)
			continue
		}
		pause = acceptPause
		if open := l.admit(c); open != nil {
			return open, nil
		}
		l.refused.Inc()
		l.turnAway(c)
	}
}

// turnAway says why, where the client would understand it, and closes.
func (l *counted) turnAway(c net.Conn) {
	if len(l.busy) > 0 {
		// The socket's buffer is empty, so this does not wait; the deadline is only for
		// what is no socket.
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(l.busy)
	}
	_ = c.Close()
}

// passes reports whether a failure to accept is none of the listener's: the process or the
// machine lacks something, or the client was gone before.
func passes(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPROTO, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit counts the connection, or returns nil where there are too many.
func (l *counted) admit(c net.Conn) *conn {
	if l.open.Add(1) > int64(l.bounds.most) {
		l.open.Add(-1)
		return nil
	}
	open := &conn{Conn: c, owner: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bounds.eachMost > 0 {
		from, known := addrOf(c.RemoteAddr())
		if known && !l.bounds.exempt.contain(from) {
			if l.of[from] >= l.bounds.eachMost {
				l.open.Add(-1)
				return nil
			}
			l.of[from]++
			open.from = from
		}
	}
	l.silent[open] = struct{}{}
	return open
}

// left forgets a connection that was closed.
func (l *counted) left(c *conn) {
	l.open.Add(-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.silent, c)
	if c.from.IsValid() {
		if l.of[c.from]--; l.of[c.from] == 0 {
			delete(l.of, c.from)
		}
	}
}

// Close also ends a wait of Accept.
func (l *counted) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
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
