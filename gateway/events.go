package gateway

import (
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"flashgate/sale"
)

const mimeEvents = "text/event-stream"

// The pauses, in milliseconds, after which clients are to come back: when a stream
// breaks or ends, and, drawn from between the two, when this gateway goes away, so
// that its clients do not all fall upon the others at once.
const (
	comeBack      = 2000
	comeBackFirst = 500
	comeBackLast  = 5000
)

const (
	// heartbeat is how often a silent stream says that it is alive, which is also how a
	// client that went away is noticed. Proxies commonly close what is silent for a minute.
	heartbeat = 15 * time.Second
	// streamLifetime is when a stream ends at the latest; clients come back by
	// themselves, and who may follow the order is looked at again.
	streamLifetime = 15 * time.Minute
)

// events is GET /v1/orders/{id}/events: a stream of server-sent events. While the claim
// is queued, "position" says where; "order", with the order's JSON, is its verdict and
// every later change. An order's event has the id <order id>/<status>: a client that
// comes back with it as Last-Event-ID is not told again what it knows. After paid and
// rejected nothing follows, so the stream ends, and a client that comes back after that
// hears 204, which tells browsers to stay away. A claim that was lost on its way, which
// a GET answers with 404, ends with "problem" and its JSON.
//
// Clients that cannot read a stream of unknown length (HTTP/1.0) get one of what is
// known now, and come back.
func (g *Gateway) events(c *fiber.Ctx) error {
	id, user, ok := g.asked(c)
	if !ok {
		return nil
	}
	ctx := c.Context()
	resp := &ctx.Response
	s, a := g.lookUp(id, user)
	if a != answerOK {
		return g.refuseOrder(c, a, &id)
	}
	e := &stream{g: g, told: strings.Clone(view(ctx.Request.Header.Peek("Last-Event-ID"))), at: nowhere - 1}
	ends := final(s.order.Status)
	if ends && e.told == string(appendEventID(nil, &s.order)) {
		g.begin(resp, answerNothing)
		return nil
	}
	if ends || ctx.IsHead() || !ctx.Request.Header.IsHTTP11() {
		e.open(resp)
		b := e.appendNews(appendRetry(nil, comeBack), &news{order: &s.order, position: position(s.ticket)})
		resp.SetBodyRaw(b)
		return nil
	}
	switch a := g.streams.join(e, &s, strings.Clone(user)); a {
	case answerOK:
	case rateLimited:
		return g.refuseWith(c, &problem{answer: a, detail: "You follow too many orders at once."})
	default:
		return g.refuseWith(c, &problem{answer: a, retry: 5, orderID: &id, detail: "No event stream can be had here for now. Come back, or ask for the order itself."})
	}
	if s.ticket != nil {
		// Somebody asks for the verdict besides whoever waits for it.
		s.ticket.Detach()
	}
	e.conn = ctx.Conn()
	e.open(resp)
	resp.SetBodyStream(e, -1)
	return nil
}

// final reports whether no change follows a status. A cancelled or expired order can
// still be paid by a payment that was on its way.
func final(s sale.Status) bool { return s == sale.StatusPaid || s == sale.StatusRejected }

// position is the place of a ticket, if there is one.
func position(t *sale.Ticket) int64 {
	if t == nil {
		return nowhere
	}
	return t.Position()
}

// stream is one client's event stream. The server's goroutine of its connection writes
// it; there is no other, and what it holds beside that connection is this.
type stream struct {
	g     *Gateway
	conn  net.Conn
	of    *watched
	until time.Time     // it ends then, so that its client is authenticated anew
	wake  chan struct{} // capacity 1: there is something new, or it is over

	told string // the id of the last event that the client knows
	at   int64  // the position it knows; less than nowhere = none
}

// news is what a stream may have to tell.
type news struct {
	order    *sale.Order
	position int64
	lost     bool // nothing is known of the claim any more
	closing  bool // this gateway is going away
}

// open writes the head of the response.
func (e *stream) open(resp *fasthttp.Response) {
	e.g.begin(resp, answerOK)
	resp.Header.SetContentType(mimeEvents)
	// Proxies are not to hold events back until they have more.
	resp.Header.Set("X-Accel-Buffering", "no")
}

// Read is there because the HTTP library asks for a reader; it calls WriteTo.
func (e *stream) Read([]byte) (int, error) { return 0, io.EOF }

// SupportsBodyWriteTo says that WriteTo is to be called.
func (e *stream) SupportsBodyWriteTo() bool { return true }

// Close is called by the HTTP library, also when the stream was never written.
func (e *stream) Close() error {
	e.g.streams.leave(e)
	return nil
}

// WriteTo writes the stream until there is nothing left to tell, this gateway goes
// away, its time is over, or the client is gone, which a failed write tells: at the
// latest that of the second heartbeat after.
func (e *stream) WriteTo(w io.Writer) (written int64, err error) {
	b := appendRetry(make([]byte, 0, 512), comeBack)
	beat := e.g.timers.get(heartbeat)
	defer e.g.timers.put(beat)
	for {
		n := e.g.streams.news(e)
		b = e.appendNews(b, &n)
		over := n.closing || n.lost || final(n.order.Status) || !time.Now().Before(e.until)
		if n.closing {
			b = appendRetry(b, comeBackFirst+rand.Int64N(comeBackLast-comeBackFirst))
		}
		if len(b) > 0 {
			if err := e.conn.SetWriteDeadline(time.Now().Add(e.g.cfg.WriteTimeout)); err != nil {
				return written, err
			}
			chunk, err := w.Write(b)
			written += int64(chunk)
			if err != nil {
				return written, err
			}
			beat.Reset(heartbeat)
		}
		if over {
			return written, nil
		}
		b = b[:0]
		select {
		case <-e.wake:
		case <-beat.C:
			b = append(b, ":\n\n"...)
		}
	}
}

// nudge makes WriteTo look again; it never blocks.
func (e *stream) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// appendNews appends the events of what the client does not know yet.
func (e *stream) appendNews(b []byte, n *news) []byte {
	switch {
	case n.lost:
		b = append(b, "event: problem\ndata: "...)
		b = append(b, e.g.problems[unknownOrder]...)
		return append(b, "\n\n"...)
	case n.order.Status == sale.StatusQueued:
		if n.position == e.at {
			return b
		}
		e.at = n.position
		var seconds int64
		var known bool
		if n.position != nowhere {
			seconds, known = e.g.eta(n.order.SKU, n.position)
		}
		b = append(b, "event: position\ndata: {"...)
		b = appendPlace(b, n.position, seconds, known)
		return append(b, "}\n\n"...)
	}
	var buf [64]byte
	id := appendEventID(buf[:0], n.order)
	if e.told == string(id) {
		return b
	}
	e.told = string(id)
	b = append(b, "id: "...)
	b = append(b, id...)
	b = append(b, "\nevent: order\ndata: "...)
	b = n.order.AppendJSON(b)
	return append(b, "\n\n"...)
}

// appendEventID appends the id of an order's event, which is also that of the results
// stream: <order id>/<status>. No order has a status twice.
func appendEventID(b []byte, o *sale.Order) []byte {
	b = append(o.ID.AppendTo(b), '/')
	return append(b, o.Status.String()...)
}

func appendRetry(b []byte, ms int64) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, ms, 10)
	return append(b, "\n\n"...)
}
