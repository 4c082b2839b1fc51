package gateway

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scripted is a listener that fails or accepts as it is told, one for each call.
type scripted struct {
	results chan any // net.Conn or error
	closed  chan struct{}
}

func (s *scripted) Accept() (net.Conn, error) {
	switch r := (<-s.results).(type) {
	case error:
		return nil, r
	case net.Conn:
		return r, nil
	}
	return nil, net.ErrClosed
}
func (s *scripted) Close() error   { close(s.closed); return nil }
func (s *scripted) Addr() net.Addr { return &net.TCPAddr{} }

// from is a connection of an address.
type from struct {
	net.Conn
	addr string
	said []byte
	shut bool
}

func (f *from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.addr))
}
func (f *from) Write(b []byte) (int, error)      { f.said = append(f.said, b...); return len(b), nil }
func (f *from) Close() error                     { f.shut = true; return nil }
func (f *from) SetWriteDeadline(time.Time) error { return nil }

func newScripted(b bounds) (*counted, *scripted) {
	s := &scripted{results: make(chan any, 100), closed: make(chan struct{})}
	return newCounted(s, b, []byte("busy"), prometheus.NewCounter(prometheus.CounterOpts{}), slog.New(slog.DiscardHandler)), s
}

// What passes is waited out, however often it comes; what is the listener's own ends it.
func TestAcceptErrorsThatPass(t *testing.T) {
	l, s := newScripted(bounds{most: 10})
	for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.ENOBUFS, syscall.ENOMEM} {
		s.results <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	s.results <- &from{addr: "1.2.3.4:5"}
	if c, err := l.Accept(); err != nil || c == nil {
		t.Errorf("%v, %v", c, err)
	}
	s.results <- io.ErrUnexpectedEOF
	if _, err := l.Accept(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	// Closing ends a wait.
	s.results <- syscall.EMFILE
	_ = l.Close()
	if _, err := l.Accept(); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("%v", err)
	}
}

func TestConnectionsOfOneAddress(t *testing.T) {
	trusted, err := parseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	l, s := newScripted(bounds{most: 7, eachMost: 2, exempt: trusted})
	var open []net.Conn
	accepted := func(addr string) bool {
		t.Helper()
		c, next := &from{addr: addr}, &from{addr: "10.9.9.9:1"}
		s.results <- c
		s.results <- next
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got.(*conn).Conn == net.Conn(next) {
			_ = got.Close()
			if !c.shut || len(c.said) == 0 {
				t.Errorf("%s was refused with %q", addr, c.said)
			}
			return false
		}
		<-s.results
		open = append(open, got)
		return true
	}
	for _, c := range []struct {
		addr string
		want bool
	}{
		{"1.1.1.1:1", true}, {"1.1.1.1:2", true}, {"1.1.1.1:3", false}, {"[::ffff:1.1.1.1]:4", false}, {"2.2.2.2:1", true},
		{"10.0.0.1:1", true}, {"10.0.0.1:2", true}, {"10.0.0.1:3", true},
	} {
		if got := accepted(c.addr); got != c.want {
			t.Errorf("%s: %v", c.addr, got)
		}
	}
	_ = open[0].Close()
	_ = open[0].Close() // once only
	if !accepted("1.1.1.1:5") || accepted("1.1.1.1:6") {
		t.Error("one has left, and one may come")
	}
	for _, c := range open {
		_ = c.Close()
	}
	if n := l.open.Load(); n != 0 || len(l.of) != 0 || len(l.silent) != 0 {
		t.Errorf("%d open, of %v, %d silent", n, l.of, len(l.silent))
	}
}

func TestConnectionsWithinFiles(t *testing.T) {
	for _, c := range []struct {
		wanted int
		files  uint64
		want   int
	}{{50_000, 0, 50_000}, {50_000, 1 << 20, 50_000}, {50_000, 20_000, 19_488}, {50_000, 1024, 512}, {50_000, 300, 150}, {100, 300, 100}, {100, 1, 1}} {
		if got := withinFiles(c.wanted, c.files); got != c.want {
			t.Errorf("%d wanted with %d files: %d, want %d", c.wanted, c.files, got, c.want)
		}
	}
}
