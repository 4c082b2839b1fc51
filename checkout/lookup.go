package checkout

import (
	"context"
	"slices"
	"time"

	"flashgate/sale"
)

// lookUp asks the ledger, beside the commit, for the orders of claims that may be
// repeats: ids the shield has seen, and refusals of claims with a key.
func (c *Checkout) lookUp(ctx context.Context, b *batch, list []*entry) {
	c.lookUpSoldOut(ctx, b, list)
	list = slices.DeleteFunc(list, func(e *entry) bool { return e.fate == decided })
	var ids []sale.OrderID
	for _, e := range list {
		if e.claim.Keyed || e.fate != refused {
			ids = append(ids, e.claim.ID)
		}
	}
	var found map[sale.OrderID]sale.Order
	var err error
	if len(ids) > 0 {
		found, err = c.Ledger.Find(ctx, ids)
	}
	for _, e := range list {
		switch {
		case err != nil && e.fate == seen && c.parks(err):
			e.fate = waiting
		case err != nil:
			e.unanswered(err)
		case e.repeat(found):
		case e.fate == refused:
			e.stands()
		case b.place == behind:
			e.fate = waiting
		}
	}
}

// lookUpSoldOut does so for claims with a key that the shield refused as sold out. That is
// final where the ledger has nothing left itself: then nothing that is on its way fits any
// more. What the shield let through is most often committed in a moment; where the ledger
// has something left even then, it decides.
func (c *Checkout) lookUpSoldOut(ctx context.Context, b *batch, list []*entry) {
	if b.place != first {
		return
	}
	var asked []*entry
	for _, e := range list {
		if e.fate == refused && e.said == sale.SoldOut && e.claim.Keyed {
			asked = append(asked, e)
		}
	}
	if len(asked) == 0 {
		return
	}
	found, exhausted, err := c.findExhausted(ctx, b.sku.Name, keyed(asked))
	for _, e := range asked {
		switch {
		case err != nil:
			e.unanswered(err)
		case !exhausted:
			e.doubt(sale.SoldOut)
		case !e.repeat(found):
			e.stands()
		}
	}
}

// findExhausted waits a little for the ledger to have nothing left.
func (c *Checkout) findExhausted(ctx context.Context, sku string, ids []sale.OrderID) (found map[sale.OrderID]sale.Order, exhausted bool, err error) {
	for look := 1; ; look++ {
		found, exhausted, err = c.Ledger.FindExhausted(ctx, sku, ids)
		if err != nil || exhausted || look == exhaustedLooks {
			return found, exhausted, err
		}
		timer := time.NewTimer(exhaustedPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, false, ctx.Err()
		}
	}
}
