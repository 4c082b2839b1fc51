package gateway

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"flashgate/sale"
)

// fields are the header fields that the edge acts on. Their strings are views.
type fields struct {
	identity
	key     string
	keyed   bool
	coded   bool // the body has a content coding
	twice   bool // a field that must stand once stands more often
	prefers preference

	authorized, named bool // there was an Authorization, an X-User-ID, whatever they said
}

// read goes over the header once. A field that decides who buys, or which order is
// meant, must not stand twice: a proxy in front may have read the other one.
func (f *fields) read(h *fasthttp.RequestHeader) {
	for name, value := range h.All() {
		switch string(name) {
		case "Idempotency-Key":
			f.twice = f.twice || f.keyed
			f.key, f.keyed = view(value), true
		case "Authorization":
			f.twice = f.twice || f.authorized
			f.authorization, f.authorized = view(value), true
		case "X-User-Id":
			f.twice = f.twice || f.named
			f.userID, f.named = view(value), true
		case "Prefer":
			f.prefers.read(view(value))
		case "Content-Encoding":
			f.coded = f.coded || !strings.EqualFold(view(value), "identity")
		}
	}
}

// purchase is POST /v1/skus/{sku}/orders. See the package's comment for the order of
// its checks.
func (g *Gateway) purchase(c *fiber.Ctx) error {
	ctx := c.Context()
	if g.refusing.Load() {
		return g.refuse(c, shuttingDown)
	}
	var f fields
	f.read(&ctx.Request.Header)
	name := c.Params("sku")
	user, admitted := g.admit(c, &f, name)
	if !admitted {
		return nil
	}
	w, valid := g.validate(c, &f)
	if !valid {
		return nil
	}
	if sale.ValidateSKUName(name) != nil {
		return g.refuse(c, unknownSKU)
	}
	sku, err := g.deps.Ledger.SKU(g.deadlines.context(), strings.Clone(name))
	if err != nil {
		return g.refuseError(c, err)
	}
	if !f.keyed {
		if answered, err := g.refuseFromMemory(c, sku); answered {
			return err
		}
	}
	return g.decide(c, &f, sku, user, w)
}

// admit authenticates the buyer and passes the request through the limits. The address and
// the whole gateway come first, because they cost least and protect the rest, a token's
// signature not least; sku "" is no SKU's.
func (g *Gateway) admit(c *fiber.Ctx, f *fields, sku string) (user string, ok bool) {
	ctx := c.Context()
	now := ctx.Time()
	f.peer = peer(ctx)
	if !g.admitAddr(c, f.peer, now) || !g.admitAll(c, now) {
		return "", false
	}
	if f.twice {
		_ = g.refuseWith(c, &problem{answer: malformed, detail: "Idempotency-Key, Authorization and X-User-ID must each stand once at most."})
		return "", false
	}
	if user = g.auth.user(&f.identity); user == "" {
		_ = g.refuse(c, unauthenticated)
		return "", false
	}
	l := g.limits
	if l.user != nil {
		if delay, ok := l.byName(l.user, user, now); !ok {
			_ = g.refuseLimited(c, l.user, delay)
			return "", false
		}
	}
	if l.sku != nil && sku != "" {
		if delay, ok := l.byName(l.sku, sku, now); !ok {
			_ = g.refuseLimited(c, l.sku, delay)
			return "", false
		}
	}
	return user, true
}

// admitAddr passes the request through the limit of its address.
func (g *Gateway) admitAddr(c *fiber.Ctx, from netip.Addr, now time.Time) bool {
	l := g.limits
	if l.ip == nil {
		return true
	}
	if delay, ok := l.byAddr(g.trusted.client(c.Context(), from), now); !ok {
		_ = g.refuseLimited(c, l.ip, delay)
		return false
	}
	return true
}

// admitAll passes the request through the limit of this gateway.
func (g *Gateway) admitAll(c *fiber.Ctx, now time.Time) bool {
	l := g.limits
	if l.global == nil {
		return true
	}
	if delay, ok := l.byName(l.global, "", now); !ok {
		_ = g.refuseLimited(c, l.global, delay)
		return false
	}
	return true
}

// validate reads what the buyer wants, and unquotes the key in f.
func (g *Gateway) validate(c *fiber.Ctx, f *fields) (want, bool) {
	req := &c.Context().Request
	body := req.Body() // Fiber's own Body() would undo content codings of any size
	if len(body) > 0 && (f.coded || !isJSON(view(req.Header.ContentType()))) {
		_ = g.refuse(c, unsupportedMediaType)
		return want{}, false
	}
	if f.keyed {
		key, err := parseKey(f.key)
		if err != nil {
			_ = g.refuseWith(c, &problem{answer: malformed, detail: err.Error()})
			return want{}, false
		}
		f.key = key
	}
	w, err := parseWant(body)
	if err != nil {
		_ = g.refuseBody(c, err)
		return want{}, false
	}
	return w, true
}

