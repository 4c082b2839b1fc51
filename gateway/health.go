package gateway

import (
	_ "embed"

	"github.com/gofiber/fiber/v2"
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
