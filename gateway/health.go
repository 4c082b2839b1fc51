package gateway

import (
	_ "embed"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// The documents of the two listeners; a test compares them with the tables of routes.
var (
	//go:embed openapi.yaml
	buyersAPI []byte
	//go:embed openapi-operators.yaml
	operatorsAPI []byte
)

// document serves one of them.
func (g *Gateway) document(text []byte) fiber.Handler {
	return func(c *fiber.Ctx) error {
		resp := &c.Context().Response
		g.begin(resp, answerOK)
		resp.Header.SetContentType("application/yaml")
		resp.SetBodyRaw(text)
		return nil
	}
}

// livez says that the process answers.
func (g *Gateway) livez(c *fiber.Ctx) error {
	return g.json(c, answerOK, []byte(`{"status":"ok"}`))
}

// readyz says whether a load balancer should send buyers here: not before the ledger
// was proved once, and not while draining. A dependency that fails later changes
// nothing, since every gateway would leave the load balancer at once.
func (g *Gateway) readyz(c *fiber.Ctx) error {
	switch {
	case g.draining.Load():
		return g.refuse(c, shuttingDown)
	case !g.proved.Load() && !g.deps.Readiness.Ready():
		return g.refuse(c, unavailable)
	}
	g.proved.Store(true)
	return g.json(c, answerOK, []byte(`{"status":"ready"}`))
}

// readyzDetails is readyz for operators, with what is not as it should be though buyers
// can be served.
func (g *Gateway) readyzDetails(c *fiber.Ctx) error {
	details := g.deps.Readiness.Details()
	if err := g.readyz(c); err != nil || len(details) == 0 || c.Response().StatusCode() != fiber.StatusOK {
		return err
	}
	b := []byte(`{"status":"ready","details":[`)
	for i, d := range details {
		if i > 0 {
			b = append(b, ',')
		}
		b = sale.AppendString(b, d)
	}
	c.Context().Response.SetBodyRaw(append(b, "]}"...))
	return nil
}
