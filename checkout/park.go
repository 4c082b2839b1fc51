package checkout

import (
	"cmp"
	"context"
	"errors"
	"slices"
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

// placeOf is where the batch stands: what the shield admits of it has to be parked when
// the ledger is away, or when claims of the SKU are parked, which come first. A backlog
// that will be drained in a moment is waited for. One that is away itself, with the ledger
// back, must not stop the sale: the parked claims have their units in the shield, so that
// nobody takes them who goes through it.
func (c *Checkout) placeOf(ctx context.Context, b *batch) place {
	if c.Backlog == nil {
		return first
	}
	if !c.Ledger.Usable() {
		return behind
	}
	waiting := c.Backlog.Waiting(b.sku.Name)
	switch {
	case waiting == 0:
		return first
	case waiting > shortBacklog && c.Backlog.Usable(), !c.ledgerAnswers(ctx, b):
		return behind
	case !c.Backlog.Usable():
		return beside
	}
	ctx, cancel := context.WithDeadline(ctx, earlier(time.Now().Add(holdFor), b.due))
	defer cancel()
	if c.Backlog.Drained(ctx, b.sku.Name) {
		return first
	}
	return behind
}

// ledgerAnswers asks. That a breaker is usable may only mean that nobody has called
// of late.
func (c *Checkout) ledgerAnswers(ctx context.Context, b *batch) bool {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	_, err := c.Ledger.Find(ctx, []sale.OrderID{b.entries[0].claim.ID})
	return err == nil
}

// mayGoAround reports whether claims that the shield cannot judge may go around it:
// only when the ledger is there and nothing of the SKU is parked. Otherwise it waits a
// little, after which the shield is asked again about the claims that are still open.
func (c *Checkout) mayGoAround(ctx context.Context, b *batch) bool {
	if b.place == first {
		return true
	}
	if b.place == beside || !c.Ledger.Usable() {
		b.end(sale.Verdict{Err: sale.ErrUnavailable})
		return false
	}
	wait, cancel := context.WithDeadline(ctx, earlier(time.Now().Add(lookAgain), b.due))
	defer cancel()
	if c.Backlog.Drained(wait, b.sku.Name) {
		b.place = first
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

// parks reports whether claims that failed so are parked.
func (c *Checkout) parks(err error) bool {
	return c.Backlog != nil && !errors.Is(err, sale.ErrShuttingDown)
}

// park puts what the shield admitted and the ledger did not answer on, or must not be
// asked about yet, into the backlog, and with it repeats that may belong to such a
// claim: whoever drains it finds out. It has its own time, since a parked claim lives
// by another clock; only the end of the process cuts it short.
func (c *Checkout) park(ctx context.Context, b *batch) {
	list := b.with(waiting)
	if len(list) == 0 {
		return
	}
	// What the shield took units for comes before what may be its repeat.
	slices.SortStableFunc(list, func(x, y *entry) int { return cmp.Compare(min(y.segment, 0), min(x.segment, 0)) })
	if !c.Backlog.Usable() {
		for _, e := range list {
			b.notParked(e, sale.ErrUnavailable)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, parkFor)
	defer cancel()
	now := c.Ledger.Now()
	parked, orders := make([]sale.Parked, len(list)), make([]sale.Order, len(list))
	for k, e := range list {
		parked[k] = sale.Parked{Claim: *e.claim, ParkedAt: now}
		if e.segment != none {
			parked[k].Took, parked[k].Segment = true, e.segment
		}
		orders[k] = sale.QueuedOrder(e.claim)
	}
	// The mark comes first: it must not hide what the drainer says later.
	c.remember(ctx, orders, c.cfg.MaxWait+markFor)
	var unmark []sale.Order
	for k, err := range c.Backlog.Park(ctx, b.sku.Name, parked) {
		e := list[k]
		if err == nil {
			e.decide(sale.Verdict{Outcome: sale.Queued, Order: &orders[k]})
			continue
		}
		b.notParked(e, err)
		// What neither the backlog nor the ledger can have needs no reconciler.
		if !errors.Is(err, sale.ErrUnknown) {
			unmark = append(unmark, sale.Rejected(e.claim, sale.TimedOut))
		}
	}
	if len(unmark) > 0 {
		c.remember(ctx, unmark, time.Millisecond) // gone at once: nothing is known of them
	}
}

// notParked ends a claim that the backlog did not take, or may not have taken.
func (b *batch) notParked(e *entry, err error) {
	e.decide(sale.Verdict{Err: sale.ErrUnavailable})
	if errors.Is(err, sale.ErrQueueFull) {
		e.verdict.Err = sale.ErrQueueFull
	}
	if b.offered || errors.Is(err, sale.ErrUnknown) {
		e.fate = lost
	}
}
