package checkout

import (
	"context"
	"errors"
	"sync"
	"time"

	"flashgate/sale"
)

// Settle decides one batch. It returns one verdict per claim, in order, and calls
// admitted as soon as the SKU's next batch may enter the shield.
func (c *Checkout) Settle(ctx context.Context, name string, claims []*sale.Claim, admitted func()) []sale.Verdict {
	b := newBatch(claims, c.cfg.MaxAge)
	ctx, cancel := context.WithDeadline(ctx, b.deadline)
	defer cancel()

	sku, err := c.Ledger.SKU(ctx, name)
	if err != nil {
		return b.fail(err)
	}
	b.sku = sku
	if !c.LedgerBreaker.Usable() {
		// Without the ledger nobody can be told yes: no units are taken for nothing.
		return b.fail(sale.ErrUnavailable)
	}
	c.refuseByState(b)
	c.refuseFromMemory(ctx, b)
	if len(b.open) > 0 && !c.throughShield(ctx, b) {
		c.aroundShield(ctx, b)
	}
	admitted()

	var wg sync.WaitGroup
	if len(b.unsure) > 0 || len(b.refused) > 0 {
		wg.Go(func() { c.decideUnsure(ctx, b) })
	}
	c.commit(ctx, b)
	wg.Wait()
	c.learn(b)
	c.count(b)
	return b.verdicts
}

// refuseByState refuses what the sale's state does not allow. The ledger checks the
// state again, exactly, when it has changed since this gateway saw it.
func (c *Checkout) refuseByState(b *batch) {
	if gate := b.sku.Gate(c.Ledger.Now()); gate != sale.Reserved {
		for _, i := range b.takeOpen() {
			b.refuse(i, gate)
		}
	}
}

// refuseFromMemory spares the shield a batch of a SKU that is sold out and still is, by
// the ledger's own word. A SKU with a limit goes to the shield all the same, because a
// buyer at the limit is to hear of the limit first.
func (c *Checkout) refuseFromMemory(ctx context.Context, b *batch) {
	m := c.memoOf(b.sku.Name)
	if len(b.open) == 0 || b.sku.PerUserLimit != 0 || !m.soldOut.fresh(time.Now()) {
		return
	}
	var found map[sale.OrderID]sale.Order
	exhausted := false
	err := c.LedgerBreaker.Do(ctx, func(ctx context.Context) (err error) {
		found, exhausted, err = c.Ledger.FindExhausted(ctx, b.sku.Name, b.keyed(b.open))
		return err
	})
	if err != nil {
		return // the shield can still say what to do with each claim
	}
	if !exhausted {
		m.soldOut.clear()
		return
	}
	m.soldOut.note(time.Now(), c.cfg.SoldOutMin, c.cfg.SoldOutMax)
	for _, i := range b.takeOpen() {
		if !b.repeat(i, found) {
			b.verdicts[i] = sale.Verdict{Outcome: sale.SoldOut}
		}
	}
}

// throughShield has the shield judge every open claim; false means that it cannot and
// the claims, still open, go around it. An outcome that is unknown is not guessed: the
// claims go on under the same ids, and what the shield may have taken stays tentative
// until the reconciler holds it against the ledger.
func (c *Checkout) throughShield(ctx context.Context, b *batch) bool {
	if b.sku.Heat == sale.HeatCold {
		return false
	}
	m := c.memoOf(b.sku.Name)
	settled := m.take()
	var d sale.Deduction
	err := c.ShieldBreaker.Do(ctx, func(ctx context.Context) (err error) {
		d, err = c.Shield.Deduct(ctx, b.sku, b.openClaims(), settled)
		return err
	})
	if err != nil {
		m.giveBack(settled)
		return false
	}
	if !d.Loaded {
		c.rebuilds.want(b.sku.Name)
		return false
	}
	b.token = d.Token
	for k, i := range b.takeOpen() {
		switch d.Answers[k] {
		case sale.Admitted:
			b.admitted = append(b.admitted, i)
			b.segments = append(b.segments, d.Segments[k])
		case sale.Seen:
			b.unsure = append(b.unsure, i)
		case sale.ShieldLimit:
			if c.limitChecks.Allow() {
				b.unsure = append(b.unsure, i)
				break
			}
			b.refuse(i, sale.LimitReached)
		case sale.ShieldSoldOut:
			b.refuse(i, sale.SoldOut)
		default:
			b.verdicts[i] = sale.Verdict{Err: sale.ErrUnavailable}
		}
	}
	if d.Left < 1 {
		m.soldOut.note(time.Now(), c.cfg.SoldOutMin, c.cfg.SoldOutMax)
	} else {
		m.soldOut.clear()
	}
	return true
}

// aroundShield lets the open claims pass at the pace that the ledger can bear.
func (c *Checkout) aroundShield(ctx context.Context, b *batch) {
	if err := c.Around.Wait(ctx, len(b.open), b.deadline); err != nil {
		for _, i := range b.takeOpen() {
			b.verdicts[i] = failure(err)
		}
		return
	}
	b.around = b.takeOpen()
}

