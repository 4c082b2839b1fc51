package checkout

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// What was committed around a shield that may still be in use is in none of its copies:
// those of this SKU, and no others, are loaded anew.
func TestWhatTheShieldMissed(t *testing.T) {
	for _, c := range []struct {
		name       string
		set        func(w *world)
		distrusted int
	}{
		{"behind an open breaker", func(w *world) { w.redis.set(true) }, 1},
		{"after a failed call", func(w *world) {
			w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, errBroken }
		}, 1},
		{"it may have been committed", func(w *world) {
			w.redis.set(true)
			w.ledger.commit = func(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
				return sale.CommitResult{}, errBroken
			}
		}, 1},
		{"all were refused", func(w *world) { w.redis.set(true); w.ledger.commit = w.commits("-L") }, 0},
		{"no copy was loaded", func(w *world) {
			w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, nil }
		}, 0},
		{"through the shield", func(*world) {}, 0},
		{"a cold SKU has no copy", func(w *world) { w.sku.Heat = sale.HeatCold }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				c.set(w)
				w.settle(t, claims("ab"))
				d := w.shield.takeDistrusted()
				if len(d) != c.distrusted || len(d) > 0 && d[0] != (distrust{"s", time.Now().UnixMilli()}) {
					t.Errorf("distrusted %v", d)
				}
			})
		})
	}
}
