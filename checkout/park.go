package checkout

import (
	"context"
	"errors"
	"time"

	"flashgate/sale"
)

const (
	// shortBacklog is how many parked claims are few enough to be waited for: the
	// drain is done with them in a moment, and claims that were parked behind it would
	// only keep it going. Too low: a sale that goes on is answered 202 for long after
	// the ledger is back. Too high: buyers wait for a drain that takes longer than
	// holdFor.
	shortBacklog = 2048
	// holdFor is how long a batch waits for a short backlog before it is parked too.
	holdFor = 2 * time.Second
	// askFor bounds the question whether the ledger is back.
	askFor = time.Second
	// lookAgain is how long claims that cannot go through the shield wait for a backlog
	// before the shield is asked again.
	lookAgain = 250 * time.Millisecond
	// parkFor bounds the wait for the backlog's acknowledgements. Too low: a change of
	// its leader makes 503 of what was stored. Too high: buyers wait for it.
	parkFor = 3 * time.Second
	// markFor is how much longer than it can wait a parked claim is shown as queued.
	markFor = time.Minute
)

// queuesBehind reports whether what the shield admits of the batch has to be parked:
// because the ledger is away, or because claims of the SKU are parked, which come
// first. A backlog that will be drained in a moment is waited for. One that is away
// itself, with the ledger back, must not stop the sale: the parked claims have their
// units in the shield, so that nobody takes them who goes through it.
func (c *Checkout) queuesBehind(ctx context.Context, b *batch) bool {
	if c.Backlog == nil {
		return false
	}
	if !c.Ledger.Usable() {
		return true
	}
	waiting := c.Backlog.Waiting(b.sku.Name)
	if waiting == 0 {
		return false
	}
	if waiting > shortBacklog && c.Backlog.Usable() || !c.ledgerAnswers(ctx, b) {
		return true
	}
	if b.beside = !c.Backlog.Usable(); b.beside {
		return false
	}
	ctx, cancel := context.WithDeadline(ctx, earlier(time.Now().Add(holdFor), b.due))
	defer cancel()
	return !c.Backlog.Drained(ctx, b.sku.Name)
}

// ledgerAnswers asks. That a breaker is usable may only mean that nobody has called
// of late.
func (c *Checkout) ledgerAnswers(ctx context.Context, b *batch) bool {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	_, err := c.Ledger.Find(ctx, []sale.OrderID{b.claims[0].ID})
	return err == nil
}

// mayGoAround reports whether claims that the shield cannot judge may go around it:
// only when the ledger is there and nothing of the SKU is parked. Otherwise it waits a
// little, after which the shield is asked again about the claims that are still open.
func (c *Checkout) mayGoAround(ctx context.Context, b *batch) bool {
	if !b.behind && !b.beside {
		return true
	}
	if b.beside || !c.Ledger.Usable() {
		b.end(sale.Verdict{Err: sale.ErrUnavailable})
		return false
	}
	wait, cancel := context.WithDeadline(ctx, earlier(time.Now().Add(lookAgain), b.due))
	defer cancel()
	if c.Backlog.Drained(wait, b.sku.Name) {
		b.behind = false
		return true
	}
	if !time.Now().Before(b.due) || ctx.Err() != nil {
		b.end(sale.Verdict{Outcome: sale.TimedOut})
	}
	return false
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// end gives every claim that is still open the same verdict.
func (b *batch) end(v sale.Verdict) {
	for _, i := range b.popOpen() {
		b.verdicts[i] = v
	}
}

// parks reports whether claims that failed so are parked.
func (c *Checkout) parks(err error) bool {
	return c.Backlog != nil && !errors.Is(err, sale.ErrShuttingDown)
}

// park puts what the shield admitted and the ledger did not answer on, or must not be
// asked about yet, into the backlog, and with it repeats that may belong to such a
// claim: whoever drains it finds out. It has its own time, since a parked claim lives
// by another clock; only the end of the process cuts it short.
func (c *Checkout) park(ctx context.Context, b *batch) {
	list, took := b.repeats, 0
	if b.failed || b.behind {
		list, took = append(b.admitted[:len(b.admitted):len(b.admitted)], b.repeats...), len(b.admitted)
	}
	if len(list) == 0 {
		return
	}
	if !c.Backlog.Usable() {
		for _, i := range list {
			b.verdicts[i] = sale.Verdict{Err: sale.ErrUnavailable}
		}
		if took > 0 {
			b.settled = !b.offered
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, parkFor)
	defer cancel()
	now := c.Ledger.Now()
	parked, orders := make([]sale.Parked, len(list)), make([]sale.Order, len(list))
	for k, i := range list {
		parked[k] = sale.Parked{Claim: *b.claims[i], ParkedAt: now}
		if k < took {
			parked[k].Took, parked[k].Segment = true, b.segments[k]
		}
		orders[k] = sale.QueuedOrder(b.claims[i])
	}
	// The mark comes first: it must not hide what the drainer says later.
	c.remember(ctx, orders, c.cfg.MaxWait+markFor)
	known := true
	var unmark []sale.Order
	for k, err := range c.Backlog.Park(ctx, b.sku.Name, parked) {
		i := list[k]
		switch {
		case err == nil:
			b.verdicts[i] = sale.Verdict{Outcome: sale.Queued, Order: &orders[k]}
		case errors.Is(err, sale.ErrQueueFull):
			b.verdicts[i] = sale.Verdict{Err: sale.ErrQueueFull}
		default:
			b.verdicts[i] = sale.Verdict{Err: sale.ErrUnavailable}
		}
		// What neither the backlog nor the ledger can have needs no reconciler.
		if err != nil && !errors.Is(err, sale.ErrUnknown) {
			unmark = append(unmark, sale.Rejected(b.claims[i], sale.TimedOut))
		}
		if k < took && err != nil && (b.offered || errors.Is(err, sale.ErrUnknown)) {
			known = false
		}
	}
	if len(unmark) > 0 {
		c.remember(ctx, unmark, time.Millisecond) // gone at once: nothing is known of them
	}
	if took > 0 {
		b.settled = known
	}
}
