package gateway

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

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
	from        netip.Addr // where its address is counted
	closed      atomic.Bool
	spoke       bool // the reader's
	secured     bool // TLS is spoken on it, which hears its client itself
	lingers     atomic.Bool
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
		if n > 0 && !c.secured {
			c.hear()
		}
		if err == nil || n > 0 || c.hurried.Load() || !c.read.early(err) {
			return n, err
		}
		if err := c.armRead(); err != nil {
			return 0, err
		}
	}
}

// hear notes that the client has begun to ask for something.
func (c *conn) hear() {
	if c.spoke {
		return
	}
	c.spoke = true
	c.owner.heard(c)
	if c.hurried.Swap(false) {
		_ = c.armRead() // the rest may take its time; an error comes with the next read
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

// linger has Close take what the client is still sending, as far as that is not much: bytes
// that nobody has read make the system reset the connection, and the client may lose the
// answer that tells it why (RFC 9112, section 9.6).
func (c *conn) linger() { c.lingers.Store(true) }

// The most that is taken, and for how long: a client that sends more does not listen.
const (
	lingerBytes = 4 << 20
	lingerTime  = 2 * time.Second
)

func (c *conn) drain() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
}

func (c *conn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		if c.lingers.Load() {
			c.drain()
		}
		c.owner.left(c)
	}
	return c.Conn.Close()
}
