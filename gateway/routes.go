package gateway

import (
	"net/http"
	"net/http/pprof"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// route is one line of a listener's table.
type route struct {
	method  string
	path    string
	handler fiber.Handler
	open    bool // operators' listener: needs no key
}

func (g *Gateway) buyerRoutes() []route {
	return []route{
		{method: fiber.MethodPost, path: "/v1/skus/:sku/orders", handler: g.purchase},
		{method: fiber.MethodGet, path: "/v1/orders/:id", handler: g.order},
		{method: fiber.MethodDelete, path: "/v1/orders/:id", handler: g.cancel},
		{method: fiber.MethodGet, path: "/v1/orders/:id/events", handler: g.events},
		{method: fiber.MethodGet, path: "/v1/skus/:sku", handler: g.offer},
		{method: fiber.MethodPost, path: "/v1/payments", handler: g.payment},
		{method: fiber.MethodGet, path: "/livez", handler: g.livez},
		{method: fiber.MethodGet, path: "/readyz", handler: g.readyz},
		{method: fiber.MethodGet, path: "/problems/:code", handler: g.problemPage},
		{method: fiber.MethodGet, path: "/openapi.yaml", handler: g.document(buyersAPI)},
	}
}

func (g *Gateway) operatorRoutes() []route {
	routes := []route{
		{method: fiber.MethodGet, path: "/livez", handler: g.livez, open: true},
		{method: fiber.MethodGet, path: "/readyz", handler: g.readyzDetails, open: true},
		{method: fiber.MethodGet, path: "/problems/:code", handler: g.problemPage},
		{method: fiber.MethodGet, path: "/openapi.yaml", handler: g.document(operatorsAPI)},
		{method: fiber.MethodGet, path: "/v1/skus", handler: g.listSKUs},
		{method: fiber.MethodGet, path: "/v1/skus/:sku", handler: g.getSKU},
		{method: fiber.MethodPut, path: "/v1/skus/:sku", handler: g.putSKU},
		{method: fiber.MethodPatch, path: "/v1/skus/:sku", handler: g.patchSKU},
		{method: fiber.MethodPost, path: "/v1/skus/:sku/stock", handler: g.addStock},
		{method: fiber.MethodGet, path: "/v1/audit-log", handler: g.listLog},
		{method: fiber.MethodGet, path: "/v1/breakers", handler: g.listBreakers},
		{method: fiber.MethodPost, path: "/v1/breakers/:name", handler: g.forceBreaker},
	}
	if g.deps.Auditor != nil {
		routes = append(routes, route{method: fiber.MethodGet, path: "/v1/audit", handler: g.runAudit})
	}
	if g.cfg.Gatherer != nil {
		show := adaptor.HTTPHandler(promhttp.HandlerFor(g.cfg.Gatherer, promhttp.HandlerOpts{}))
		routes = append(routes, route{method: fiber.MethodGet, path: "/metrics", handler: show, open: g.cfg.OpenMetrics})
	}
	for path, handler := range map[string]http.HandlerFunc{
		"/debug/pprof/":        pprof.Index,
		"/debug/pprof/cmdline": pprof.Cmdline,
		"/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol":  pprof.Symbol,
		"/debug/pprof/trace":   pprof.Trace,
	} {
		routes = append(routes, route{method: fiber.MethodGet, path: path, handler: adaptor.HTTPHandlerFunc(handler)})
	}
	index := adaptor.HTTPHandlerFunc(pprof.Index)
	return append(routes,
		route{method: fiber.MethodGet, path: "/debug/pprof", handler: index},
		route{method: fiber.MethodGet, path: "/debug/pprof/:profile", handler: index},
	)
}
