package gateway

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"
)

// auditTimeout bounds an audit that an operator asks for.
const auditTimeout = 2 * time.Minute

// runAudit is GET /v1/audit.
func (g *Gateway) runAudit(c *fiber.Ctx) error {
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	defer cancel()
	report, err := g.deps.Auditor.Audit(ctx)
	if err != nil {
		return g.refuseError(c, err)
	}
	return g.json(c, answerOK, report)
}
