package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

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
	r.shield.keep(sale.Rejected(claim, sale.SoldOut))
	r.queue.forget(claim.ID)
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
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, nil)
		r.g.streams.most, r.g.streams.mostPerUser = 3, 2
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
		synctest.Wait()
		if n := r.g.openStreams(); n != 3 {
			t.Fatalf("%d streams are open, want 3", n)
		}
		get(id, "bob").check(t, 503, "unavailable")
		_ = first.conn.Close()
		time.Sleep(heartbeat)
		synctest.Wait()
		if n := r.g.openStreams(); n >= 3 {
			t.Errorf("%d streams are open: the closed one was not noticed", n)
		}
		r.follow(t, o.ID).order(o.ID, "reserved")
	})
}

// Silence is broken by comments, so long streams outlive the time in which an answer
// has to be written.
func TestEventsHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, nil)
		o := r.sold()
		f := r.follow(t, o.ID)
		f.order(o.ID, "reserved")
		for range 10 {
			began := time.Now()
			if e, ok := f.block(); !ok || e.comment != ":\n" || time.Since(began) != heartbeat {
				t.Fatalf("%+v after %v", e, time.Since(began))
			}
		}
		r.ledger.put(o, sale.StatusExpired)
		f.order(o.ID, "expired")
	})
}

// A client that does not read is cut off when a write has waited for long enough.
func TestEventsUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, nil)
		f := r.follow(t, r.sold().ID)
		synctest.Wait()
		began := time.Now()
		testenv.Eventually(t, func() bool { return r.g.openStreams() == 0 }, "the stream is given up")
		if took := time.Since(began); took > testWriteTimeout+heartbeat+slack {
			t.Errorf("given up after %v", took)
		}
		_ = f.conn.Close()
	})
}

// A stream ends when its time is over, and its client comes back.
func TestEventsLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, nil)
		o := r.sold()
		f := r.follow(t, o.ID)
		f.order(o.ID, "reserved")
		began := time.Now()
		f.ended()
		most := streamLifetime + heartbeat
		if took := time.Since(began); took < streamLifetime*7/8 || took > most {
			t.Errorf("ended after %v, want at most %v", took, most)
		}
		r.follow(t, o.ID, "Last-Event-ID: "+o.ID.String()+"/reserved").ended()
	})
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
			if want := time.Now().Add(testWriteTimeout); c.deadlines[writes] != want {
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
