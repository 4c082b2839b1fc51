package main

import (
	"context"
	"log/slog"

	"flashgate/checkout"
	"flashgate/deduct"
	"flashgate/fallback"
	"flashgate/ledger"
	"flashgate/sale"
)

// lifecycle is what becomes of orders in the ledger, as a gateway works it: what is
// given back, the shield and this gateway learn at once.
type lifecycle struct {
	*ledger.DB
	shield   *deduct.Shield
	breaker  *fallback.Breaker // of the shield
	checkout *checkout.Checkout
	restocks *restocks
	log      *slog.Logger
}

func (l lifecycle) Cancel(ctx context.Context, id sale.OrderID, user string) (sale.Order, error) {
	o, err := l.DB.Cancel(ctx, id, user)
	if err == nil {
		l.release(ctx, o.SKU, []sale.Order{o})
	}
	return o, err
}

// release gives back to the shield what the ledger has been given back. Where that
// fails, or the shield does not know the order, the units are found in the ledger.
func (l lifecycle) release(ctx context.Context, name string, orders []sale.Order) {
	sku, err := l.SKU(ctx, name)
	if err == nil {
		err = l.breaker.Do(ctx, func(ctx context.Context) error { return l.shield.Release(ctx, sku, orders) })
	}
	if err != nil {
		l.log.Debug("the shield was not told of units given back", "sku", name, "orders", len(orders), "error", err)
	}
	l.restocks.add(name)
	l.checkout.Restocked(name)
}
