package checkout

import (
	"context"
	"errors"
	"time"

	"flashgate/sale"
)

// SettleParked decides parked claims of one SKU for good, in their order: it is what a
// drain of the backlog calls, with the ledger back. An error means that none may be
// decided and all are to be offered again. Called again with the same claims it comes
// to the same end, since the ledger knows the orders that it made of them.
func (c *Checkout) SettleParked(ctx context.Context, name string, parked []sale.Parked) error {
	sku, err := c.Ledger.SKU(ctx, name)
	if err != nil && !errors.Is(err, sale.ErrUnknownSKU) {
		return err
	}
	d := &draining{sku: sku, parked: parked, verdicts: make([]sale.Verdict, len(parked))}
	if err != nil {
		for i := range d.verdicts {
			d.verdicts[i].Outcome = sale.Closed // there is no such SKU any more
		}
		c.finish(ctx, name, d)
		return nil
	}
	due, overdue := d.split(c.Ledger.Now(), c.cfg.MaxWait)
	if err := c.endOverdue(ctx, d, overdue); err != nil {
		return err
	}
	if err := c.commitParked(ctx, d, due); err != nil {
		return err
	}
	c.tellParked(ctx, d)
	c.finish(ctx, name, d)
	return nil
}

// draining is parked claims on their way to their end.
type draining struct {
	sku      *sale.SKU
	parked   []sale.Parked
	verdicts []sale.Verdict
	left     map[int]int64 // what the ledger had left where it refused for stock
}

// split tells claims that may still become orders from those that have waited for longer
// than they may. Both clocks have to say so: the ledger that has just taken over may have
// another than the one that was there when they were parked.
func (d *draining) split(now int64, most time.Duration) (due, overdue []int) {
	for i := range d.parked {
		p := &d.parked[i]
		if p.ParkedAt < now-most.Milliseconds() && (p.Waited == 0 || p.Waited > most) {
			overdue = append(overdue, i)
		} else {
			due = append(due, i)
		}
	}
	return due, overdue
}

// endOverdue rejects what has waited too long, unless it is an order: a commit whose
// outcome was unknown when the claim was parked may have succeeded, and a repeat may
// belong to an order that was there before.
func (c *Checkout) endOverdue(ctx context.Context, d *draining, overdue []int) error {
	if len(overdue) == 0 {
		return nil
	}
	ids := make([]sale.OrderID, len(overdue))
	for k, i := range overdue {
		ids[k] = d.parked[i].Claim.ID
	}
	found, err := c.Ledger.Find(ctx, ids)
	if err != nil {
		return err
	}
	for k, i := range overdue {
		if _, ok := found[ids[k]]; ok {
			d.verdicts[i].Outcome = sale.Duplicate
		} else {
			d.verdicts[i].Outcome = sale.TimedOut
		}
	}
	return nil
}

// commitParked has the ledger decide, with its rows locked, since much may have
// happened since the shield admitted the claims.
func (c *Checkout) commitParked(ctx context.Context, d *draining, due []int) error {
	if len(due) == 0 {
		return nil
	}
	// Other SKUs wait behind this one, which comes again.
	batch := sale.CommitBatch{SKU: d.sku, LockFirst: true, Yield: true}
	for _, i := range due {
		segment := -1
		if d.parked[i].Took {
			segment = d.parked[i].Segment
		}
		batch.Claims, batch.Segments = append(batch.Claims, &d.parked[i].Claim), append(batch.Segments, segment)
	}
	res, err := c.Ledger.Commit(ctx, batch)
	if err != nil {
		return err
	}
	for k, i := range due {
		v := res.Verdicts[k]
		if v.Err != nil {
			// It could never be decided: it must not hold up the claims behind it.
			c.log.Error("a parked claim cannot be decided and is rejected", "sku", d.sku.Name, "order", batch.Claims[k].ID.String(), "err", v.Err)
			v = sale.Verdict{Outcome: sale.TimedOut}
		}
		d.verdicts[i] = v
	}
	d.left = res.Left
	c.noteStock(c.memoOf(d.sku.Name), res)
	return nil
}

// tellParked gives back to the shield what it took for claims that were refused. An
// order that exists keeps the units, whichever attempt made it: should the shield have
// taken them twice, the reconciler finds out.
func (c *Checkout) tellParked(ctx context.Context, d *draining) {
	first := sale.Settlement{LedgerLeft: -1}
	for i, v := range d.verdicts {
		if p := &d.parked[i]; p.Took && v.Outcome.Refusal() && v.Outcome != sale.Conflict {
			first.Refused = append(first.Refused, sale.Refused{
				ID: p.Claim.ID, User: p.Claim.User, Quantity: p.Claim.Quantity, Segment: p.Segment, Restock: v.Outcome != sale.SoldOut,
			})
		}
	}
	told := append([]sale.Settlement{first}, figures(d.sku, d.left, nil)...)
	if len(first.Refused) == 0 && len(told) == 1 {
		return
	}
	if err := c.Shield.Settle(ctx, d.sku, told); err != nil {
		// A shield that was away is loaded anew, without what the ledger refused.
		c.log.Debug("shield not told of parked claims", "sku", d.sku.Name, "err", err)
	}
}

// finish keeps refusals for the buyers who were told to come back, and counts. Orders
// are found in the ledger, also by a repeat that is in conflict with one.
func (c *Checkout) finish(ctx context.Context, name string, d *draining) {
	var orders []sale.Order
	var outcomes [sale.Queued + 1]int
	for i, v := range d.verdicts {
		outcomes[v.Outcome]++
		if v.Outcome.Refusal() && v.Outcome != sale.Conflict {
			orders = append(orders, sale.Rejected(&d.parked[i].Claim, v.Outcome))
		}
	}
	if len(orders) > 0 {
		c.remember(ctx, orders, c.cfg.VerdictTTL)
	}
	c.countOutcomes(name, &outcomes)
}
