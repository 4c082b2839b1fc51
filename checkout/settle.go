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
	b, whole := newBatch(claims, c.cfg.MaxAge), ctx
	// Calls to a dependency that cannot be in time would count against it, so even a
	// batch whose oldest claim is as old as it may be gets a while for them.
	ctx, cancel := context.WithDeadline(ctx, b.due.Add(c.cfg.MaxAge/8))
	defer cancel()

	if err := c.judge(ctx, name, b); err != nil {
		b.fail(err)
	}
	admitted()
	var wg sync.WaitGroup
	if len(b.admitted)+len(b.around) > 0 {
		wg.Go(func() { c.commit(ctx, b) })
	}
	c.lookUp(ctx, b)
	wg.Wait()
	c.decideUnsure(ctx, b)
	c.park(whole, b)
	c.learn(b)
	c.count(b)
	return b.verdicts
}

// judge has every claim refused, admitted, sent around, or left unsure. An error means
// that nothing can be done for any of them.
func (c *Checkout) judge(ctx context.Context, name string, b *batch) error {
	sku, err := c.Ledger.SKU(ctx, name)
	if err != nil {
		return err
	}
	b.sku = sku
	b.behind = c.queuesBehind(ctx, b)
	if b.behind && !c.Backlog.Usable() || !b.behind && !c.Ledger.Usable() {
		// Nobody can be told yes, nor be queued: no units are taken for nothing.
		return sale.ErrUnavailable
	}
	c.refuseByState(b)
	c.refuseFromMemory(ctx, b)
	for len(b.open) > 0 && !c.throughShield(ctx, b) {
		if c.mayGoAround(ctx, b) {
			c.aroundShield(ctx, b)
		}
	}
	return nil
}

