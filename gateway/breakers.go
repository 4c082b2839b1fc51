package gateway

import (
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

// forceBreaker is POST /v1/breakers/{name} {"mode":...,"for":"5m","reason":"..."}.
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
	}
	if !g.readJSON(c, &body) {
		return nil
	}
	mode, err := sale.ParseBreakerMode(body.Mode)
	if err != nil {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "mode must be auto, forced_open or forced_closed"})
	}
	var d time.Duration
	if body.For != "" {
		if d, err = time.ParseDuration(body.For); err != nil || d <= 0 || d > maxForced {
			return g.refuseWith(c, &problem{answer: invalidRequest, detail: `for must be a duration such as "5m", at most 168h`})
		}
	}
	if len(body.Reason) > sale.MaxTitleLen {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "reason is too long"})
	}
	s, err := g.deps.Breakers.ForceBreaker(name, mode, d, body.Reason)
	if err != nil {
		return g.refuseError(c, err)
	}
	g.log.Warn("an operator set a breaker", "breaker", name, "mode", body.Mode, "for", body.For, "reason", body.Reason)
	return g.json(c, answerOK, appendBreaker(nil, &s))
}

func appendBreaker(b []byte, s *sale.BreakerStatus) []byte {
	b = appendText(append(b, '{'), "name", s.Name)
	b = appendText(b, "state", s.State)
	b = appendText(b, "mode", s.Mode.String())
	b = appendTime(b, "until", s.Until)
	if s.Reason != "" {
		b = appendText(b, "reason", s.Reason)
	}
	b = appendTime(b, "since", s.Since)
	return append(b, '}')
}
