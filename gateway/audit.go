package gateway

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

const (
	// auditTimeout bounds an audit that an operator asks for.
	auditTimeout = 2 * time.Minute
	// callerLook is how often it is looked whether somebody still waits for the answer.
	callerLook = 500 * time.Millisecond
)

// runAudit is GET /v1/audit. It reads everything there is, or, with ?since=, what was done
// since the position of a report before, and ends when nobody waits for it.
func (g *Gateway) runAudit(c *fiber.Ctx) error {
	var since sale.AuditPosition
	if s := c.Query("since"); s != "" {
		var err error
		if since, err = sale.ParseAuditPosition(s); err != nil {
			return g.refuseWith(c, &problem{answer: invalidRequest, detail: "since must be the position of a report before"})
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	var watch sync.WaitGroup
	conn := c.Context().Conn()
	watch.Go(func() { watchCaller(ctx, conn, cancel) })
	defer watch.Wait()
	defer cancel()
	report, err := g.deps.Auditor.Audit(ctx, since)
	if err != nil {
		return g.refuseError(c, err)
	}
	return g.json(c, answerOK, report)
}

// watchCaller calls leave when the other end closes the connection, unless ctx ends before.
func watchCaller(ctx context.Context, conn net.Conn, leave func()) {
	tick := time.NewTicker(callerLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if hasLeft(conn) {
				leave()
				return
			}
		}
	}
}
