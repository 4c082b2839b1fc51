package gateway

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// Every context ends not before the timeout has passed since it was asked for, and not
// later than a tick after.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 800 * time.Millisecond
		d := newDeadlines(timeout)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); d.run(ctx) }() // joined below
		synctest.Wait()
		for range 50 {
			asked := time.Now()
			c := d.context()
			<-c.Done()
			if took := time.Since(asked); took < timeout || took > timeout+timeout/deadlineTicks {
				t.Fatalf("ended after %v", took)
			}
			time.Sleep(37 * time.Millisecond)
		}
		last := d.context()
		cancel()
		<-done
		if last.Err() == nil {
			t.Error("a context outlived its owner")
		}
	})
}

func TestTimersAreClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p timers
		for range 10 {
			a := p.get(time.Millisecond)
			time.Sleep(time.Second) // it has fired, and nobody read it
			p.put(a)
			began := time.Now()
			b := p.get(time.Minute)
			<-b.C
			if time.Since(began) != time.Minute {
				t.Fatal("a timer brought an old tick along")
			}
			p.put(b)
		}
	})
}

// pipeConn counts how often a deadline is really moved.
type pipeConn struct {
	net.Conn
	moves int
}

func (p *pipeConn) SetReadDeadline(t time.Time) error {
	p.moves++
	return p.Conn.SetReadDeadline(t)
}

func (p *pipeConn) SetWriteDeadline(t time.Time) error {
	p.moves++
	return p.Conn.SetWriteDeadline(t)
}

func TestConnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		p := &pipeConn{Conn: near}
		c := &conn{Conn: p, owner: &counted{}}
		defer c.Close()
		buf := make([]byte, 1)
		late := func(what string, want time.Duration, do func() error) {
			t.Helper()
			began := time.Now()
			err := do()
			if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took < want || took > want+slack {
				t.Errorf("%s: %v after %v, want about %v", what, err, took, want)
			}
		}
		read := func() error { _, err := c.Read(buf); return err }
		// The pattern of a server: wait idle for long, then read for a short time.
		for range 1000 {
			_ = c.SetReadDeadline(time.Now().Add(75 * time.Second))
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
			time.Sleep(time.Millisecond)
		}
		if p.moves > 3 {
			t.Errorf("%d moves for 1000 requests", p.moves)
		}
		late("reading", 10*time.Second-time.Millisecond, read)
		_ = c.SetReadDeadline(time.Now().Add(75 * time.Second))
		late("idle", 75*time.Second, read)
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		late("sooner", time.Second, read)
		_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
		late("writing", 30*time.Second, func() error { _, err := c.Write(buf); return err })
		_ = c.SetDeadline(time.Time{})
		go func() { // ended by the read below
			time.Sleep(time.Hour)
			_, _ = far.Write([]byte("x"))
		}()
		if _, err := c.Read(buf); err != nil {
			t.Errorf("no deadline: %v", err)
		}
	})
}
