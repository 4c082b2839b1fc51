package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// skuBody is an operator's SKU as sent: every member optional, null meaning absent but
// for the two times, which it clears.
type skuBody struct {
	SKU          *string  `json:"sku"`
	Total        *int64   `json:"total"`
	Reserved     *int64   `json:"reserved"`
	Title        *string  `json:"title"`
	UnitPrice    *int64   `json:"unit_price"`
	Currency     *string  `json:"currency"`
	PerUserLimit *int64   `json:"per_user_limit"`
	OpensAt      wireTime `json:"opens_at"`
	ClosesAt     wireTime `json:"closes_at"`
	PayWithin    *string  `json:"pay_within"`
	State        *string  `json:"state"`
	Heat         *string  `json:"heat"`
	Segments     *int     `json:"segments"`
}

// wireTime is an RFC 3339 time or null; to is nil where the member is absent.
type wireTime struct{ to *int64 }

func (t *wireTime) UnmarshalJSON(b []byte) error {
	var s *string
	if json.Unmarshal(b, &s) != nil {
		return errors.New("a time must be an RFC 3339 string or null")
	}
	var ms int64
	if s != nil && *s != "" {
		var err error
		if ms, err = sale.ParseTime(*s); err != nil {
			return errors.New("a time must be an RFC 3339 string or null")
		}
	}
	t.to = &ms
	return nil
}

// patch turns the body into the domain's terms.
func (b *skuBody) patch(name string) (sale.SKUPatch, error) {
	p := sale.SKUPatch{
		Title: b.Title, UnitPrice: b.UnitPrice, Currency: b.Currency, PerUserLimit: b.PerUserLimit,
		OpensAt: b.OpensAt.to, ClosesAt: b.ClosesAt.to, Segments: b.Segments,
		Total: b.Total, Reserved: b.Reserved,
	}
	if b.SKU != nil && *b.SKU != name {
		return p, errors.New("sku differs from the path")
	}
	if b.PayWithin != nil {
		d, err := time.ParseDuration(*b.PayWithin)
		if err != nil {
			return p, errors.New(`pay_within must be a duration such as "15m"`)
		}
		ms := d.Milliseconds()
		p.PayWithin = &ms
	}
	if b.State != nil {
		state, err := sale.ParseSaleState(*b.State)
		if err != nil {
			return p, errors.New("state must be open, paused or closed")
		}
		p.State = &state
	}
	if b.Heat != nil {
		heat, err := sale.ParseHeat(*b.Heat)
		if err != nil {
			return p, errors.New("heat must be auto, hot or cold")
		}
		p.Heat = &heat
	}
	return p, nil
}

// noCurrency is ISO 4217's code where no currency is involved: a SKU without a price.
const noCurrency = "XXX"

// newSKU is what PUT starts from.
func newSKU(name string, payWithin time.Duration) sale.SKU {
	return sale.SKU{
		Name: name, PayWithin: payWithin.Milliseconds(),
		State: sale.StateOpen, Heat: sale.HeatAuto, Segments: 1,
	}
}

// readSKUBody reads the path and the body of PUT and PATCH. When ok is false, the
// request has been answered.
func (g *Gateway) readSKUBody(c *fiber.Ctx) (name string, body skuBody, patch sale.SKUPatch, ok bool) {
	name = strings.Clone(c.Params("sku"))
	if err := sale.ValidateSKUName(name); err != nil {
		_ = g.refuseWith(c, &problem{answer: invalidRequest, detail: err.Error()})
		return "", body, patch, false
	}
	if !g.readJSON(c, &body) {
		return "", body, patch, false
	}
	patch, err := body.patch(name)
	if err != nil {
		_ = g.refuseWith(c, &problem{answer: invalidRequest, detail: err.Error()})
		return "", body, patch, false
	}
	if patch.Expect, err = readExpect(c); err != nil {
		_ = g.refuseWith(c, &problem{answer: malformed, detail: err.Error()})
		return "", body, patch, false
	}
	return name, body, patch, true
}

