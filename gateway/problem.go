package gateway

import (
	"cmp"
	"strconv"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"flashgate/sale"
)

const (
	mimeProblem = "application/problem+json"
	mimeJSON    = "application/json"
)

// Header names in the form in which the HTTP library keeps them.
var (
	hdrLocation          = []byte("Location")
	hdrRetryAfter        = []byte("Retry-After")
	hdrIdempotencyKey    = []byte("Idempotency-Key")
	hdrReplayed          = []byte("Idempotent-Replayed")
	hdrPreferenceApplied = []byte("Preference-Applied")
	hdrETag              = []byte("Etag")
	hdrCacheControl      = []byte("Cache-Control")
	valTrue              = []byte("true")
	valNoStore           = []byte("no-store")
)

// problem is a refusal with something to say beyond its row in the table.
type problem struct {
	answer answer
	detail string // "" = the table's
	retry  int    // seconds; 0 = the table's

	orderID *sale.OrderID
	opensAt int64 // Unix ms; 0 = leave out
	// maxReduction is of stock_below_sold.
	maxReduction *int64
}

// render appends the RFC 9457 object.
func (p *problem) render(b []byte) []byte {
	e := &answers[p.answer]
	b = append(b, '{')
	b = appendText(b, "type", "/problems/"+e.code)
	b = appendText(b, "title", e.title)
	b = appendNumber(b, "status", int64(e.status))
	b = appendText(b, "code", e.code)
	b = appendText(b, "detail", cmp.Or(p.detail, e.detail))
	if p.orderID != nil {
		b = appendID(b, "order_id", *p.orderID)
	}
	b = appendTime(b, "opens_at", p.opensAt)
	if p.maxReduction != nil {
		b = appendNumber(b, "max_reduction", *p.maxReduction)
	}
	return append(b, '}')
}

// staticProblems renders every row of the table once, so that a plain refusal costs
// no more than copying nothing.
func staticProblems() (bodies [answerCount][]byte) {
	for a := malformed; a < answerCount; a++ {
		bodies[a] = (&problem{answer: a}).render(nil)
	}
	return bodies
}

// refuse answers with a row of the table as it stands.
func (g *Gateway) refuse(c *fiber.Ctx, a answer) error {
	resp := &c.Context().Response
	g.begin(resp, a)
	resp.Header.SetContentType(mimeProblem)
	if s := answers[a].retry; s != 0 {
		setRetryAfter(resp, int64(s))
	}
	resp.SetBodyRaw(g.problems[a])
	return nil
}

// refuseWith answers with a refusal that has more to say.
func (g *Gateway) refuseWith(c *fiber.Ctx, p *problem) error {
	resp := &c.Context().Response
	g.begin(resp, p.answer)
	resp.Header.SetContentType(mimeProblem)
	if retry := cmp.Or(p.retry, answers[p.answer].retry); retry != 0 {
		setRetryAfter(resp, int64(retry))
	}
	resp.SwapBody(p.render(resp.SwapBody(nil)[:0]))
	return nil
}

// refuseError answers with what the table has for the error.
func (g *Gateway) refuseError(c *fiber.Ctx, err error) error {
	p := problem{answer: ofError(err)}
	switch p.answer {
	case invalidRequest, saleClosed: // the verdict of a purchase is no error
		p.detail = err.Error()
	case stockBelowSold:
		p.maxReduction = maxReduction(err)
	case unavailable:
		g.log.Debug("a dependency failed a request", "path", string(c.Context().Path()), "error", err)
	}
	return g.refuseWith(c, &p)
}

// begin counts the answer and writes its status.
func (g *Gateway) begin(resp *fasthttp.Response, a answer) {
	g.metrics.answered[a].Inc()
	resp.SetStatusCode(answers[a].status)
	if answers[a].status == fiber.StatusUnauthorized {
		resp.Header.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="flashgate"`)
	}
}

// json answers with a finished JSON text.
func (g *Gateway) json(c *fiber.Ctx, a answer, body []byte) error {
	resp := &c.Context().Response
	g.begin(resp, a)
	resp.Header.SetContentType(mimeJSON)
	resp.SetBody(body)
	return nil
}

func setRetryAfter(resp *fasthttp.Response, seconds int64) {
	var buf [20]byte
	resp.Header.SetCanonical(hdrRetryAfter, strconv.AppendInt(buf[:0], seconds, 10))
}

// onError answers what Fiber and fasthttp refuse before or instead of a handler:
// unknown paths and methods, and requests that cannot be read.
func (g *Gateway) onError(c *fiber.Ctx, err error) error {
	status := fiber.StatusInternalServerError
	if fe, ok := err.(*fiber.Error); ok { //nolint:errorlint // Fiber hands it over unwrapped
		status = fe.Code
	}
	a := ofStatus(status)
	switch status {
	case fiber.StatusNotFound:
		a = notFound
	case fiber.StatusBadGateway: // Fiber's word for a connection that failed while being read
		a = malformed
	}
	if open := under(c.Context().Conn()); open != nil && a == contentTooLarge {
		open.linger()
	}
	if a == internalError {
		g.log.Error("a request failed", "path", string(c.Context().Path()), "error", err)
	}
	return g.refuse(c, a)
}

// problemPage describes a code, so that a problem's type can be followed.
func (g *Gateway) problemPage(c *fiber.Ctx) error {
	name := c.Params("code")
	for a := malformed; a < answerCount; a++ {
		e := &answers[a]
		if e.code != name {
			continue
		}
		b := append(make([]byte, 0, 512), '{')
		b = appendText(b, "code", e.code)
		b = appendNumber(b, "status", int64(e.status))
		b = appendText(b, "title", e.title)
		b = appendText(b, "description", e.detail)
		return g.json(c, answerOK, append(b, '}'))
	}
	return g.refuse(c, notFound)
}
