package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashgate/sale"
)

// The shield's checks warn: whatever it says, the ledger decides, and a shield that is
// too low is raised when it says sold out. But one that is wrong for long costs speed,
// and somebody should know why it is.

// copyLook is one look at a SKU's copy.
type copyLook struct {
	loaded bool
	// off is by how many units the copy is too high, or, negative, too low, beyond what
	// is on its way.
	off  int64
	left int64
	want int64
	// forgotten are the claims that have been tentative for too long.
	forgotten map[sale.OrderID]sale.Tentative
	damage    string
}

func (l *copyLook) fine() bool { return l.off == 0 && len(l.forgotten) == 0 && l.damage == "" }

// suspect is a SKU whose copy has seemed wrong in every look so far.
type suspect struct {
	sku  string
	seen copyLook // what all looks have in common
}

func (a *Auditor) checkShield(ctx context.Context, r *Report) {
	check := func(name, promise string) Check {
		return Check{warning: true, Checked: sale.Checked{Check: name, Promise: promise}}
	}
	units := check("shield_units", "units left in the shield = (total - reserved) - what ledger and shield have of orders, each once")
	tentative := check("shield_tentative", "what is tentative in the shield is settled within 15 s")
	err := errNotConfigured
	if a.shield != nil {
		err = a.lookAtShield(ctx, r, &units, &tentative)
	}
	if err != nil {
		units.notMade, tentative.notMade = err.Error(), err.Error()
	}
	r.Checks = append(r.Checks, units, tentative)
}

// lookAtShield looks at all copies once, and again at those that seem wrong.
func (a *Auditor) lookAtShield(ctx context.Context, r *Report, units, tentative *Check) error {
	names, err := a.shield.Loaded(ctx)
	if err != nil {
		return err
	}
	var suspects []suspect
	for _, sku := range names {
		l, err := a.look(ctx, sku)
		if err != nil {
			return err
		}
		if l.loaded {
			r.SKUs++
		}
		if !l.fine() {
			suspects = append(suspects, suspect{sku, l})
		}
	}
	for n := 1; n < a.looks && len(suspects) > 0; n++ {
		if err := pause(ctx, a.pause); err != nil {
			return err
		}
		kept := suspects[:0]
		for _, s := range suspects {
			l, err := a.look(ctx, s.sku)
			if err != nil {
				return err
			}
			if s.seen = common(s.seen, l); !s.seen.fine() {
				kept = append(kept, s)
			}
		}
		suspects = kept
	}
	for i := range suspects {
		a.report(&suspects[i], units, tentative)
	}
	return nil
}

func (a *Auditor) report(s *suspect, units, tentative *Check) {
	l := &s.seen
	if l.off != 0 {
		a.add(units, sale.Finding{SKU: s.sku, Detail: fmt.Sprintf("the shield has %d units left, the ledger leaves it %d (reconcile --rebuild %s loads it anew)", l.left, l.want, s.sku)})
	}
	if l.damage != "" {
		a.add(tentative, sale.Finding{SKU: s.sku, Detail: l.damage})
	}
	for id, t := range l.forgotten {
		a.add(tentative, sale.Finding{SKU: s.sku, OrderID: id, Detail: fmt.Sprintf("%d units have been tentative for %v", t.Quantity, t.Age.Round(time.Millisecond))})
	}
}

// common is what two looks agree on: being wrong in the same direction, by the smaller
// figure, and the claims forgotten in both.
func common(a, b copyLook) copyLook {
	out := copyLook{loaded: b.loaded, left: b.left, want: b.want}
	switch {
	case a.off > 0 && b.off > 0:
		out.off = min(a.off, b.off)
	case a.off < 0 && b.off < 0:
		out.off = max(a.off, b.off)
	}
	for id, t := range b.forgotten {
		if _, ok := a.forgotten[id]; ok {
			if out.forgotten == nil {
				out.forgotten = make(map[sale.OrderID]sale.Tentative)
			}
			out.forgotten[id] = t
		}
	}
	if a.damage != "" {
		out.damage = b.damage
	}
	return out
}

