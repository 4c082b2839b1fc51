package gateway

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// listener is one of the two HTTP servers.
type listener struct {
	name   string
	addr   string
	bounds bounds
	tls    *certificates // nil: none
	app    *fiber.App
	ln     atomic.Pointer[counted] // nil until listen
}

// operatorConnections bounds the operators' listener: dashboards and scrapers.
const operatorConnections = 1024

// newListener builds a server over its table of routes. There is no middleware: what
// every request needs is done by the one wrapper below.
func (g *Gateway) newListener(name, addr string, b bounds, files TLS, local bool, routes []route) (*listener, error) {
	certs, err := newCertificates(files, g.log)
	if err != nil {
		return nil, fmt.Errorf("gateway: %s: TLS: %w", name, err)
	}
	app := fiber.New(fiber.Config{
		DisableStartupMessage:        true,
		CaseSensitive:                true,
		StrictRouting:                true,
		BodyLimit:                    g.cfg.BodyLimit,
		ReadBufferSize:               g.cfg.HeaderLimit,
		WriteBufferSize:              1 << 10, // an order and its head
		ReadTimeout:                  g.cfg.ReadTimeout,
		WriteTimeout:                 g.cfg.WriteTimeout,
		IdleTimeout:                  g.cfg.IdleTimeout,
		DisablePreParseMultipartForm: true,
		ErrorHandler:                 g.onError,
	})
	for _, r := range routes {
		handler := r.handler
		if name == "operators" && !r.open {
			handler = g.operatorsOnly(r.method, handler)
		}
		seconds := g.metrics.seconds.WithLabelValues(r.method + " " + r.path)
		timed := func(c *fiber.Ctx) error {
			err := handler(c)
			seconds.Observe(time.Since(c.Context().Time()).Seconds())
			return err
		}
		app.Add(r.method, r.path, timed)
		if r.method == fiber.MethodGet {
			app.Head(r.path, timed)
		}
	}
	server := app.Server()
	// Connections are counted where they are accepted; this only must not be lower.
	server.Concurrency = b.most + 1
	server.CloseOnShutdown = true
	server.MaxRequestsPerConn = g.cfg.RequestsEach
	server.HeaderReceived = inspect
	server.ExpectHandler = g.expected(name == "operators")
	server.Handler = g.guard(app.Handler(), files.ClientCA != "", local)
	return &listener{name: name, addr: addr, bounds: b, tls: certs, app: app}, nil
}

// guard keeps a fault in one handler from ending the process with everybody's requests
// in it, and refuses what the HTTP library lets through and should not; where certificates
// are asked for, who has none; and, where local, what names another machine.
func (g *Gateway) guard(next fasthttp.RequestHandler, certificates, local bool) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		defer func() {
			if fault := recover(); fault != nil {
				g.log.Error("a handler failed", "path", string(ctx.Path()), "fault", fault, "stack", string(debug.Stack()))
				ctx.Response.Reset()
				ctx.Response.SetConnectionClose()
				g.answerRaw(ctx, internalError)
			}
		}()
		if !knownMethod(ctx.Method()) || hasTrailer(&ctx.Request.Header) {
			ctx.Response.SetConnectionClose()
			g.answerRaw(ctx, malformed)
			return
		}
		if local && !namesThisMachine(string(ctx.Host())) {
			ctx.Response.SetConnectionClose()
			g.answerRaw(ctx, misdirected)
			return
		}
		if certificates && !forHealth(ctx.Path()) && !certified(ctx.Conn()) {
			ctx.Response.SetConnectionClose()
			g.answerRaw(ctx, unauthenticated)
			return
		}
		next(ctx)
		// A client that keeps its connection would send its next request into the end.
		if g.draining.Load() {
			ctx.Response.SetConnectionClose()
		}
	}
}

// forHealth reports whether a path is one that health checks ask, which have no client
// certificate.
func forHealth(path []byte) bool { return string(path) == "/livez" || string(path) == "/readyz" }

// answerRaw answers with a row of the table where there is no Fiber context.
func (g *Gateway) answerRaw(ctx *fasthttp.RequestCtx, a answer) {
	g.begin(&ctx.Response, a)
	ctx.Response.Header.SetContentType(mimeProblem)
	ctx.Response.SetBodyRaw(g.problems[a])
}

func knownMethod(m []byte) bool {
	switch string(m) {
	case fiber.MethodPost, fiber.MethodGet, fiber.MethodHead, fiber.MethodPut, fiber.MethodPatch,
		fiber.MethodDelete, fiber.MethodOptions, fiber.MethodConnect, fiber.MethodTrace:
		return true
	}
	return false
}

// listen binds the address; calling it again does nothing.
func (l *listener) listen(g *Gateway) error {
	if l.ln.Load() != nil {
		return nil
	}
	ln, err := net.Listen("tcp", l.addr)
	if err != nil {
		return fmt.Errorf("gateway: %s: %w", l.name, err)
	}
	var busy []byte
	if l.tls == nil {
		busy = (&problem{answer: unavailable}).render(nil)
	}
	l.ln.Store(newCounted(ln, l.bounds, busy, g.metrics.refused, g.log))
	return nil
}

// serve blocks until the listener is closed.
func (l *listener) serve() error {
	if err := l.app.Listener(l.ln.Load().secure(l.tls)); err != nil {
		return fmt.Errorf("gateway: %s: %w", l.name, err)
	}
	return nil
}

// silence is how long a draining listener waits for a connection's first byte.
const silence = time.Second

// shutdown stops accepting and waits for requests in flight until ctx ends.
func (l *listener) shutdown(ctx context.Context) error {
	// Closed here too, for a server that has not begun to serve it yet.
	_ = l.ln.Load().Close()
	l.ln.Load().hurry(silence)
	if err := l.app.Server().ShutdownWithContext(ctx); err != nil && ctx.Err() != nil {
		return fmt.Errorf("gateway: %s: requests were still in flight at the deadline: %w", l.name, err)
	}
	return nil
}
