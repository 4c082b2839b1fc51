package ledger

import (
	"fmt"
	"testing"

	"flashgate/sale"
)

// What many SKUs hold is read in a few statements; a SKU that holds more than was asked
// for says so.
func TestHoldings(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		names := make([]string, holdingsChunk+4)
		var ended *sale.Claim
		for i := range names {
			sku := b.sku(fmt.Sprintf("s-%d", i), 100, int64(i%2)*5)
			names[i] = sku.Name
			if n := i % 4; n > 0 {
				batch := claims(sku, "u", n)
				settleGroup(t, db, admitted(sku, batch...))
				if i == 3 {
					ended = batch[0]
				}
			}
		}
		if _, err := db.Cancel(t.Context(), ended.ID, ended.User); err != nil {
			t.Fatal(err)
		}
		held, err := db.Source().Holdings(t.Context(), append(names, "none"), 2)
		if err != nil || len(held) != len(names) {
			t.Fatalf("%v: %d SKUs", err, len(held))
		}
		for i, name := range names {
			h, orders := held[name], i%4
			sold := orders
			if i == 3 {
				sold-- // one was cancelled, and its id is still known
			}
			if h.Stock[0] != (sale.Stock{Total: 100, Sold: int64(sold)}) || h.Partial != (orders > 2) || len(h.Orders) != min(orders, 3) {
				t.Errorf("%s: %+v", name, h)
			}
			for _, o := range h.Orders {
				if o.Ended != (o.ID == ended.ID) {
					t.Errorf("%s: order %s ended: %t", name, o.ID, o.Ended)
				}
			}
			if buyers := sold * (i % 2); len(h.Users) != min(buyers, 3) || len(h.Units) != len(h.Users) {
				t.Errorf("%s has %d buyers, want %d", name, len(h.Users), buyers)
			}
		}
	})
}
