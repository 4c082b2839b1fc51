package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"

	"flashgate/sale"
)

// heard is what stream and outbox say of one order.
type heard struct{ seen, pending told }

// clockSlack is how far the clocks of NATS and the ledger may be apart.
const clockSlack = 60_000

// resultsCheck compares the results stream with the ledger. The ledger's snapshot is
// taken first, and then the stream is read to where it ends at that time. An event
// leaves the outbox only after the stream has stored it, so whatever is not in the
// snapshot's outbox must be on the stream; and an event is written only with the order
// that it tells of, so a read of the ledger that begins after the stream was read must
// know all that the stream tells. Nothing that is on its way can be mistaken.
type resultsCheck struct {
	a    *Auditor
	r    *Report
	snap Snapshot

	first uint64 // message
	last  uint64
	since int64 // only orders reserved later must be on the stream

	// touched are the SKUs of which something was done since the position where this audit
	// began, nil where that is the beginning.
	touched map[string]bool

	begun  uint64 // the first message that the latest reading found
	lo, hi uint64 // the ids looked at in this pass, by their first eight bytes
	once   bool   // it is the first pass
	orders map[sale.OrderID]heard
	wrong  map[sale.OrderID]disorder // first occurrences out of order
	// refunded are the payments, hashed, of which a refund was told: a few bytes each.
	refunded map[uint64]struct{}
	seed     maphash.Seed

	published, known, order, messages, refunds Check
}

// disorder is what was wrong with an order that was reserved then.
type disorder struct {
	why string
	at  int64
}

// checkResults adds its checks to the report, and returns the SKUs that the ledger's own are
// to be about, nil for all.
func (a *Auditor) checkResults(ctx context.Context, r *Report) (touched []string, err error) {
	check := func(name, promise string) Check {
		return Check{Checked: sale.Checked{Check: name, Promise: promise}}
	}
	c := &resultsCheck{
		a: a, r: r, first: r.Since.Message, since: r.Since.At,
		published: check("results_published", "every change of an order is in the outbox or on the results stream"),
		known:     check("results_known", "the results stream tells only of what the ledger has"),
		order:     check("results_order", "first occurrences are in order, per order"),
		messages:  check("results_messages", "every message of the results stream and row of the outbox can be read"),
		refunds:   check("results_refunds", "every payment that has to be given back is in the outbox or on the results stream"),
		refunded:  make(map[uint64]struct{}), seed: maphash.MakeSeed(),
	}
	if r.Since != (sale.AuditPosition{}) {
		c.touched = make(map[string]bool)
	}
	err = a.ledger.Snapshot(ctx, func(s Snapshot) error {
		c.snap = s
		return c.run(ctx)
	})
	if errors.Is(err, sale.ErrInvalid) {
		return nil, err
	}
	touched = c.skus()
	for _, check := range []*Check{&c.published, &c.known, &c.order, &c.messages, &c.refunds} {
		if err != nil {
			check.notMade, check.warning = err.Error(), a.results == nil
		}
		r.Checks = append(r.Checks, *check)
	}
	return touched, nil
}

// checkStreams warns of streams that are not as configured: that is no broken promise yet,
// but less than somebody counts on, or the reason why nothing is parked.
func (a *Auditor) checkStreams(ctx context.Context, r *Report) {
	c := Check{warning: true, Checked: sale.Checked{Check: "results_streams", Promise: "the streams are as the configuration says"}}
	if a.results == nil {
		c.notMade = errNotConfigured.Error()
	} else if lines, err := a.results.CompareStreams(ctx); err != nil {
		c.notMade, c.warning = err.Error(), false
	} else {
		for _, line := range lines {
			a.add(&c, sale.Finding{Detail: line})
		}
	}
	r.Checks = append(r.Checks, c)
}

// run makes as many passes as the orders need to be in memory within the bound.
func (c *resultsCheck) run(ctx context.Context) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	c.once = true
	for c.lo = 0; ; c.lo = c.hi + 1 {
		c.hi = math.MaxUint64
		if err := c.pass(ctx); err != nil {
			return err
		}
		if c.once {
			if err := c.checkRefunds(ctx); err != nil {
				return err
			}
		}
		if c.hi == math.MaxUint64 {
			return nil
		}
		c.once = false
	}
}

