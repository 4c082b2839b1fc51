package fallback

import (
	"context"
	"fmt"

	"flashgate/sale"
)

// Orders is where orders for all gateways are kept: the ledger.
type Orders interface {
	Now() int64 // Unix ms on the ledger's clock
	// GiveBreakerOrder keeps an order in the place of the one before it, and returns all
	// that stand.
	GiveBreakerOrder(ctx context.Context, o sale.BreakerOrder) ([]sale.BreakerOrder, error)
	BreakerOrders(ctx context.Context) ([]sale.BreakerOrder, error)
}

// ObeyEvery is how often a gateway asks for orders: each is to reach all of them within
// a second.
const ObeyEvery = PulseEvery

// Panel is the set of breakers as operators work them.
type Panel struct {
	gateway  string
	orders   Orders
	breakers []*Breaker
}

// NewPanel makes the panel of the gateway of that name.
func NewPanel(gateway string, orders Orders, breakers ...*Breaker) *Panel {
	return &Panel{gateway, orders, breakers}
}

// Breakers returns the status of each, in the panel's order.
func (p *Panel) Breakers() []sale.BreakerStatus {
	out := make([]sale.BreakerStatus, len(p.breakers))
	for i, b := range p.breakers {
		out[i] = b.Status()
	}
	return out
}

// ForceBreaker gives a breaker an operator's order. One for all gateways is kept in the
// ledger, and obeyed here at once; with the ledger away nobody obeys it, and the error
// wraps sale.ErrUnavailable. One for this gateway needs nothing.
func (p *Panel) ForceBreaker(ctx context.Context, scope sale.BreakerScope, o sale.BreakerOrder) (sale.BreakerStatus, error) {
	o.By = p.gateway
	for _, b := range p.breakers {
		if b.cfg.Name != o.Name {
			continue
		}
		if scope == sale.ScopeGateway {
			b.force(orderOf(o, scope, p.orders.Now()))
			return b.Status(), nil
		}
		orders, err := p.orders.GiveBreakerOrder(ctx, o)
		if err != nil {
			return sale.BreakerStatus{}, fmt.Errorf("an order for all gateways: %w", err)
		}
		p.follow(orders)
		return b.Status(), nil
	}
	return sale.BreakerStatus{}, fmt.Errorf("%w: no breaker %q", sale.ErrInvalid, o.Name)
}

// Obey looks for orders that were given through other gateways; it is the body of a job.
// While the ledger is away what was ordered last counts until its time is over.
func (p *Panel) Obey(ctx context.Context) error {
	orders, err := p.orders.BreakerOrders(ctx)
	if err != nil {
		return fmt.Errorf("look for orders: %w", err)
	}
	p.follow(orders)
	return nil
}

func (p *Panel) follow(orders []sale.BreakerOrder) {
	now := p.orders.Now()
	for _, o := range orders {
		for _, b := range p.breakers {
			if b.cfg.Name == o.Name {
				b.follow(orderOf(o, sale.ScopeFleet, now), o.At)
			}
		}
	}
}
