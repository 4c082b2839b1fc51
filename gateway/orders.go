package gateway

import (
	"errors"
	"strings"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// standing is what is known of an order: its row, or else the claim that has none.
type standing struct {
	order sale.Order
	// ticket is of a queued claim that waits in this gateway.
	ticket *sale.Ticket
}

// lookUp finds what the user may know of an order: the ledger's row, else the place of
// a claim that waits here, else what the shield remembers. The answer is answerOK,
// unknownOrder, or unavailable where only the ledger could tell.
func (g *Gateway) lookUp(id sale.OrderID, user string) (standing, answer) {
	// The ticket is looked up before the ledger: a claim decided in between is then
	// seen in one of the two, never in neither.
	ticket := g.deps.Queue.Find(id)
	o, err := g.deps.Ledger.Order(g.deadlines.context(), id)
	switch {
	case err == nil && o.User == user:
		return standing{order: o}, answerOK
	case err == nil:
		return standing{}, unknownOrder
	}
	if ticket != nil && ticket.Claim.User == user {
		return standing{sale.QueuedOrder(ticket.Claim), ticket}, answerOK
	}
	// The ledger may have taken all the time that the first context gave.
	remembered, found, recallErr := g.deps.Shield.Recall(g.deadlines.context(), id)
	switch {
	case recallErr == nil && found && remembered.User != user:
		return standing{}, unknownOrder
	case recallErr == nil && found && remembered.Status == sale.StatusQueued:
		return standing{order: remembered}, answerOK
	case !errors.Is(err, sale.ErrUnknownOrder):
		// A remembered refusal may have been overtaken by an order since: only the
		// ledger knows, and it is away.
		return standing{}, unavailable
	case recallErr == nil && found:
		return standing{order: remembered}, answerOK
	case recallErr != nil:
		g.log.Debug("the shield could not be asked for a verdict", "order", id.String(), "error", recallErr)
	}
	return standing{}, unknownOrder
}

// asked reads whose order a request is about; false means that it has been answered.
func (g *Gateway) asked(c *fiber.Ctx) (id sale.OrderID, user string, ok bool) {
	var f fields
	f.read(&c.Context().Request.Header)
	if user, ok = g.admit(c, &f, ""); !ok {
		return id, "", false
	}
	c.Context().Response.Header.SetCanonical(hdrCacheControl, valNoStore)
	id, err := sale.ParseOrderID(c.Params("id"))
	if err != nil {
		_ = g.refuse(c, unknownOrder)
		return id, "", false
	}
	return id, user, true
}

// order is GET /v1/orders/{id}.
func (g *Gateway) order(c *fiber.Ctx) error {
	id, user, ok := g.asked(c)
	if !ok {
		return nil
	}
	s, a := g.lookUp(id, user)
	switch {
	case a != answerOK:
		return g.refuseOrder(c, a, &id)
	case s.ticket != nil:
		return g.answerWaiting(c, s.order, s.ticket.Position())
	case s.order.Status == sale.StatusQueued:
		return g.answerWaiting(c, s.order, nowhere)
	}
	return g.answerOrder(c, answerOK, &s.order)
}

// refuseOrder answers a request about an order; one to repeat names it.
func (g *Gateway) refuseOrder(c *fiber.Ctx, a answer, id *sale.OrderID) error {
	if answers[a].retry == 0 {
		return g.refuse(c, a)
	}
	return g.refuseWith(c, &problem{answer: a, orderID: id})
}

// answerWaiting answers 200 with an order that has no verdict yet.
func (g *Gateway) answerWaiting(c *fiber.Ctx, o sale.Order, position int64) error {
	resp := &c.Context().Response
	g.begin(resp, answerOK)
	resp.Header.SetContentType(mimeJSON)
	g.writePlace(resp, o, position)
	return nil
}

// cancel is DELETE /v1/orders/{id}. A claim without a verdict is not cancelled: nobody
// could say which of the two came first.
func (g *Gateway) cancel(c *fiber.Ctx) error {
	id, user, ok := g.asked(c)
	if !ok {
		return nil
	}
	user = strings.Clone(user)
	ticket := g.deps.Queue.Find(id) // before the ledger, as in lookUp
	o, err := g.deps.Orders.Cancel(g.deadlines.context(), id, user)
	if err == nil {
		g.streams.tell(&o)
		return g.answerOrder(c, answerOK, &o)
	}
	a := ofError(err)
	if (a == unknownOrder || a == unavailable) && g.waits(ticket, id, user) {
		a = orderQueued
	}
	if a == unavailable {
		g.log.Debug("an order could not be cancelled", "order", id.String(), "error", err)
		detail := "The order may be cancelled or not. Repeat the request."
		if errors.Is(err, sale.ErrNotCalled) {
			detail = "Nothing was cancelled. Repeat the request."
		}
		return g.refuseWith(c, &problem{answer: a, orderID: &id, detail: detail})
	}
	return g.refuseOrder(c, a, &id)
}

// waits reports whether the user's claim is queued: in this gateway, in another, or in
// the backlog.
func (g *Gateway) waits(ticket *sale.Ticket, id sale.OrderID, user string) bool {
	if ticket != nil {
		return ticket.Claim.User == user
	}
	o, found, err := g.deps.Shield.Recall(g.deadlines.context(), id)
	return err == nil && found && o.User == user && o.Status == sale.StatusQueued
}
