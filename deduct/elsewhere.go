package deduct

import (
	"context"
	"fmt"

	"flashgate/sale"
)

// elsewhere marks failures of what a copy is made from, the ledger and the backlog, so
// that they are not taken for failures of Redis.
func elsewhere(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", sale.ErrElsewhere, err)
}

// source is the ledger with its failures marked.
type source struct{ Ledger }

func (s source) Stocks(ctx context.Context, skus []string) (map[string]map[int]sale.Stock, error) {
	stocks, err := s.Ledger.Stocks(ctx, skus)
	return stocks, elsewhere(err)
}

func (s source) Holdings(ctx context.Context, skus []string, most int) (map[string]*sale.Holdings, error) {
	held, err := s.Ledger.Holdings(ctx, skus, most)
	return held, elsewhere(err)
}

func (s source) Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	found, err := s.Ledger.Find(ctx, ids)
	return found, elsewhere(err)
}

func (s source) EachOrder(ctx context.Context, sku string, fn func([]sale.HeldOrder) error) error {
	var ours error
	err := s.Ledger.EachOrder(ctx, sku, func(orders []sale.HeldOrder) error {
		ours = fn(orders)
		return ours
	})
	if ours != nil {
		return err
	}
	return elsewhere(err)
}

func (s source) EachBuyer(ctx context.Context, sku string, fn func(users []string, units []int64) error) error {
	var ours error
	err := s.Ledger.EachBuyer(ctx, sku, func(users []string, units []int64) error {
		ours = fn(users, units)
		return ours
	})
	if ours != nil {
		return err
	}
	return elsewhere(err)
}
