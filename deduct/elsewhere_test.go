package deduct

import (
	"context"
	"errors"
	"testing"

	"flashgate/sale"
)

// The ledger's failures come through calls of the shield, and must not be taken for
// Redis': its breaker would open for a ledger that is away. Redis' own are its own.
func TestTheLedgersFailuresAreNotRedis(t *testing.T) {
	m := startMini(t)
	ctx := context.Background()
	sku := testSKU(2, 1)
	l := newFakeLedger(sku, 1)
	l.commit(claims(1, 0), nil)
	s := newShield(t, m.Addr(), l)
	if err := s.Rebuild(ctx, &sku); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"Rebuild":   func() error { s.Distrust(sku.Name, l.Now()); return s.Rebuild(ctx, &sku) },
		"Raise":     func() error { return s.Raise(ctx, []*sale.SKU{&sku}) },
		"Reconcile": func() error { _, err := s.Reconcile(ctx); return err },
	}
	for _, away := range []string{"ledger", "redis"} {
		l.mu.Lock()
		l.away = away == "ledger"
		l.mu.Unlock()
		if away == "redis" {
			m.Close()
		}
		failed := 0
		for name, call := range calls {
			err := call()
			if err != nil {
				failed++
			}
			if err != nil && errors.Is(err, sale.ErrElsewhere) != (away == "ledger") {
				t.Errorf("%s with the %s away: %v", name, away, err)
			}
		}
		if failed < 2 {
			t.Errorf("%d calls failed with the %s away", failed, away)
		}
	}
}