// extent reads how far the stream reaches. Its beginning may age away while it is read, so
// it is looked at again after each reading: what happened before then may have been told.
func (c *resultsCheck) extent(ctx context.Context) (sale.Extent, error) {
	e, err := c.a.results.Extent(ctx)
	if err == nil && e.Since != 0 {
		c.since = max(c.since, e.Since+clockSlack)
	}
	return e, err
}

// begins notes where a reading begins, and, where the one before began earlier, the time of
// what it begins with.
func (c *resultsCheck) begins(orders []sale.Order, seq uint64) {
	before := c.begun
	if c.begun = seq; c.once || seq <= before {
		return
	}
	for i := range orders {
		c.since = max(c.since, max(orders[i].ReservedAt, orders[i].ChangedAt)+clockSlack)
	}
}

// checkRefunds holds the payments that have to be given back against what was heard.
func (c *resultsCheck) checkRefunds(ctx context.Context) error {
	return c.snap.EachRefund(ctx, c.skus(), func(refunds []sale.Refund) error {
		for i := range refunds {
			r := &refunds[i]
			if _, told := c.refunded[maphash.String(c.seed, r.EventID)]; !told && r.At >= c.since {
				c.a.add(&c.refunds, sale.Finding{OrderID: r.OrderID, Detail: fmt.Sprintf("payment %s has to be given back, which is neither on the stream nor in the outbox", r.EventID)})
			}
		}
		return ctx.Err()
	})
}

