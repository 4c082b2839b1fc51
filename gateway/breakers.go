package gateway

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// maxForced bounds how long a breaker can be forced in one call.
const maxForced = 7 * 24 * time.Hour

// listBreakers is GET /v1/breakers.
func (g *Gateway) listBreakers(c *fiber.Ctx) error {
	b := append(make([]byte, 0, 512), `{"breakers":[`...)
	for i, s := range g.deps.Breakers.Breakers() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendBreaker(b, &s)
	}
	return g.json(c, answerOK, append(b, "]}"...))
}

// forceBreaker is POST /v1/breakers/{name} {"mode":...,"for":"5m","reason":"...","scope":...}.
func (g *Gateway) forceBreaker(c *fiber.Ctx) error {
	name := strings.Clone(c.Params("name"))
	known := slices.ContainsFunc(g.deps.Breakers.Breakers(), func(s sale.BreakerStatus) bool { return s.Name == name })
	if !known {
		return g.refuse(c, notFound)
	}
	var body struct {
		Mode   string `json:"mode"`
		For    string `json:"for"`
		Reason string `json:"reason"`
		Scope  string `json:"scope"`
	}
	if !g.readJSON(c, &body) {
		return nil
	}
	mode, err := sale.ParseBreakerMode(body.Mode)
	if err != nil {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "mode must be auto, forced_open or forced_closed"})
	}
	scope, err := sale.ParseBreakerScope(cmp.Or(body.Scope, sale.ScopeFleet.String()))
	if err != nil {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "scope must be fleet or gateway"})
	}
	o := sale.BreakerOrder{Name: name, Mode: mode, Reason: body.Reason}
	if body.For != "" {
		d, err := time.ParseDuration(body.For)
		if err != nil || d <= 0 || d > maxForced {
			return g.refuseWith(c, &problem{answer: invalidRequest, detail: `for must be a duration such as "5m", at most 168h`})
		}
		o.Until = g.deps.Ledger.Now() + max(1, d.Milliseconds())
	}
	if len(body.Reason) > sale.MaxTitleLen {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "reason is too long"})
	}
	ctx, ok := g.operated(c)
	if !ok {
		return nil
	}
	if who := sale.OperatorOf(ctx); who.Why == "" {
		ctx = sale.WithOperator(ctx, sale.Operator{Name: who.Name, Why: body.Reason})
	}
	s, err := g.deps.Breakers.ForceBreaker(ctx, scope, o)
	switch {
	case errors.Is(err, sale.ErrUnavailable):
		g.log.Warn("an operator's order for all gateways cannot be kept", "breaker", name, "mode", body.Mode, "err", err)
		return g.refuseWith(c, &problem{answer: unavailable, detail: notForTheFleet})
	case err != nil:
		return g.refuseError(c, err)
	}
	if scope == sale.ScopeGateway {
		// It is obeyed also where nobody can enter it.
		if err := g.deps.Log.NoteOperator(ctx, "breaker.set", name, o.Record()); err != nil {
			g.log.Warn("what an operator did could not be entered into the log", "action", "breaker.set", "target", name, "err", err)
		}
	}
	g.log.Warn("an operator set a breaker", "by", sale.OperatorOf(ctx).Name, "breaker", name, "mode", body.Mode, "scope", scope.String(), "for", body.For, "reason", body.Reason)
	return g.json(c, answerOK, appendBreaker(nil, &s))
}

// notForTheFleet is what an operator hears whose order may have reached nobody.
const notForTheFleet = `The ledger, which keeps orders for all gateways, does not answer: the order may have reached none. ` +
	`Repeat it, or order each gateway alone with "scope":"gateway", which needs no ledger.`

func appendBreaker(b []byte, s *sale.BreakerStatus) []byte {
	b = appendText(append(b, '{'), "name", s.Name)
	b = appendText(b, "state", s.State)
	b = appendText(b, "mode", s.Mode.String())
	if s.Scope != 0 {
		b = appendText(b, "scope", s.Scope.String())
	}
	if s.By != "" {
		b = appendText(b, "by", s.By)
	}
	b = appendTime(b, "until", s.Until)
	if s.Reason != "" {
		b = appendText(b, "reason", s.Reason)
	}
	b = appendTime(b, "since", s.Since)
	return append(b, '}')
}