// refuseByState refuses what the sale's state does not allow. The ledger checks the
// state again, exactly, when it has changed since this gateway saw it. Around the times at
// which a sale opens and closes it decides claims with a key itself: another gateway, whose
// clock is not quite the same, may have the same claim on its way.
func (c *Checkout) refuseByState(b *batch) {
	now := c.Ledger.Now()
	gate := b.sku.Gate(now)
	if gate == sale.Reserved {
		return
	}
	near := func(at int64) bool { return at != 0 && max(at-now, now-at) < clockDoubt.Milliseconds() }
	doubt := near(b.sku.OpensAt) || near(b.sku.ClosesAt)
	for _, i := range b.popOpen() {
		if doubt && b.claims[i].Keyed && !b.behind && !b.beside {
			b.doubt(i, gate)
		} else {
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
	found, exhausted, err := c.Ledger.FindExhausted(ctx, b.sku.Name, b.keyed(b.open))
	if err != nil {
		return // the shield can still say what to do with each claim
	}
	if !exhausted {
		m.soldOut.clear()
		return
	}
	m.soldOut.note(time.Now())
	for _, i := range b.popOpen() {
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
	settled := m.drain()
	b.asked = c.Ledger.Now()
	d, err := c.Shield.Deduct(ctx, b.sku, b.openClaims(), settled)
	if err != nil {
		c.keep(b.sku.Name, settled)
		b.missed = true
		return false
	}
	if !d.Loaded {
		c.rebuilds.want(b.sku.Name)
		return false
	}
	b.token, b.copies = d.Token, d.Copies
	spare := d.Left
	for k, i := range b.popOpen() {
		switch d.Answers[k] {
		case sale.Admitted:
			b.admitted = append(b.admitted, i)
			b.segments = append(b.segments, d.Segments[k])
		case sale.Seen:
			b.unsure = append(b.unsure, i)
		case sale.ShieldLimit:
			// What has the buyer at the limit may not be committed yet, or never be.
			if !b.behind && !b.beside && (b.claims[i].Keyed || c.limitChecks.Allow()) {
				b.doubt(i, sale.LimitReached)
				break
			}
			b.refuse(i, sale.LimitReached)
		case sale.ShieldSoldOut:
			// No segment has enough, but together they may, and the ledger can move units.
			if n := b.claims[i].Quantity; b.sku.Segments > 1 && n <= spare && !b.behind {
				spare -= n
				b.doubt(i, sale.SoldOut)
				break
			}
			b.refuse(i, sale.SoldOut)
		default:
			b.verdicts[i] = sale.Verdict{Err: sale.ErrUnavailable}
		}
	}
	if d.Left < 1 {
		m.soldOut.note(time.Now())
	} else {
		m.soldOut.clear()
	}
	return true
}

// aroundShield lets the open claims pass, under the ceiling where there is one. The pace
// is the ledger's, whose line they then stand in.
func (c *Checkout) aroundShield(ctx context.Context, b *batch) {
	if c.Ceiling != nil {
		if err := c.Ceiling.Wait(ctx, len(b.open), b.due); err != nil {
			b.end(failure(err))
			return
		}
	}
	b.around = b.popOpen()
}

// commit has the ledger decide what the shield admitted, or what came around it.
func (c *Checkout) commit(ctx context.Context, b *batch) {
	m := c.memoOf(b.sku.Name)
	if len(b.admitted) > 0 && !b.behind {
		res, err := c.Ledger.Commit(ctx, sale.CommitBatch{
			SKU: b.sku, Claims: b.pick(b.admitted), Segments: b.segments, LockFirst: m.isWary(time.Now()),
		})
		b.failed, b.offered = err != nil && c.parks(err), !errors.Is(err, sale.ErrNotCalled)
		b.settled = err == nil || !b.offered
		b.left = res.Left
		b.adopt(b.admitted, res, err)
		c.noteLeft(m, res)
		if res.Contradicted {
			c.contradicted(m, b)
		}
	}
	if len(b.around) > 0 {
		c.metrics.around.Add(float64(len(b.around)))
		res, err := c.Ledger.Commit(ctx, sale.CommitBatch{
			SKU: b.sku, Claims: b.pick(b.around), LockFirst: true, Around: true, Due: b.due,
		})
		b.adopt(b.around, res, err)
		c.noteStock(m, res)
		if b.missed && (err != nil && !errors.Is(err, sale.ErrDegraded) || anyReserved(res)) {
			// What was committed, or may have been, is in no copy that is loaded by now.
			c.Shield.Distrust(b.sku.Name, c.Ledger.Now())
		}
	}
}

// contradicted is called when the ledger refused what the shield had admitted. What
// the batch got wrong is mended by its settlement; until the shield has heard of it,
// the SKU's claims take the ledger's careful path, where a refusal does not roll back
// the claims of others.
func (c *Checkout) contradicted(m *memo, b *batch) {
	c.metrics.contradicted.Inc()
	m.beWary(time.Now())
	segments := max(1, b.sku.Segments)
	for k, i := range b.admitted {
		switch v := b.verdicts[i]; v.Outcome {
		case sale.LimitReached:
			if segments > 1 {
				continue // what was bought out of another segment, this one cannot know
			}
			c.suspect(m, b, "it admitted a buyer over the limit")
			return
		case sale.Duplicate:
			// An order made after the shield was asked, by another gateway that got the
			// same claim, is nothing the shield could have known; nor is one out of another
			// segment, or one that has ended, whose buyer it need not know.
			if v.Order.Status.Live() && v.Order.ReservedAt < b.asked && v.Order.Segment%segments == b.segments[k] {
				c.suspect(m, b, "it admitted an order that exists")
				return
			}
		}
	}
}

// suspect has the shield loaded anew because it has forgotten, or made up, what buyers
// hold. Only the copy that was asked is distrusted, not one that was loaded since; and
// not more often than loading is worth, so that neither a buyer nor two gateways can
// keep a SKU's shield from serving.
func (c *Checkout) suspect(m *memo, b *batch, why string) {
	if !m.mayReload(time.Now()) {
		return
	}
	c.log.Warn("shield distrusted", "sku", b.sku.Name, "why", why)
	c.Shield.Distrust(b.sku.Name, b.asked)
	c.rebuilds.want(b.sku.Name)
}

// lookUp asks the ledger, beside the commit, for the orders of claims that may be
// repeats: ids the shield has seen, and refusals of claims with a key.
func (c *Checkout) lookUp(ctx context.Context, b *batch) {
	c.lookUpSoldOut(ctx, b)
	ids := b.keyed(b.refused)
	for _, i := range b.unsure {
		ids = append(ids, b.claims[i].ID)
	}
	if len(ids) == 0 {
		return
	}
	found, err := c.Ledger.Find(ctx, ids)
	for _, i := range b.refused {
		if err != nil {
			b.unanswered(i, err)
		} else {
			b.repeat(i, found)
		}
	}
	unsure := b.unsure
	b.unsure = nil
	for _, i := range unsure {
		switch {
		case err != nil:
			if c.parks(err) && b.verdicts[i].Outcome == sale.NoOutcome {
				b.repeats = append(b.repeats, i)
			}
			b.unanswered(i, err)
		case b.repeat(i, found):
		case b.behind:
			b.repeats = append(b.repeats, i)
		default:
			b.unsure = append(b.unsure, i)
		}
	}
}

// decideUnsure has the ledger decide what the shield cannot and no order answers. It
// comes after the commit, so that of two claims with one id in a batch the first wins.
func (c *Checkout) decideUnsure(ctx context.Context, b *batch) {
	if len(b.unsure) == 0 {
		return
	}
	m := c.memoOf(b.sku.Name)
	said := make([]sale.Outcome, len(b.unsure)) // by the shield
	for k, i := range b.unsure {
		said[k] = b.verdicts[i].Outcome
	}
	res, err := c.Ledger.Commit(ctx, sale.CommitBatch{SKU: b.sku, Claims: b.pick(b.unsure), LockFirst: true})
	b.adopt(b.unsure, res, err)
	c.noteStock(m, res)
	for k, i := range b.unsure {
		if said[k] == sale.NoOutcome && err != nil && c.parks(err) {
			b.repeats = append(b.repeats, i)
		}
		if said[k] == sale.LimitReached && b.verdicts[i].Outcome == sale.Reserved {
			c.suspect(m, b, "it held units against a buyer who has none")
			return
		}
	}
}

// lookUpSoldOut does so for claims with a key that the shield refused as sold out. That is
// final where the ledger has nothing left itself: then nothing that is on its way fits any
// more. What the shield let through is most often committed in a moment; where the ledger
// has something left even then, it decides.
func (c *Checkout) lookUpSoldOut(ctx context.Context, b *batch) {
	if b.behind || b.beside {
		return
	}
	asked, rest := b.soldOut()
	if len(asked) == 0 {
		return
	}
	b.refused = rest
	found, exhausted, err := c.findExhausted(ctx, b.sku.Name, b.keyed(asked))
	for _, i := range asked {
		switch {
		case err != nil:
			b.unanswered(i, err)
		case !exhausted:
			b.unsure = append(b.unsure, i)
		default:
			b.repeat(i, found)
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

// noteLeft remembers what the ledger said is left where it refused for stock.
func (c *Checkout) noteLeft(m *memo, res sale.CommitResult) {
	if res.Left == nil {
		return
	}
	var left int64
	for _, n := range res.Left {
		left += n
	}
	if left < 1 {
		m.soldOut.note(time.Now())
	} else {
		m.soldOut.clear()
	}
}

// noteStock does so for claims that came without the shield's word: that the ledger
// had what they asked for is news.
func (c *Checkout) noteStock(m *memo, res sale.CommitResult) {
	if res.Left == nil && anyReserved(res) {
		m.soldOut.clear()
	}
	c.noteLeft(m, res)
}

// learn keeps what the shield is to hear with the SKU's next batch. When it is not
// known what the ledger did there is nothing to tell: the batch stays tentative.
func (c *Checkout) learn(b *batch) {
	if len(b.admitted) == 0 || !b.settled {
		return
	}
	c.keep(b.sku.Name, b.settlements())
}

func (c *Checkout) count(b *batch) {
	var outcomes [sale.Queued + 1]int
	for _, v := range b.verdicts {
		outcomes[v.Outcome]++
	}
	c.countOutcomes(b.claims[0].SKU, &outcomes)
}

func (c *Checkout) countOutcomes(sku string, outcomes *[sale.Queued + 1]int) {
	c.metrics.count(outcomes)
	if c.Stats == nil {
		return
	}
	for o, n := range outcomes {
		if n > 0 && sale.Outcome(o).Refusal() {
			c.Stats.Count(sku, sale.Outcome(o), n)
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
