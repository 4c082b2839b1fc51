package ledger

import (
	"slices"
	"testing"

	"flashgate/sale"
)

func TestOpening(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		opens := func(at int64, change ...func(*sale.SKU)) func(*sale.SKU) {
			return func(s *sale.SKU) {
				s.OpensAt = at
				for _, fn := range change {
					fn(s)
				}
			}
		}
		b.sku("open", 1, 0)
		b.sku("now", 1, 0, opens(1000))
		b.sku("second", 1, 0, opens(1200))
		b.sku("first", 1, 0, opens(1100, func(s *sale.SKU) { s.Heat = sale.HeatHot }))
		b.sku("cold", 1, 0, opens(1100, func(s *sale.SKU) { s.Heat = sale.HeatCold }))
		b.sku("paused", 1, 0, opens(1100, func(s *sale.SKU) { s.State = sale.StatePaused }))
		b.sku("counted", 1, 2, opens(1100))
		b.exec("UPDATE skus SET counting = 1 WHERE sku = 'counted'")
		b.sku("last", 1, 0, opens(2000))
		b.sku("late", 1, 0, opens(2001))
		if got, err := db.Opening(t.Context(), 1000, 2000, 9); err != nil || !slices.Equal(got, []string{"first", "second", "last"}) {
			t.Errorf("%q, %v", got, err)
		}
		if got, err := db.Opening(t.Context(), 1000, 2000, 1); err != nil || !slices.Equal(got, []string{"first"}) {
			t.Errorf("of one: %q, %v", got, err)
		}
	})
}
