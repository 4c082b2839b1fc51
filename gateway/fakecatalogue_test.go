package gateway

import (
	"context"

	"flashgate/sale"
)

func (l *fakeLedger) PutSKU(_ context.Context, sku sale.SKU, stock sale.Stock, expect sale.Expect) (sale.SKU, sale.Stock, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return sale.SKU{}, sale.Stock{}, false, l.err
	}
	old, exists := l.stock[sku.Name]
	var before sale.SKU
	if s := l.skus[sku.Name]; s != nil {
		before = *s
	}
	if err := expect.Check(before, old); err != nil {
		return sale.SKU{}, sale.Stock{}, false, err
	}
	sku.Version = before.Version
	stock.Sold = old.Sold
	if stock.Available() < 0 {
		return sale.SKU{}, sale.Stock{}, false, &sale.StockBelowSoldError{MaxReduction: old.Available()}
	}
	sku.Version++
	l.skus[sku.Name], l.stock[sku.Name] = &sku, stock
	return sku, stock, !exists, nil
}

func (l *fakeLedger) PatchSKU(_ context.Context, name string, patch sale.SKUPatch) (sale.SKU, sale.Stock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.skus[name]
	if !ok {
		return sale.SKU{}, sale.Stock{}, sale.ErrUnknownSKU
	}
	sku, stock, err := patch.Apply(*old, l.stock[name])
	if err == nil {
		sku.Version++
		l.skus[name], l.stock[name] = &sku, stock
	}
	return sku, stock, err
}

func (l *fakeLedger) AddStock(ctx context.Context, name string, delta int64, key string) (sku sale.SKU, stock sale.Stock, replayed bool, err error) {
	l.mu.Lock()
	before, again := l.added[name+key]
	t := l.stock[name].Total + delta
	l.mu.Unlock()
	switch {
	case key != "" && again && before != delta:
		return sku, stock, false, sale.ErrKeyReused
	case key != "" && again:
		return *l.skus[name], l.stock[name], true, nil
	}
	if sku, stock, err = l.PatchSKU(ctx, name, sale.SKUPatch{Total: &t}); err == nil {
		l.added[name+key] = delta
	}
	return sku, stock, false, err
}

func (l *fakeLedger) ListSKUs(_ context.Context, after string, limit int) ([]sale.Listing, error) {
	var out []sale.Listing
	for _, name := range []string{"closed", "early", "paused", "phone"} {
		if name > after && len(out) < limit {
			out = append(out, sale.Listing{SKU: *l.skus[name], Stock: l.stock[name]})
		}
	}
	return out, l.err
}
