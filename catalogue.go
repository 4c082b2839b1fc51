package main

import (
	"context"

	"flashgate/checkout"
	"flashgate/ledger"
	"flashgate/sale"
)

// catalogue is the ledger's catalogue as operators change it through a gateway: what
// they change, the shield learns at once, and with it every gateway.
type catalogue struct {
	*ledger.DB
	checkout *checkout.Checkout
	restocks *restocks
}

func (c catalogue) PutSKU(ctx context.Context, sku sale.SKU, stock sale.Stock) (sale.SKU, sale.Stock, bool, error) {
	sku, stock, created, err := c.DB.PutSKU(ctx, sku, stock)
	c.changed(sku.Name, err)
	return sku, stock, created, err
}

func (c catalogue) PatchSKU(ctx context.Context, name string, patch sale.SKUPatch) (sale.SKU, sale.Stock, error) {
	sku, stock, err := c.DB.PatchSKU(ctx, name, patch)
	c.changed(name, err)
	return sku, stock, err
}

func (c catalogue) AddStock(ctx context.Context, name string, delta int64) (sale.SKU, sale.Stock, error) {
	sku, stock, err := c.DB.AddStock(ctx, name, delta)
	c.changed(name, err)
	return sku, stock, err
}

func (c catalogue) changed(name string, err error) {
	if err == nil {
		c.checkout.Reload(name)
		c.restocks.add(name)
	}
}