// look compares one SKU's copy with the ledger, once.
//
// What the shield has left and what is tentative in it are read at one moment, between
// two looks at the stock: left + tentative = (total - reserved) - sold, but for those
// of the tentative that the ledger has by now, which are found after the moment, and
// for what was sold between the moment and the second look at the stock, which is no
// more than was sold between the two looks. Units that were given back reach the shield
// a little later: such a difference is gone in another look.
func (a *Auditor) look(ctx context.Context, sku string) (copyLook, error) {
	rules, err := a.ledger.SKU(ctx, sku)
	if errors.Is(err, sale.ErrUnknownSKU) {
		return copyLook{}, nil
	}
	if err != nil {
		return copyLook{}, err
	}
	parked, err := a.parked(ctx, sku)
	if err != nil || parked > 0 {
		return copyLook{loaded: parked > 0}, err // units are promised to claims that nobody has decided
	}
	before, err := a.stock(ctx, sku)
	if err != nil {
		return copyLook{}, err
	}
	copies, err := a.shield.Copies(ctx, sku)
	switch {
	case errors.Is(err, sale.ErrUnavailable):
		return copyLook{}, err
	case err != nil:
		return copyLook{loaded: true, damage: err.Error()}, nil
	case len(copies) == 0:
		return copyLook{}, nil
	}
	l := copyLook{loaded: true}
	ids := make(map[sale.OrderID]int64)
	for _, c := range copies {
		l.left += c.Left
		for _, t := range c.Tentative {
			ids[t.ID] += t.Quantity
			if t.Age > forgottenAfter {
				if l.forgotten == nil {
					l.forgotten = make(map[sale.OrderID]sale.Tentative)
				}
				l.forgotten[t.ID] = t
			}
		}
	}
	open, ended, err := a.undecided(ctx, ids)
	if err != nil {
		return copyLook{}, err
	}
	after, err := a.stock(ctx, sku)
	if err != nil {
		return copyLook{}, err
	}
	l.want = after.Available() - open
	// A cold SKU is sold past its copy, and one whose stock an operator just changed is
	// being loaded anew.
	if rules.Heat == sale.HeatCold || before.Total != after.Total || before.Reserved != after.Reserved {
		return l, nil
	}
	switch high := l.left - l.want; {
	case high < 0:
		l.off = high
	default:
		l.off = max(0, high-ended-max(0, after.Sold-before.Sold))
	}
	return l, nil
}

func (a *Auditor) parked(ctx context.Context, sku string) (int64, error) {
	if a.results == nil {
		return 0, nil
	}
	return a.results.Parked(ctx, sku)
}

// stock adds up a SKU's segments.
func (a *Auditor) stock(ctx context.Context, sku string) (sale.Stock, error) {
	segments, err := a.ledger.Stock(ctx, sku)
	var sum sale.Stock
	for _, s := range segments {
		sum.Total += s.Total
		sum.Reserved += s.Reserved
		sum.Sold += s.Sold
	}
	return sum, err
}

// undecided adds up the units of those claims that the ledger does not have as live
// orders; ended are those of them that it had: they may have been given back to the
// shield already, though their batch is not settled.
func (a *Auditor) undecided(ctx context.Context, ids map[sale.OrderID]int64) (units, ended int64, err error) {
	all := make([]sale.OrderID, 0, len(ids))
	for id, n := range ids {
		all = append(all, id)
		units += n
	}
	if len(all) == 0 {
		return 0, 0, nil
	}
	found, err := a.ledger.Find(ctx, all)
	if err != nil {
		return 0, 0, err
	}
	for id, o := range found {
		if o.Status.Live() {
			units -= ids[id]
		} else {
			ended += ids[id]
		}
	}
	return units, ended, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", sale.ErrUnavailable, ctx.Err())
	}
}
