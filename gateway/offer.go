package gateway

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// offer is GET /v1/skus/{sku}: what a buyer may know of a SKU. It is open to anybody
// and may be read by every page of a sale at once.
func (g *Gateway) offer(c *fiber.Ctx) error {
	ctx := c.Context()
	if !g.admitAddr(c, peer(ctx), ctx.Time()) || !g.admitAll(c, ctx.Time()) {
		return nil
	}
	name := c.Params("sku")
	if sale.ValidateSKUName(name) != nil {
		return g.refuse(c, unknownSKU)
	}
	sku, err := g.deps.Ledger.SKU(g.deadlines.context(), strings.Clone(name))
	if err != nil {
		return g.refuseError(c, err)
	}
	state := sku.ShownState()
	if sku.Gate(g.deps.Ledger.Now()) == sale.Closed {
		state = sale.StateClosed
	}
	b := append(make([]byte, 0, 384), '{')
	b = appendText(b, "sku", sku.Name)
	if sku.Title != "" {
		b = appendText(b, "title", sku.Title)
	}
	b = appendText(b, "state", state.String())
	b = appendTime(b, "opens_at", sku.OpensAt)
	b = appendTime(b, "closes_at", sku.ClosesAt)
	b = appendNumber(b, "unit_price", sku.UnitPrice)
	b = appendText(b, "currency", sku.Currency)
	b = appendNumber(b, "per_user_limit", sku.PerUserLimit)
	b = appendBool(b, "sold_out", g.soldOut(g.deadlines.context(), sku.Name))
	return g.json(c, answerOK, append(b, '}'))
}

// soldOut says whether the SKU has no unit left: by the ledger's figure, at most
// stockAge old, and where the ledger is away by the memory that refuses buyers.
func (g *Gateway) soldOut(ctx context.Context, sku string) bool {
	empty, err := g.stocks.empty(ctx, sku, g.deps.Ledger)
	if err != nil {
		return g.deps.SoldOut.SoldOut(sku)
	}
	return empty
}

const (
	stockAge    = 250 * time.Millisecond
	stocksKnown = 4096
)

// stocks remembers for a moment which SKUs were empty, so that a page that everybody
// reloads costs the ledger a few reads a second. Memory is bounded: when it is full, it
// starts over.
type stocks struct {
	mu    sync.Mutex
	known map[string]*stockLook
}

// stockLook is one look at the ledger, shared by all who come while it is fresh.
type stockLook struct {
	until time.Time
	once  sync.Once
	empty bool
	err   error
}

func (s *stocks) empty(ctx context.Context, sku string, ledger Ledger) (bool, error) {
	now := time.Now()
	s.mu.Lock()
	look := s.known[sku]
	if look == nil || now.After(look.until) {
		if s.known == nil || len(s.known) >= stocksKnown {
			s.known = make(map[string]*stockLook)
		}
		look = &stockLook{until: now.Add(stockAge)}
		s.known[sku] = look
	}
	s.mu.Unlock()
	look.once.Do(func() {
		segments, err := ledger.Stock(ctx, sku)
		look.empty, look.err = total(segments).Available() < 1, err
	})
	return look.empty, look.err
}

// total adds up a SKU's segments.
func total(segments map[int]sale.Stock) (sum sale.Stock) {
	for _, s := range segments {
		sum.Total += s.Total
		sum.Reserved += s.Reserved
		sum.Sold += s.Sold
	}
	return sum
}