// refuseFromMemory refuses a request without a key when memory suffices to know the
// verdict: such a request cannot be the repeat of an order that exists.
func (g *Gateway) refuseFromMemory(c *fiber.Ctx, sku *sale.SKU) (answered bool, err error) {
	if gate := sku.Gate(g.deps.Ledger.Now()); gate != sale.Reserved {
		return true, g.refuseOutcome(c, gate, sku, nil)
	}
	if g.deps.SoldOut.SoldOut(sku.Name) {
		return true, g.refuse(c, soldOut)
	}
	return false, nil
}

// decide queues the claim and answers with its verdict, or with its place.
func (g *Gateway) decide(c *fiber.Ctx, f *fields, sku *sale.SKU, user string, w want) error {
	ctx := c.Context()
	var made [sale.OrderIDLen]byte
	if !f.keyed {
		f.key = view(randomKey().AppendTo(made[:0]))
	}
	claim := &sale.Claim{
		ID:       sale.DeriveOrderID(sku.Name, user, f.key),
		SKU:      sku.Name,
		User:     strings.Clone(user),
		Coupon:   strings.Clone(w.coupon),
		Quantity: w.quantity,
		Hash:     sale.HashRequest(w.quantity, w.coupon),
		Keyed:    f.keyed,
		QueuedAt: ctx.Time().UnixMilli(),
	}
	wait := g.wait(&f.prefers)
	atOnce := wait <= 0
	ticket, err := g.deps.Queue.Join(claim, atOnce)
	if err != nil {
		g.returnKey(ctx, f)
		return g.refuseClaim(c, claim, err)
	}
	verdict, decided := sale.Verdict{}, false
	if !atOnce {
		verdict, decided = g.await(ticket, wait)
	}
	f.applied(&ctx.Response, wait)
	if !decided {
		g.returnKey(ctx, f)
		g.marks.add(ticket)
		return g.answerPlace(c, claim, ticket.Position())
	}
	return g.answerVerdict(c, f, sku, claim, verdict)
}

// wait is how long the response may be held back for the verdict; 0 = not at all.
func (g *Gateway) wait(p *preference) time.Duration {
	switch {
	case p.waitSet:
		return min(p.wait, g.cfg.MaxWait)
	case p.async:
		return 0
	}
	return min(g.cfg.Wait, g.cfg.MaxWait)
}

// applied says which preferences were honoured, the wait as it was cut.
func (f *fields) applied(resp *fasthttp.Response, wait time.Duration) {
	if !f.prefers.async && !f.prefers.waitSet {
		return
	}
	var buf [48]byte
	b := buf[:0]
	if f.prefers.async {
		b = append(b, "respond-async"...)
	}
	if f.prefers.waitSet {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, "wait="...)
		b = strconv.AppendInt(b, int64(wait/time.Second), 10)
	}
	resp.Header.SetCanonical(hdrPreferenceApplied, b)
}

// returnKey tells the buyer the key that was made for them, so that they can repeat.
func (g *Gateway) returnKey(ctx *fasthttp.RequestCtx, f *fields) {
	if !f.keyed {
		ctx.Response.Header.SetCanonical(hdrIdempotencyKey, []byte(f.key))
	}
}

// await waits for the verdict. When the wait ends first the ticket is detached, and
// looked at once more: the queue delivers before it looks whether anybody waits, so one
// of the two always sees the other.
func (g *Gateway) await(t *sale.Ticket, wait time.Duration) (sale.Verdict, bool) {
	if v, decided := verdictOf(t); decided {
		return v, true
	}
	timer := g.timers.get(wait)
	defer g.timers.put(timer)
	select {
	case v := <-t.Verdict():
		return v, true
	case <-timer.C:
	}
	t.Detach()
	return verdictOf(t)
}

