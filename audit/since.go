package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"flashgate/sale"
)

// An audit of what was done since a position knows the SKUs that were touched, and looks at
// their orders that were made or changed. What it cannot see is what has left no trace: see
// DESIGN.md.

// begin reads where the next audit can begin, and how far the stream reaches.
func (c *resultsCheck) begin(ctx context.Context) (err error) {
	if c.r.Position, err = c.snap.Position(ctx, c.a.margin); err != nil {
		return err
	}
	if c.touched != nil {
		names, err := c.snap.Touched(ctx, c.r.Since)
		if err != nil {
			return err
		}
		for _, name := range names {
			c.touched[name] = true
		}
	}
	if c.a.results == nil {
		return errNotConfigured
	}
	extent, err := c.extent(ctx)
	if err != nil {
		return err
	}
	since, next := c.r.Since, &c.r.Position
	c.last = extent.Last
	next.Message, next.Stream = extent.Last+1, extent.Made
	switch {
	case since == sale.AuditPosition{}:
	case since.Stream != extent.Made, since.Message > extent.Last+1:
		return fmt.Errorf("%w: the position %s is of another stream: audit everything", sale.ErrInvalid, since)
	case since.Change > next.Change:
		return fmt.Errorf("%w: the ledger has gone back behind the position %s: audit everything", sale.ErrInvalid, since)
	case next.At < since.At:
		// The clock was set back, or the last audit was a moment ago: what is to be looked at
		// again begins with the message that was noted then.
		*next = since
	}
	return nil
}

// skus are those to be looked at, nil for all.
func (c *resultsCheck) skus() []string {
	if c.touched == nil {
		return nil
	}
	return slices.AppendSeq([]string{}, maps.Keys(c.touched))
}

// place notes, in the first pass, of which SKUs a message tells, and whether the next audit
// has to begin with it: it is the first that tells of anything behind the next position.
func (c *resultsCheck) place(orders []sale.Order, seq uint64) {
	if !c.once {
		return
	}
	for i := range orders {
		if c.touched != nil {
			c.touched[orders[i].SKU] = true
		}
		if p := &c.r.Position; seq < p.Message && max(orders[i].ReservedAt, orders[i].ChangedAt) >= p.At {
			p.Message = seq
		}
	}
}

// eachChanged hands over the orders of the pass that were made or changed since the position
// where this audit began, and when that was.
func (c *resultsCheck) eachChanged(ctx context.Context, fn func(o *sale.Order, changed int64)) error {
	for sku := range c.touched {
		err := c.snap.EachChanged(ctx, sku, c.r.Since.At, func(orders []sale.Changed) error {
			for i := range orders {
				if p := prefix(orders[i].ID); p >= c.lo && p <= c.hi {
					fn(&orders[i].Order, orders[i].Since)
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