// putSKU is PUT /v1/skus/{sku}: it creates the SKU, or replaces all that is said of it.
func (g *Gateway) putSKU(c *fiber.Ctx) error {
	name, body, patch, ok := g.readSKUBody(c)
	if !ok {
		return nil
	}
	base := newSKU(name, g.cfg.PayWithin)
	if body.UnitPrice == nil && body.Currency == nil {
		base.Currency = noCurrency
	}
	if body.Total == nil {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "total is needed"})
	}
	// What is expected is of the SKU as it stands, and not of what PUT starts from.
	expect := patch.Expect
	patch.Expect = sale.Expect{}
	sku, stock, err := patch.Apply(base, sale.Stock{})
	if err != nil {
		return g.refuseError(c, err)
	}
	ctx, ok := g.operated(c)
	if !ok {
		return nil
	}
	sku, stock, created, err := g.deps.Catalogue.PutSKU(ctx, sku, stock, expect)
	if err != nil {
		return g.refuseError(c, err)
	}
	g.noteChange(ctx, "sku.put", name)
	if !created {
		return g.answerSKU(c, answerOK, sku, stock)
	}
	c.Context().Response.Header.SetBytesV("Location", []byte("/v1/skus/"+name))
	return g.answerSKU(c, answerCreated, sku, stock)
}

// patchSKU is PATCH /v1/skus/{sku}: it changes what is named and leaves the rest.
func (g *Gateway) patchSKU(c *fiber.Ctx) error {
	name, _, patch, ok := g.readSKUBody(c)
	if !ok {
		return nil
	}
	ctx, ok := g.operated(c)
	if !ok {
		return nil
	}
	sku, stock, err := g.deps.Catalogue.PatchSKU(ctx, name, patch)
	if err != nil {
		return g.refuseError(c, err)
	}
	g.noteChange(ctx, "sku.patch", name)
	return g.answerSKU(c, answerOK, sku, stock)
}

// addStock is POST /v1/skus/{sku}/stock {"delta":n}; with an Idempotency-Key it adds once,
// however often it is called.
func (g *Gateway) addStock(c *fiber.Ctx) error {
	var body struct {
		Delta *int64 `json:"delta"`
	}
	name := strings.Clone(c.Params("sku"))
	if sale.ValidateSKUName(name) != nil {
		return g.refuse(c, unknownSKU)
	}
	if !g.readJSON(c, &body) {
		return nil
	}
	if body.Delta == nil || *body.Delta == 0 || *body.Delta > sale.MaxStock || *body.Delta < -sale.MaxStock {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "delta must be a number of units, not zero"})
	}
	key, err := readKey(c)
	if err != nil {
		return g.refuseWith(c, &problem{answer: malformed, detail: err.Error()})
	}
	ctx, ok := g.operated(c)
	if !ok {
		return nil
	}
	sku, stock, replayed, err := g.deps.Catalogue.AddStock(ctx, name, *body.Delta, key)
	if err != nil {
		return g.refuseError(c, err)
	}
	if replayed {
		c.Context().Response.Header.SetCanonical(hdrReplayed, valTrue)
		return g.answerSKU(c, answerReplayed, sku, stock)
	}
	g.noteChange(ctx, "stock.add", name)
	return g.answerSKU(c, answerOK, sku, stock)
}

// getSKU is GET /v1/skus/{sku} of the operators.
func (g *Gateway) getSKU(c *fiber.Ctx) error {
	name := strings.Clone(c.Params("sku"))
	if sale.ValidateSKUName(name) != nil {
		return g.refuse(c, unknownSKU)
	}
	ctx := g.deadlines.context()
	sku, err := g.deps.Ledger.SKU(ctx, name)
	if err != nil {
		return g.refuseError(c, err)
	}
	segments, err := g.deps.Ledger.Stock(ctx, name)
	if err != nil {
		return g.refuseError(c, err)
	}
	return g.answerSKU(c, answerOK, *sku, total(segments))
}

// pageLimit reads ?limit= of a list; when it returns false, the request is answered.
func (g *Gateway) pageLimit(c *fiber.Ctx) (limit int, ok bool) {
	const usual, most = 100, 1000
	s := c.Query("limit")
	if s == "" {
		return usual, true
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		_ = g.refuseWith(c, &problem{answer: invalidRequest, detail: fmt.Sprintf("limit must be 1..%d", most)})
		return 0, false
	}
	return n, true
}

