package checkout

import (
	"context"
	"fmt"
	"time"

	"flashgate/sale"
)

const (
	// preheatLead is how long before its sale opens a SKU's shield is loaded, and
	// preheatMost how many are at a time: what is loaded for longer takes memory of Redis,
	// what is not loaded by then goes around it at first.
	preheatLead = time.Minute
	preheatMost = 20_000
)

// Changed looks after the shield of a SKU that an operator changed through this gateway:
// where its copy is wrong now, or was not told of sales while the SKU was cold, it is loaded
// anew, and goes around meanwhile; a SKU that is sold soon is loaded ahead. A change of a
// title does neither. It is the ledger's hook.
func (c *Checkout) Changed(before, after *sale.SKU, stock bool) {
	if after.Heat == sale.HeatCold {
		return // Redis has nothing of it, or will not be asked
	}
	wrong := stock || before == nil || before.Heat == sale.HeatCold || before.PerUserLimit != after.PerUserLimit ||
		before.Counting != after.Counting || before.Segments != after.Segments
	if wrong {
		c.Shield.Distrust(after.Name, c.Ledger.Now())
		c.lookAgain(after.Name)
	}
	switch {
	case !c.sellsSoon(after):
	case wrong:
		c.rebuilds.renew(after.Name)
	case !c.sellsSoon(before):
		c.rebuilds.ahead(after.Name)
	}
}

// Heard looks after a SKU that an operator changed through some gateway: units may have
// come back, so this one forgets that it is sold out, and has its shield held against the
// ledger. That gateway has had the copy loaded anew if need be; one that no longer fits the
// rules is found out by its name, and one from before the SKU was cold by its time. It is
// the ledger's hook.
func (c *Checkout) Heard(before, after *sale.SKU) {
	if after.Heat == sale.HeatCold {
		return
	}
	if before != nil && before.Heat == sale.HeatCold {
		c.Shield.Distrust(after.Name, after.ChangedAt)
	}
	c.lookAgain(after.Name)
}

func (c *Checkout) lookAgain(name string) {
	c.restocks.add(name)
	if m, ok := c.memos.Load(name); ok {
		m.(*memo).soldOut.clear()
	}
}

// sellsSoon reports whether the SKU is on sale, or will be within preheatLead.
func (c *Checkout) sellsSoon(sku *sale.SKU) bool {
	now := c.Ledger.Now()
	return sku.ShownState() == sale.StateOpen && sku.Heat != sale.HeatCold &&
		sku.OpensAt <= now+preheatLead.Milliseconds() && (sku.ClosesAt == 0 || now < sku.ClosesAt)
}

// Preheat loads the shields of SKUs whose sale opens soon; what is loaded stays as it is.
// One gateway at a time runs it, every few seconds.
func (c *Checkout) Preheat(ctx context.Context) error {
	now := c.Ledger.Now()
	skus, err := c.Ledger.Opening(ctx, now, now+preheatLead.Milliseconds(), preheatMost)
	if err != nil {
		return fmt.Errorf("checkout: SKUs that open soon: %w", err)
	}
	for _, name := range skus {
		c.rebuilds.ahead(name)
	}
	return nil
}
