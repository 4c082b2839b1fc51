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
		b.end(failure(err))
	}
	admitted()
	c.commitAndLookUp(ctx, b)
	c.decideDoubted(ctx, b)
	c.park(whole, b)
	c.keep(name, b.settlements())
	verdicts := b.verdicts()
	c.count(name, verdicts)
	return verdicts
}

// judge has every claim refused, admitted, sent around, or doubted. An error means that
// nothing can be done for any of them.
func (c *Checkout) judge(ctx context.Context, name string, b *batch) error {
	sku, err := c.Ledger.SKU(ctx, name)
	if err != nil {
		return err
	}
	b.sku = sku
	b.place = c.placeOf(ctx, b)
	if b.place == behind && !c.Backlog.Usable() || b.place != behind && !c.Ledger.Usable() {
		// Nobody can be told yes, nor be queued: no units are taken for nothing.
		return sale.ErrUnavailable
	}
	c.refuseByState(b)
	c.refuseFromMemory(ctx, b)
	for list := b.with(open); len(list) > 0 && !c.throughShield(ctx, b, list); list = b.with(open) {
		if c.mayGoAround(ctx, b) {
			c.aroundShield(ctx, b, list)
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
	for _, e := range b.with(open) {
		if doubt && e.claim.Keyed && b.place == first {
			e.doubt(gate)
		} else {
			e.refuse(gate)
		}
	}
}

// refuseFromMemory spares the shield a batch of a SKU that is sold out and still is, by
// the ledger's own word. A SKU with a limit goes to the shield all the same, because a
// buyer at the limit is to hear of the limit first.
func (c *Checkout) refuseFromMemory(ctx context.Context, b *batch) {
	m := c.memoOf(b.sku.Name)
	if b.sku.PerUserLimit != 0 || !m.soldOut.fresh(time.Now()) {
		return
	}
	list := b.with(open)
	if len(list) == 0 {
		return
	}
	found, exhausted, err := c.Ledger.FindExhausted(ctx, b.sku.Name, keyed(list))
	if err != nil {
		return // the shield can still say what to do with each claim
	}
	if !exhausted {
		m.soldOut.clear()
		return
	}
	m.soldOut.note(time.Now())
	for _, e := range list {
		if !e.repeat(found) {
			e.decide(sale.Verdict{Outcome: sale.SoldOut})
		}
	}
}

// throughShield has the shield judge the open claims; false means that it cannot and
// they, still open, go around it. An outcome that is unknown is not guessed: the
// claims go on under the same ids, and what the shield may have taken stays tentative
// until the reconciler holds it against the ledger.
func (c *Checkout) throughShield(ctx context.Context, b *batch, list []*entry) bool {
	if b.sku.Heat == sale.HeatCold {
		return false
	}
	m := c.memoOf(b.sku.Name)
	settled := m.drain()
	b.asked = c.Ledger.Now()
	d, err := c.Shield.Deduct(ctx, b.sku, claimsOf(list), settled)
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
	c.adoptAnswers(b, list, d)
	if d.Left < 1 {
		m.soldOut.note(time.Now())
	} else {
		m.soldOut.clear()
	}
	return true
}

// adoptAnswers says what comes next for each claim, by what the shield said of it.
func (c *Checkout) adoptAnswers(b *batch, list []*entry, d sale.Deduction) {
	spare := d.Left
	for k, e := range list {
		switch d.Answers[k] {
		case sale.Admitted:
			e.segment = d.Segments[k]
			if e.fate = admitted; b.place == behind {
				e.fate = waiting
			}
		case sale.Seen:
			e.fate = seen
		case sale.ShieldLimit:
			// What has the buyer at the limit may not be committed yet, or never be.
			if b.place == first && (e.claim.Keyed || c.limitChecks.Allow()) {
				e.doubt(sale.LimitReached)
			} else {
				e.refuse(sale.LimitReached)
			}
		case sale.ShieldSoldOut:
			// No segment has enough, but together they may, and the ledger can move units.
			if n := e.claim.Quantity; b.sku.Segments > 1 && n <= spare && b.place != behind {
				spare -= n
				e.doubt(sale.SoldOut)
			} else {
				e.refuse(sale.SoldOut)
			}
		default:
			e.decide(sale.Verdict{Err: sale.ErrUnavailable})
		}
	}
}

// aroundShield lets the claims pass, under the ceiling where there is one. The pace
// is the ledger's, whose line they then stand in.
func (c *Checkout) aroundShield(ctx context.Context, b *batch, list []*entry) {
	if c.Ceiling != nil {
		if err := c.Ceiling.Wait(ctx, len(list), b.due); err != nil {
			b.end(failure(err))
			return
		}
	}
	for _, e := range list {
		e.fate = around
	}
}

// commitAndLookUp has the ledger decide what the shield admitted, or what came around it,
// and looks up beside it what may be a repeat.
func (c *Checkout) commitAndLookUp(ctx context.Context, b *batch) {
	yes, unshielded, unsure := b.with(admitted), b.with(around), b.with(seen, doubted, refused)
	var commit func()
	switch {
	case len(yes) > 0:
		commit = func() { c.commitAdmitted(ctx, b, yes) }
	case len(unshielded) > 0:
		commit = func() { c.commitAround(ctx, b, unshielded) }
	default:
		c.lookUp(ctx, b, unsure)
		return
	}
	if len(unsure) == 0 {
		commit()
		return
	}
	var wg sync.WaitGroup
	wg.Go(commit)
	c.lookUp(ctx, b, unsure)
	wg.Wait()
}

// commitAdmitted has the ledger decide what the shield admitted.
func (c *Checkout) commitAdmitted(ctx context.Context, b *batch, list []*entry) {
	m := c.memoOf(b.sku.Name)
	segments := make([]int, len(list))
	for k, e := range list {
		segments[k] = e.segment
	}
	res, err := c.Ledger.Commit(ctx, sale.CommitBatch{
		SKU: b.sku, Claims: claimsOf(list), Segments: segments, LockFirst: m.isWary(time.Now()),
	})
	if err != nil {
		b.offered = !errors.Is(err, sale.ErrNotCalled)
		for _, e := range list {
			switch e.decide(failure(err)); {
			case c.parks(err):
				e.fate = waiting
			case b.offered:
				e.fate = lost
			}
		}
		return
	}
	b.left = res.Left
	adopt(list, res)
	c.noteLeft(m, res)
	if res.Contradicted {
		c.contradicted(m, b, list)
	}
}

// commitAround has it decide what came around the shield.
func (c *Checkout) commitAround(ctx context.Context, b *batch, list []*entry) {
	c.metrics.around.Add(float64(len(list)))
	res, err := c.Ledger.Commit(ctx, sale.CommitBatch{
		SKU: b.sku, Claims: claimsOf(list), LockFirst: true, Around: true, Due: b.due,
	})
	if err != nil {
		for _, e := range list {
			e.decide(failure(err))
		}
	} else {
		adopt(list, res)
		c.noteStock(c.memoOf(b.sku.Name), res)
	}
	if b.missed && (err != nil && !errors.Is(err, sale.ErrDegraded) || anyReserved(res)) {
		// What was committed, or may have been, is in no copy that is loaded by now.
		c.Shield.Distrust(b.sku.Name, c.Ledger.Now())
	}
}

// contradicted is called when the ledger refused what the shield had admitted. What
// the batch got wrong is mended by its settlement; until the shield has heard of it,
// the SKU's claims take the ledger's careful path, where a refusal does not roll back
// the claims of others.
func (c *Checkout) contradicted(m *memo, b *batch, list []*entry) {
	c.metrics.contradicted.Inc()
	m.beWary(time.Now())
	segments := max(1, b.sku.Segments)
	for _, e := range list {
		switch v := e.verdict; v.Outcome {
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
			if v.Order.Status.Live() && v.Order.ReservedAt < b.asked && v.Order.Segment%segments == e.segment {
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

// decideDoubted has the ledger decide what the shield cannot and no order answers. It
// comes after the commit, so that of two claims with one id in a batch the first wins.
func (c *Checkout) decideDoubted(ctx context.Context, b *batch) {
	list := b.with(seen, doubted)
	if len(list) == 0 {
		return
	}
	m := c.memoOf(b.sku.Name)
	res, err := c.Ledger.Commit(ctx, sale.CommitBatch{SKU: b.sku, Claims: claimsOf(list), LockFirst: true})
	if err != nil {
		for _, e := range list {
			if e.fate == seen && c.parks(err) {
				e.fate = waiting
			} else {
				e.unanswered(err)
			}
		}
		return
	}
	adopt(list, res)
	c.noteStock(m, res)
	for _, e := range list {
		if e.said == sale.LimitReached && e.verdict.Outcome == sale.Reserved {
			c.suspect(m, b, "it held units against a buyer who has none")
			return
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

func (c *Checkout) count(sku string, verdicts []sale.Verdict) {
	var outcomes [sale.Queued + 1]int
	for _, v := range verdicts {
		outcomes[v.Outcome]++
	}
	c.countOutcomes(sku, &outcomes)
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
