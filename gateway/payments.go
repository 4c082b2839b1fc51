package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// Orders is the life of an order after its reservation.
type Orders interface {
	// Pay records a payment event and does what it asks for, once. It returns
	// sale.ErrUnknownOrder, sale.ErrPaymentMismatch or an error that wraps
	// sale.ErrInvalid, after which nothing is recorded; any other error means that the
	// event may be recorded or not.
	Pay(ctx context.Context, p sale.Payment) (sale.PaymentResult, error)
	// Cancel gives back what the user reserved; again, it returns the cancelled order.
	// It returns sale.ErrUnknownOrder, also of another user's order,
	// sale.ErrAlreadyPaid or sale.ErrOrderExpired; any other error means that the order
	// may be cancelled or not.
	Cancel(ctx context.Context, id sale.OrderID, user string) (sale.Order, error)
}

// payment is POST /v1/payments, which only the payment provider can use. It has no
// buyer, and waits in no queue. An event that is genuine passes no limit: the provider
// speaks for many buyers from a few addresses, and what is refused here is money that
// nobody hears of. One that is not passes the limit of its address, so that guessing is
// no cheaper than elsewhere.
func (g *Gateway) payment(c *fiber.Ctx) error {
	if len(g.cfg.Payments.WebhookSecrets) == 0 {
		return g.refuse(c, notFound)
	}
	ctx := c.Context()
	// What is signed is the body as it was sent, whatever its media type.
	body := ctx.Request.Body()
	if !g.cfg.Payments.genuine(&ctx.Request.Header, body, time.Now()) {
		if !g.admitAddr(c, peer(ctx), ctx.Time()) {
			return nil
		}
		err := g.refuseWith(c, &problem{answer: unauthenticated, detail: "The event does not carry one " + signatureHeader + " that fits its body, a secret of this service and the time."})
		ctx.Response.Header.Set(fiber.HeaderWWWAuthenticate, signatureHeader)
		return err
	}
	p, strange, err := parsePayment(body)
	g.strange.note(g.log, strange)
	if err != nil && !errors.Is(err, sale.ErrUnknownOrder) {
		return g.refuseBody(c, err)
	}
	var result sale.PaymentResult
	if err == nil {
		result, err = g.deps.Orders.Pay(g.deadlines.context(), p)
	}
	if err != nil {
		return g.refusePayment(c, &p, err)
	}
	g.streams.tell(&result.Order)
	if result.Repeated {
		ctx.Response.Header.SetCanonical(hdrReplayed, valTrue)
	}
	return g.json(c, answerOK, appendPaymentResult(make([]byte, 0, 256), &p, &result))
}

// refusePayment answers an event of which nothing is recorded, or nothing is known.
func (g *Gateway) refusePayment(c *fiber.Ctx, p *sale.Payment, err error) error {
	a := ofError(err)
	switch a {
	case invalidRequest:
		return g.refuseWith(c, &problem{answer: a, detail: err.Error()})
	case unknownOrder:
		return g.refuseWith(c, &problem{answer: a, detail: "There is no order of this id. Nothing was recorded."})
	}
	g.log.Warn("a payment event could not be recorded", "event", p.EventID, "order", p.OrderID.String(), "error", err)
	return g.refuseWith(c, &problem{answer: a, orderID: &p.OrderID, detail: "The event may be recorded or not. Send it again, unchanged: it counts once."})
}

func appendPaymentResult(b []byte, p *sale.Payment, r *sale.PaymentResult) []byte {
	b = appendText(append(b, '{'), "event_id", p.EventID)
	b = appendID(b, "order_id", p.OrderID)
	b = appendText(b, "outcome", r.Outcome.String())
	b = appendText(b, "order_status", r.Order.Status.String())
	return append(b, '}')
}

// strangers are members of payment events that nobody here knows: a provider may add some at
// any time, and what it reports is money. Each is told of once.
type strangers struct {
	mu   sync.Mutex
	told map[string]bool
}

// maxStrangers bounds what is remembered, and told.
const maxStrangers = 64

func (s *strangers) note(log *slog.Logger, names []string) {
	if len(names) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if len(s.told) < maxStrangers && !s.told[name] {
			s.told[name] = true
			log.Warn("payment events have a member that is not known here, and ignored", "member", name)
		}
	}
}

// parsePayment reads a payment event. Its five members are required; it returns the names of
// others, which mean nothing. An order id that cannot be one is that of an unknown order.
func parsePayment(body []byte) (p sale.Payment, strange []string, err error) {
	var eventID, orderID, currency, status *string
	var amount *int64
	err = eachMember(body, func(name string, value json.RawMessage) error {
		into, kind := any(nil), "a string"
		switch name {
		case "event_id":
			into = &eventID
		case "order_id":
			into = &orderID
		case "amount":
			into, kind = &amount, "an integer"
		case "currency":
			into = &currency
		case "status":
			into = &status
		default:
			strange = append(strange, clip(name))
			return nil
		}
		if json.Unmarshal(value, into) != nil {
			return fmt.Errorf("%s must be %s", name, kind)
		}
		return nil
	})
	switch {
	case err != nil:
		return p, strange, err
	case eventID == nil || orderID == nil || amount == nil || currency == nil || status == nil:
		return p, strange, errors.New("event_id, order_id, amount, currency and status are required")
	case *status != "succeeded" && *status != "failed":
		return p, strange, errors.New("status must be succeeded or failed")
	}
	p = sale.Payment{EventID: *eventID, Amount: *amount, Currency: *currency, Succeeded: *status == "succeeded"}
	if err := p.Validate(); err != nil {
		return sale.Payment{}, strange, err
	}
	if p.OrderID, err = sale.ParseOrderID(*orderID); err != nil {
		return sale.Payment{}, strange, fmt.Errorf("%w: %w", sale.ErrUnknownOrder, err)
	}
	return p, strange, nil
}
