package fallback

import (
	"time"

	"flashgate/sale"
)

// order is an operator's: for all gateways, or for this one alone. Without one the mode
// is auto, and there is no scope.
type order struct {
	mode   sale.BreakerMode
	scope  sale.BreakerScope
	until  time.Time // zero = until the next one
	reason string
	by     string
}

func (o *order) over(now time.Time) bool { return !o.until.IsZero() && !now.Before(o.until) }

// orderOf is the order as it is obeyed here; now is the ledger's clock. One that is over
// is none.
func orderOf(o sale.BreakerOrder, scope sale.BreakerScope, now int64) order {
	switch {
	case o.Until != 0 && o.Until <= now:
		return order{mode: sale.BreakerAuto}
	case o.Mode == sale.BreakerAuto:
		return order{mode: o.Mode, scope: scope, by: o.By}
	}
	ours := order{mode: o.Mode, scope: scope, reason: o.Reason, by: o.By}
	if o.Until != 0 {
		ours.until = time.Now().Add(time.Duration(o.Until-now) * time.Millisecond)
	}
	return ours
}

// modeNow is the mode in force. An order whose time is over ends here; one for this
// gateway alone leaves the one for all, where that still stands.
func (b *Breaker) modeNow() sale.BreakerMode {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); b.order.over(now) {
		next := order{mode: sale.BreakerAuto}
		if b.order.scope == sale.ScopeGateway && b.fleetAt != 0 && !b.fleet.over(now) {
			next = b.fleet
		}
		b.obey(next)
	}
	return b.order.mode
}

// force gives the breaker an order for this gateway alone.
func (b *Breaker) force(o order) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.obey(o)
}

// follow gives the breaker the order for all gateways that was given at that time. Of any
// two orders, for whomever they are, the one that came last counts.
func (b *Breaker) follow(o order, at int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at <= b.fleetAt {
		return // it is known
	}
	b.fleet, b.fleetAt = o, at
	b.obey(o)
}

func (b *Breaker) obey(o order) {
	was := b.order.mode
	b.order = o
	if was != o.mode {
		b.since = time.Now()
		b.tell(was == sale.BreakerForcedClosed)
	}
}
