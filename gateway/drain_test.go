package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// A drain answers who waits, refuses who comes, and leaves the operators' listener up
// until the buyers' is closed.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, func(c *Config) { c.DrainDelay = time.Second })
		r.ready.ready.Store(true)
		waits := r.dial(t)
		if _, err := io.WriteString(waits, post+"Idempotency-Key: k\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		ticket := r.queue.Find(sale.DeriveOrderID("phone", "ann", "k"))
		kept := r.dial(t)
		if status := ask(t, kept, "/readyz"); status != 200 {
			t.Fatalf("readyz before: %d", status)
		}
		r.cancel()
		synctest.Wait()
		if status := ask(t, kept, "/readyz"); status != 503 {
			t.Errorf("readyz while draining: %d", status)
		}
		began := time.Now()
		<-r.buyersNet.closed
		if took := time.Since(began); took != time.Second {
			t.Errorf("the listener closed after %v, want the drain's delay", took)
		}
		operators, err := r.operatorsNet.dial()
		if err != nil {
			t.Fatalf("operators while buyers drain: %v", err)
		}
		if status := ask(t, operators, "/livez"); status != 200 {
			t.Errorf("operators while buyers drain: %d", status)
		}
		_ = operators.Close()
		v, _ := reserved(ticket.Claim)
		ticket.Resolve(v)
		resp, err := http.ReadResponse(bufio.NewReader(waits), nil)
		if err != nil || resp.StatusCode != 201 {
			t.Fatalf("who waited: %v", err)
		}
		_ = resp.Body.Close()
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// ask makes one request on a connection that stays open.
func ask(t *testing.T, c net.Conn, path string) (status int) {
	t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode == 503 && !resp.Close {
		t.Errorf("%s: %d, and the connection is kept", path, resp.StatusCode)
	}
	return resp.StatusCode
}

// Browsers and proxies open connections that they may never use. Nobody waits for those:
// they get a moment for a request that is on its way.
func TestDrainDoesNotWaitForSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, nil)
		hear(r.dial(t))
		late := r.dial(t)
		synctest.Wait()
		began := time.Now()
		r.cancel()
		time.Sleep(silence / 2)
		if status := ask(t, late, "/livez"); status != 200 {
			t.Errorf("a request that came in time: %d", status)
		}
		if err := r.stop(); err != nil || time.Since(began) > 2*silence {
			t.Errorf("ended after %v with %v", time.Since(began), err)
		}
	})
}

// A request that outlasts the deadline does not keep Run.
func TestDrainDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, func(c *Config) {
			c.Wait, c.MaxWait, c.ShutdownTimeout = 4*time.Second, 4*time.Second, 5*time.Second
		})
		c := r.dial(t)
		if _, err := io.WriteString(c, "POST /v1/skus"); err != nil { // and never the rest
			t.Fatal(err)
		}
		hear(c)
		synctest.Wait()
		r.cancel()
		<-r.done
		if r.err == nil || !strings.Contains(r.err.Error(), "in flight") {
			t.Errorf("Run: %v", r.err)
		}
		r.err = nil
		testenv.Eventually(t, func() bool { return r.g.buyers.ln.Load().open.Load() == 0 }, "the handler has ended")
	})
}

// hear reads what a client does not care for, which on a pipe has no buffer to go to.
func hear(c net.Conn) {
	go func() { _, _ = io.Copy(io.Discard, c) }() // ended by the connection's end
}