func (c *resultsCheck) pass(ctx context.Context) error {
	c.orders, c.wrong = make(map[sale.OrderID]heard), make(map[sale.OrderID]disorder)
	begun := false
	err := c.a.results.EachEvent(ctx, max(c.first, 1), c.last, func(kind sale.Kind, orders []sale.Order, seq uint64) error {
		if !begun {
			c.begins(orders, seq)
		}
		begun = true
		if kind == "" && c.once {
			c.a.add(&c.messages, sale.Finding{Detail: fmt.Sprintf("message %d of the stream is no batch of events", seq)})
		}
		c.place(orders, seq)
		c.hear(kind, orders, false)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	err = c.snap.EachPending(ctx, func(row sale.OutboxRow) error {
		if c.touched != nil {
			c.touched[row.SKU] = true
		}
		kind, orders, err := c.a.results.Decode(row.Payload)
		if row.Damage != nil {
			err = row.Damage
		}
		if err != nil && c.once {
			c.a.add(&c.messages, sale.Finding{SKU: row.SKU, Detail: fmt.Sprintf("row %d of the outbox: %v", row.ID, err)})
		}
		c.hear(kind, orders, true)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if _, err := c.extent(ctx); err != nil {
		return err
	}
	return c.compare(ctx)
}

func prefix(id sale.OrderID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// hear takes note of events, and gives up the upper half of the ids when there are too
// many: another pass reads those.
func (c *resultsCheck) hear(kind sale.Kind, orders []sale.Order, pending bool) {
	if c.once {
		c.r.Events += int64(len(orders))
	}
	if kind == sale.KindPaymentRefund && c.once {
		for i := range orders {
			c.refunded[maphash.String(c.seed, orders[i].Payment)] = struct{}{}
		}
	}
	event := toldBy(kind)
	if event == 0 {
		return
	}
	for i := range orders {
		o := &orders[i]
		if p := prefix(o.ID); p < c.lo || p > c.hi {
			continue
		}
		h := c.orders[o.ID]
		if pending {
			h.pending |= event
		} else {
			if why := c.outOfOrder(h.seen, event, o); why != "" && len(c.wrong) <= c.a.findings {
				c.wrong[o.ID] = disorder{why, o.ReservedAt}
			}
			h.seen |= event
		}
		c.orders[o.ID] = h
		if len(c.orders) > c.a.cfg.MaxOrders && c.lo < c.hi {
			c.hi = c.median()
			above := func(id sale.OrderID) bool { return prefix(id) > c.hi }
			maps.DeleteFunc(c.orders, func(id sale.OrderID, _ heard) bool { return above(id) })
			maps.DeleteFunc(c.wrong, func(id sale.OrderID, _ disorder) bool { return above(id) })
		}
	}
}

// median is the highest id, or what it begins with, of the lower half of those heard of.
// Ids of one SKU lie close together, so that halving the range would not do.
func (c *resultsCheck) median() uint64 {
	begin := make([]uint64, 0, len(c.orders))
	for id := range c.orders {
		begin = append(begin, prefix(id))
	}
	slices.Sort(begin)
	if middle := begin[len(begin)/2]; middle > c.lo {
		return middle - 1
	}
	return c.lo
}

// outOfOrder says why an event must not come first behind those seen before.
func (c *resultsCheck) outOfOrder(seen, event told, o *sale.Order) string {
	if event&toldStatus == 0 || seen&event != 0 {
		return ""
	}
	// What came before it may have been dropped from the stream's beginning.
	begun := seen&toldReserved != 0 || o.ReservedAt < c.since
	switch {
	case event == toldReserved && seen&toldStatus != 0 && o.ReservedAt >= c.since:
		return fmt.Sprintf("reserved comes first behind %s", seen&toldStatus)
	case event != toldReserved && !begun:
		return fmt.Sprintf("%s comes before reserved", event)
	case event&toldEnded != 0 && seen&(toldEnded|toldPaid) != 0:
		return fmt.Sprintf("%s comes first behind %s", event, seen&(toldEnded|toldPaid))
	}
	return ""
}

// compare holds the snapshot's orders of the pass against what was heard of them, and
// then what was heard and is not in the snapshot against the ledger as it is now.
func (c *resultsCheck) compare(ctx context.Context) error {
	for id, d := range c.wrong {
		if d.at >= c.since {
			c.a.add(&c.order, sale.Finding{OrderID: id, Detail: d.why})
		}
	}
	var from, to sale.OrderID
	for i := range to {
		to[i] = 0xff
	}
	binary.BigEndian.PutUint64(from[:], c.lo)
	binary.BigEndian.PutUint64(to[:], c.hi)
	each := func(o *sale.Order, changed int64) {
		c.r.Orders++
		h := c.orders[o.ID]
		c.missing(o, changed, h)
		if beyond(o, h) == 0 {
			delete(c.orders, o.ID)
		}
	}
	var err error
	if c.touched == nil {
		err = c.snap.EachOrder(ctx, from, to, func(orders []sale.Order) error {
			for i := range orders {
				each(&orders[i], 0)
			}
			return ctx.Err()
		})
	} else {
		err = c.eachChanged(ctx, each)
	}
	if err != nil {
		return err
	}
	ids := slices.Collect(maps.Keys(c.orders))
	for chunk := range slices.Chunk(ids, 1000) {
		found, err := c.a.ledger.Find(ctx, chunk)
		if err != nil {
			return err
		}
		for _, id := range chunk {
			h := c.orders[id]
			if o, ok := found[id]; !ok {
				c.a.add(&c.known, sale.Finding{OrderID: id, Detail: fmt.Sprintf("the ledger has no such order; the world was told: %s", h.seen|h.pending)})
			} else if more := beyond(&o, h); more != 0 {
				c.a.add(&c.known, sale.Finding{SKU: o.SKU, OrderID: id, Detail: fmt.Sprintf("the ledger says %s; the world was told: %s", o.Status, more)})
			}
		}
	}
	return nil
}

// missing reports what the world should have been told of the order, and, of one that was
// reserved before what is looked at and changed within it, of its present status alone.
func (c *resultsCheck) missing(o *sale.Order, changed int64, h heard) {
	must, either := owed(o)
	if c.since != 0 && o.ReservedAt < c.since {
		if changed < c.since {
			return
		}
		must, either = must&^(toldReserved|toldCoupon), 0
	}
	heard := h.seen | h.pending
	if lacks := must &^ heard; lacks != 0 {
		c.a.add(&c.published, sale.Finding{SKU: o.SKU, OrderID: o.ID, Detail: fmt.Sprintf("neither on the stream nor in the outbox: %s", lacks)})
	} else if either != 0 && either&heard == 0 {
		c.a.add(&c.published, sale.Finding{SKU: o.SKU, OrderID: o.ID, Detail: "neither on the stream nor in the outbox: its end before it was paid"})
	}
}