// commit has the ledger decide what the shield admitted, or what came around it.
func (c *Checkout) commit(ctx context.Context, b *batch) {
	if len(b.admitted) > 0 {
		res, offered, err := c.ask(ctx, sale.CommitBatch{SKU: b.sku, Claims: b.pick(b.admitted), Segments: b.segments})
		b.settled = err == nil || !offered
		b.left = res.Left
		b.adopt(b.admitted, res, err)
		if res.Contradicted {
			c.metrics.contradicted.Inc()
			c.Shield.Distrust(b.sku.Name, c.Ledger.Now())
			c.rebuilds.want(b.sku.Name)
		}
	}
	if len(b.around) > 0 {
		c.metrics.around.Add(float64(len(b.around)))
		res, _, err := c.ask(ctx, sale.CommitBatch{SKU: b.sku, Claims: b.pick(b.around), LockFirst: true})
		b.adopt(b.around, res, err)
		c.noteStock(b.sku.Name, res)
	}
}

// decideUnsure settles what the shield could not: ids it has seen, and refusals of
// claims with a key, which may be repeats of orders that exist. One read answers all
// repeats; what the shield saw and the ledger does not know is decided there.
func (c *Checkout) decideUnsure(ctx context.Context, b *batch) {
	ids := b.keyed(b.refused)
	for _, i := range b.unsure {
		ids = append(ids, b.claims[i].ID)
	}
	var found map[sale.OrderID]sale.Order
	if len(ids) > 0 {
		err := c.LedgerBreaker.Do(ctx, func(ctx context.Context) (err error) {
			found, err = c.findRefused(ctx, b, ids)
			return err
		})
		if err != nil {
			for _, i := range b.unsure {
				b.verdicts[i] = failure(err)
			}
			for _, i := range b.refused {
				if b.claims[i].Keyed {
					b.verdicts[i] = failure(err)
				}
			}
			return
		}
	}
	for _, i := range b.refused {
		b.repeat(i, found)
	}
	open := b.unsure[:0]
	for _, i := range b.unsure {
		if !b.repeat(i, found) {
			open = append(open, i)
		}
	}
	if len(open) == 0 {
		return
	}
	res, _, err := c.ask(ctx, sale.CommitBatch{SKU: b.sku, Claims: b.pick(open), LockFirst: true})
	b.adopt(open, res, err)
	if err == nil && anyReserved(res) {
		// The shield held against these buyers what the ledger does not know of.
		c.Shield.Distrust(b.sku.Name, c.Ledger.Now())
		c.rebuilds.want(b.sku.Name)
	}
}

// findRefused looks the ids up: where all of them were refused as sold out, by the
// cheaper question.
func (c *Checkout) findRefused(ctx context.Context, b *batch, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	if len(b.unsure) == 0 && b.allSoldOut() {
		found, exhausted, err := c.Ledger.FindExhausted(ctx, b.sku.Name, ids)
		if err != nil || exhausted {
			return found, err
		}
	}
	return c.Ledger.Find(ctx, ids)
}

// ask has the ledger decide a batch, under the ledger's breaker. When offered is
// false the ledger never saw the claims.
func (c *Checkout) ask(ctx context.Context, cb sale.CommitBatch) (res sale.CommitResult, offered bool, err error) {
	err = c.LedgerBreaker.Do(ctx, func(ctx context.Context) (err error) {
		offered = true
		res, err = c.Ledger.Commit(ctx, cb)
		return err
	})
	return res, offered, err
}

// noteStock remembers what the ledger said is left.
func (c *Checkout) noteStock(name string, res sale.CommitResult) {
	if res.Left == nil {
		return
	}
	var left int64
	for _, n := range res.Left {
		left += n
	}
	if left < 1 {
		c.memoOf(name).soldOut.note(time.Now(), c.cfg.SoldOutMin, c.cfg.SoldOutMax)
	}
}

// learn keeps what the shield is to hear with the SKU's next batch. When it is not
// known what the ledger did there is nothing to tell: the batch stays tentative.
func (c *Checkout) learn(b *batch) {
	if len(b.admitted) == 0 || !b.settled {
		return
	}
	c.memoOf(b.sku.Name).add(b.settlements())
}

func (c *Checkout) count(b *batch) {
	var refusals [sale.Queued + 1]int
	for _, v := range b.verdicts {
		refusals[v.Outcome]++
	}
	c.metrics.count(&refusals)
	if c.Stats == nil {
		return
	}
	for o, n := range refusals {
		if n > 0 && sale.Outcome(o).Refusal() {
			c.Stats.Count(b.claims[0].SKU, sale.Outcome(o), n)
		}
	}
}

func anyReserved(res sale.CommitResult) bool {
	for _, v := range res.Verdicts {
		if v.Outcome == sale.Reserved {
			return true
		}
	}
	return false
}

// failure is the verdict when infrastructure failed: one of the sentinels that the
// edge knows, whatever the cause.
func failure(err error) sale.Verdict {
	for _, known := range []error{sale.ErrDegraded, sale.ErrUnknownSKU, sale.ErrShuttingDown} {
		if errors.Is(err, known) {
			return sale.Verdict{Err: known}
		}
	}
	return sale.Verdict{Err: sale.ErrUnavailable}
}
