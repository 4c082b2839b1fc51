package gateway

import (
	"errors"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// order is GET /v1/orders/{id}: the ledger's row, else the place of a claim that waits
// here, else what the shield remembers, else 404.
func (g *Gateway) order(c *fiber.Ctx) error {
	var f fields
	f.read(&c.Context().Request.Header)
	user, admitted := g.admit(c, &f, "")
	if !admitted {
		return nil
	}
	id, err := sale.ParseOrderID(c.Params("id"))
	if err != nil {
		return g.refuse(c, unknownOrder)
	}
	c.Context().Response.Header.SetCanonical(hdrCacheControl, valNoStore)
	// The ticket is looked up before the ledger: a claim decided in between is then
	// seen in one of the two, never in neither.
	ticket := g.deps.Queue.Find(id)
	ctx := g.deadlines.context()
	o, err := g.deps.Ledger.Order(ctx, id)
	switch {
	case err == nil && o.User == user:
		return g.answerOrder(c, answerOK, &o)
	case err == nil:
		return g.refuse(c, unknownOrder)
	case ticket != nil && ticket.Claim.User == user:
		return g.answerWaiting(c, queuedOrder(ticket.Claim), ticket.Position(), true)
	}
	remembered, found, recallErr := g.deps.Shield.Recall(ctx, id)
	switch {
	case recallErr == nil && found && remembered.User != user:
		return g.refuse(c, unknownOrder)
	case recallErr == nil && found && remembered.Status == sale.StatusQueued:
		return g.answerWaiting(c, remembered, 0, false)
	case !errors.Is(err, sale.ErrUnknownOrder):
		// A remembered refusal may have been overtaken by an order since: only the
		// ledger knows, and it is away.
		return g.refuseWith(c, &problem{answer: unavailable, orderID: &id})
	case recallErr == nil && found:
		return g.answerOrder(c, answerOK, &remembered)
	case recallErr != nil:
		g.log.Debug("the shield could not be asked for a verdict", "order", id.String(), "error", recallErr)
	}
	return g.refuse(c, unknownOrder)
}

// answerWaiting answers 200 with an order that has no verdict yet.
func (g *Gateway) answerWaiting(c *fiber.Ctx, o sale.Order, position int64, inLine bool) error {
	resp := &c.Context().Response
	g.begin(resp, answerOK)
	resp.Header.SetContentType(mimeJSON)
	g.writePlace(resp, o, position, inLine)
	return nil
}
