package checkout

import "flashgate/sale"

// Heard looks after a SKU that an operator changed through some gateway: units may have
// come back, so this one forgets that it is sold out, and has its shield held against the
// ledger. A copy that no longer fits the rules is found out by its figures. It is the
// ledger's hook.
func (c *Checkout) Heard(_, after *sale.SKU) {
	c.restocks.add(after.Name)
	if m, ok := c.memos.Load(after.Name); ok {
		m.(*memo).soldOut.clear()
	}
}