// listSKUs is GET /v1/skus?after=&limit=, in order of name.
func (g *Gateway) listSKUs(c *fiber.Ctx) error {
	limit, ok := g.pageLimit(c)
	if !ok {
		return nil
	}
	after := strings.Clone(c.Query("after"))
	if after != "" && sale.ValidateSKUName(after) != nil {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "after must be the name of a SKU"})
	}
	list, err := g.deps.Catalogue.ListSKUs(g.deadlines.context(), after, limit)
	if err != nil {
		return g.refuseError(c, err)
	}
	b := append(make([]byte, 0, 64+512*len(list)), `{"skus":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = g.appendSKU(b, &list[i].SKU, list[i].Stock)
		b = append(b, '}')
	}
	b = append(b, ']')
	if len(list) == limit {
		b = appendText(b, "next", list[len(list)-1].SKU.Name)
	}
	return g.json(c, answerOK, append(b, '}'))
}

// answerSKU answers with the operators' view of one SKU, the shield's figure included.
func (g *Gateway) answerSKU(c *fiber.Ctx, a answer, sku sale.SKU, stock sale.Stock) error {
	b := append(make([]byte, 0, 768), '{')
	b = g.appendSKU(b, &sku, stock)
	if left, loaded := g.shieldLeft(&sku); loaded {
		b = appendNumber(b, "shield_left", left)
	} else {
		b = append(appendName(b, "shield_left"), "null"...)
	}
	c.Context().Response.Header.SetCanonical(hdrETag, []byte(`"`+sale.TagOf(&sku, stock).String()+`"`))
	return g.json(c, a, append(b, '}'))
}

// shieldLeft asks the shield for its figure. It is only shown, so nobody waits long.
func (g *Gateway) shieldLeft(sku *sale.SKU) (int64, bool) {
	ctx, cancel := context.WithTimeout(g.deadlines.context(), 500*time.Millisecond)
	defer cancel()
	left, loaded, err := g.deps.Shield.Left(ctx, sku)
	return left, loaded && err == nil
}

// appendSKU appends the members that cost no call.
func (g *Gateway) appendSKU(b []byte, sku *sale.SKU, stock sale.Stock) []byte {
	b = appendText(b, "sku", sku.Name)
	b = appendText(b, "title", sku.Title)
	b = appendNumber(b, "unit_price", sku.UnitPrice)
	b = appendText(b, "currency", sku.Currency)
	b = appendNumber(b, "per_user_limit", sku.PerUserLimit)
	b = appendTime(b, "opens_at", sku.OpensAt)
	b = appendTime(b, "closes_at", sku.ClosesAt)
	b = appendText(b, "pay_within", (time.Duration(sku.PayWithin) * time.Millisecond).String())
	b = appendText(b, "state", sku.ShownState().String())
	if pending := sku.Pending(); pending != "" {
		b = appendText(b, "pending", pending)
	}
	if sku.Archived() {
		b = appendText(b, "archive", sku.Archive.String())
	}
	b = appendText(b, "heat", sku.Heat.String())
	b = appendNumber(b, "segments", int64(sku.Segments))
	b = appendNumber(b, "version", sku.Version)
	b = appendTime(b, "changed_at", sku.ChangedAt)
	b = appendNumber(b, "total", stock.Total)
	b = appendNumber(b, "reserved", stock.Reserved)
	b = appendNumber(b, "sold", stock.Sold)
	b = appendNumber(b, "available", stock.Available())
	b = appendNumber(b, "queue_depth", int64(g.deps.Queue.Depth(sku.Name)))
	return appendText(b, "path", g.deps.Paths.Path(sku))
}

// maxReduction is what a *sale.StockBelowSoldError in the chain says.
func maxReduction(err error) *int64 {
	var below *sale.StockBelowSoldError
	if errors.As(err, &below) {
		return &below.MaxReduction
	}
	return nil
}