// answerVerdict turns a verdict into the response.
func (g *Gateway) answerVerdict(c *fiber.Ctx, f *fields, sku *sale.SKU, claim *sale.Claim, v sale.Verdict) error {
	if v.Err != nil {
		g.returnKey(c.Context(), f)
		return g.refuseClaim(c, claim, v.Err)
	}
	switch v.Outcome {
	case sale.Reserved, sale.Duplicate:
		if v.Outcome == sale.Duplicate {
			c.Context().Response.Header.SetCanonical(hdrReplayed, valTrue)
		}
		return g.answerOrder(c, ofOutcome(v.Outcome), v.Order)
	case sale.Queued:
		g.returnKey(c.Context(), f)
		return g.answerPlace(c, claim, nowhere)
	case sale.TimedOut:
		g.returnKey(c.Context(), f)
	}
	return g.refuseOutcome(c, v.Outcome, sku, claim)
}

// refuseOutcome answers with a refusal. Those that mean "ask again" name the order.
func (g *Gateway) refuseOutcome(c *fiber.Ctx, o sale.Outcome, sku *sale.SKU, claim *sale.Claim) error {
	a := ofOutcome(o)
	switch {
	case a == saleNotOpen:
		return g.refuseWith(c, &problem{answer: a, opensAt: sku.OpensAt})
	case answers[a].retry != 0 && claim != nil:
		return g.refuseWith(c, &problem{answer: a, orderID: &claim.ID})
	}
	return g.refuse(c, a)
}

// refuseClaim answers a claim about which nothing was decided.
func (g *Gateway) refuseClaim(c *fiber.Ctx, claim *sale.Claim, err error) error {
	p := problem{answer: ofError(err)}
	if answers[p.answer].status == fiber.StatusServiceUnavailable {
		p.orderID = &claim.ID
	}
	if p.answer == queueFull {
		seconds, known := g.eta(claim.SKU, int64(g.deps.Queue.Depth(claim.SKU)))
		if known {
			p.retry = int(min(seconds, 30))
		}
	}
	return g.refuseWith(c, &p)
}

// answerOrder answers with an order of the ledger. Bodies are built in the response's
// own buffer: a large one on the stack would stay with every connection.
func (g *Gateway) answerOrder(c *fiber.Ctx, a answer, o *sale.Order) error {
	resp := &c.Context().Response
	g.begin(resp, a)
	resp.Header.SetContentType(mimeJSON)
	setLocation(resp, o.ID)
	resp.SwapBody(o.AppendJSON(resp.SwapBody(nil)[:0]))
	return nil
}

const ordersPath = "/v1/orders/"

func setLocation(resp *fasthttp.Response, id sale.OrderID) {
	var buf [len(ordersPath) + sale.OrderIDLen]byte
	resp.Header.SetCanonical(hdrLocation, id.AppendTo(append(buf[:0], ordersPath...)))
}

// answerPlace answers 202 for a claim that has no verdict yet; its position may be
// nowhere.
func (g *Gateway) answerPlace(c *fiber.Ctx, claim *sale.Claim, position int64) error {
	resp := &c.Context().Response
	g.begin(resp, answerQueued)
	setLocation(resp, claim.ID)
	resp.Header.SetContentType(mimeJSON)
	g.writePlace(resp, sale.QueuedOrder(claim), position)
	return nil
}

// writePlace writes a queued order with its place and the Retry-After that fits.
func (g *Gateway) writePlace(resp *fasthttp.Response, o sale.Order, position int64) {
	var seconds int64
	var known bool
	retry := int64(parkedRetry)
	if position != nowhere {
		seconds, known = g.eta(o.SKU, position)
		retry = int64(answers[answerQueued].retry)
	}
	if known {
		retry = min(max(retry, seconds), 30)
	}
	setRetryAfter(resp, retry)
	b := append(resp.SwapBody(nil)[:0], '{')
	b = appendPlace(o.AppendFields(b), position, seconds, known)
	resp.SwapBody(append(b, '}'))
}

const (
	// parkedRetry is when to ask again, in seconds, for a claim that is in no line of
	// this gateway: another has it, or it waits for the ledger to come back.
	parkedRetry = 3
	// nowhere is the position of a claim that is in no line of this gateway.
	nowhere = -1
)

// appendPlace appends the members that say where a queued claim is.
func appendPlace(b []byte, position, seconds int64, known bool) []byte {
	if position != nowhere {
		b = appendNumber(b, "position", position)
	}
	b = appendNumber(b, "eta_seconds", seconds)
	return appendBool(b, "eta_known", known)
}

// eta is when a claim with so many before it will have its verdict, in seconds, at the
// pace of late.
func (g *Gateway) eta(sku string, position int64) (seconds int64, known bool) {
	pace := g.deps.Queue.Rate(sku)
	if pace <= 0 {
		return 0, false
	}
	return int64(min(float64(position+1)/pace, 3600) + 0.999), true
}
