package gateway

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"flashgate/sale"
)

// instantQueue reserves at once and keeps nothing.
type instantQueue struct {
	fakeQueue
	order sale.Order
}

func (q *instantQueue) Join(c *sale.Claim, _ bool) (*sale.Ticket, error) {
	o := q.order
	o.ID, o.User = c.ID, c.User
	t := sale.NewTicket(c, 1, &q.taken)
	t.Resolve(sale.Verdict{Outcome: sale.Reserved, Order: &o})
	return t, nil
}

// bareHandler is the yardstick: what a Fiber tutorial would write.
func bareHandler() fasthttp.RequestHandler {
	type order struct {
		Quantity int64  `json:"quantity"`
		Coupon   string `json:"coupon"`
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	var n atomic.Int64
	app.Post("/v1/skus/:sku/orders", func(c *fiber.Ctx) error {
		var o order
		if err := c.BodyParser(&o); err != nil {
			return c.SendStatus(fiber.StatusBadRequest)
		}
		return c.Status(fiber.StatusCreated).JSON(fiber.Map{
			"order_id": fmt.Sprintf("%026d", n.Add(1)), "sku": c.Params("sku"), "user_id": c.Get("X-User-ID"), "quantity": o.Quantity,
			"unit_price": 1999, "amount": 1999, "currency": "EUR", "status": "reserved",
			"reserved_at": "2023-11-14T22:13:20.000Z", "pay_by": "2023-11-14T22:28:20.000Z",
		})
	})
	return app.Handler()
}

// gatewayHandler is ours, with a queue that answers at once.
func gatewayHandler(tb testing.TB, soldOut bool, change func(*Config)) fasthttp.RequestHandler {
	w := newWorld(tb, nil)
	claim := &sale.Claim{SKU: "phone", Quantity: 1}
	deps := w.deps()
	deps.Queue = &instantQueue{order: sale.NewOrder(claim, testSKU("phone"), 0, testNow)}
	w.soldOut.all.Store(soldOut)
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg, deps)
	if err != nil {
		tb.Fatal(err)
	}
	return g.buyers.app.Server().Handler
}

func purchaseRequest(key string) *fasthttp.RequestCtx {
	var req fasthttp.Request
	req.Header.SetMethod(fiber.MethodPost)
	req.SetRequestURI("http://localhost/v1/skus/phone/orders")
	req.Header.SetContentType("application/json")
	req.Header.Set("X-User-ID", "buyer-4711")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	req.SetBodyString(`{"quantity":1}`)
	ctx := &fasthttp.RequestCtx{}
	ctx.Init(&req, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, nil)
	return ctx
}

// BenchmarkHandler calls the handlers without sockets: what the code itself costs.
func BenchmarkHandler(b *testing.B) {
	for _, x := range []struct {
		name    string
		handler fasthttp.RequestHandler
		key     string
		want    int
	}{
		{"bare", bareHandler(), "", 201},
		{"reserved", gatewayHandler(b, false, nil), "", 201},
		{"reserved/key", gatewayHandler(b, false, nil), "key-1", 201},
		{"reserved/limits", gatewayHandler(b, false, func(c *Config) {
			l := Limit{Rate: 1e12, Burst: 1e9}
			c.Limits.User, c.Limits.IP, c.Limits.SKU, c.Limits.Global = l, l, l, l
		}), "", 201},
		{"soldout", gatewayHandler(b, true, nil), "", 409},
	} {
		b.Run(x.name, func(b *testing.B) {
			ctx := purchaseRequest(x.key)
			b.ReportAllocs()
			for b.Loop() {
				ctx.Response.Reset()
				x.handler(ctx)
			}
			if got := ctx.Response.StatusCode(); got != x.want {
				b.Fatalf("status %d, want %d: %s", got, x.want, ctx.Response.Body())
			}
		})
	}
}

// BenchmarkServer goes over real sockets with many connections, client included.
func BenchmarkServer(b *testing.B) {
	for _, x := range []struct {
		name  string
		serve func(b *testing.B) (addr string, stop func())
	}{
		{"bare", serveBare},
		{"reserved", func(b *testing.B) (string, func()) { return serveGateway(b, false) }},
		{"soldout", func(b *testing.B) (string, func()) { return serveGateway(b, true) }},
	} {
		b.Run(x.name, func(b *testing.B) {
			addr, stop := x.serve(b)
			defer stop()
			client := &fasthttp.Client{MaxConnsPerHost: 1024}
			defer client.CloseIdleConnections()
			b.SetParallelism(32)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
				purchaseRequest("").Request.CopyTo(req)
				req.SetHost(addr)
				req.URI().SetHost(addr)
				for pb.Next() {
					if err := client.Do(req, resp); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func serveBare(b *testing.B) (string, func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := &fasthttp.Server{Handler: bareHandler(), NoDefaultServerHeader: true}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }() // joined by stop
	return ln.Addr().String(), func() { _ = s.Shutdown(); <-done }
}

func serveGateway(b *testing.B, soldOut bool) (string, func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	w := newWorld(b, nil)
	s := w.g.buyers.app.Server()
	s.Handler = gatewayHandler(b, soldOut, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(newCounted(ln, bounds{most: 4096}, nil, w.g.metrics.refused, w.g.log))
	}() // joined by stop
	return ln.Addr().String(), func() { _ = s.Shutdown(); <-done }
}

// BenchmarkParseWant is the reader of plain bodies against the one that reads all of them.
func BenchmarkParseWant(b *testing.B) {
	body := []byte(`{"quantity":1,"coupon":"SPRING"}`)
	for name, parse := range map[string]func([]byte) (want, error){"plain": parseWant, "strictly": parseWantStrictly} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parse(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCallContext is the context that calls share against one for each.
func BenchmarkCallContext(b *testing.B) {
	b.Run("shared", func(b *testing.B) {
		d := newDeadlines(callTimeout)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = d.context()
			}
		})
	})
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_, cancel := context.WithTimeout(context.Background(), callTimeout)
				cancel()
			}
		})
	})
}

// BenchmarkConnDeadlines is what the HTTP server does with a connection's deadlines for
// one request, over a socket with and without conn's laziness.
func BenchmarkConnDeadlines(b *testing.B) {
	for _, lazy := range []bool{true, false} {
		b.Run(fmt.Sprintf("lazy=%t", lazy), func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			if lazy {
				c = &conn{Conn: c, owner: &counted{}}
			}
			b.ReportAllocs()
			for b.Loop() {
				now := time.Now()
				_ = c.SetReadDeadline(now.Add(75 * time.Second))
				_ = c.SetReadDeadline(now.Add(10 * time.Second))
				_ = c.SetWriteDeadline(now.Add(testWriteTimeout))
			}
		})
	}
}

// BenchmarkPlainHead is what looking at a usual head costs.
func BenchmarkPlainHead(b *testing.B) {
	raw := []byte("Host: shop.example\r\nAuthorization: Bearer " + strings.Repeat("x", 200) + "\r\nIdempotency-Key: 7f3e-4711\r\nContent-Type: application/json\r\nContent-Length: 14\r\nUser-Agent: something/1.0\r\nAccept: */*\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		if !plainHead("HTTP/1.1", raw, false) {
			b.Fatal("refused")
		}
	}
}
