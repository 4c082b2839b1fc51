package gateway

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// A buyer who waits costs 16 KiB at most, also on a connection that has bought before.
// The client's end and the fakes, which live in this process too, are worth another.
func TestMemoryOfWaitingConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections; run without -short")
	}
	const buyers, most = 4000, 17 << 10
	r := serve(t, func(c *Config) { c.Wait, c.MaxWait, c.ShutdownTimeout = time.Hour, time.Hour, 2*time.Hour })
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

// A stream is little beside its connection.
func TestMemoryOfStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections; run without -short")
	}
	const clients, most = 4000, 20 << 10
	r := serve(t, nil)
	r.g.streams.mostPerUser = clients
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
