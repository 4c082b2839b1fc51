package ledger

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/sale"
)

func TestLeaseChangesHandsUnderANewToken(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		l := b.open().Leases()
		acquire := func(holder string, wantToken int64, wantHeld bool) {
			t.Helper()
			token, held, err := l.Acquire(t.Context(), "relay", holder, leaseMost)
			if err != nil || token != wantToken || held != wantHeld {
				t.Fatalf("%s: token %d, held %v, %v; want %d, %v", holder, token, held, err, wantToken, wantHeld)
			}
		}
		free := func(want bool) {
			t.Helper()
			if free, err := l.Free(t.Context(), "relay"); err != nil || free != want {
				t.Fatalf("free: %v, %v", free, err)
			}
		}
		runOut := func() { b.exec("UPDATE job_leases SET expires_at = 1") }
		free(true)
		acquire("a", 1, true)
		free(false)
		acquire("a", 1, true) // renewed
		acquire("b", 1, false)
		runOut()
		free(true)
		acquire("b", 2, true)
		acquire("a", 2, false)
		runOut()
		acquire("b", 3, true) // nobody had it in between, but somebody could have
		if err := l.Release(t.Context(), "relay", "b", 2); err != nil {
			t.Fatal(err)
		}
		acquire("a", 3, false) // released under an old token: not released
		if err := l.Release(t.Context(), "relay", "b", 3); err != nil {
			t.Fatal(err)
		}
		free(true)
		acquire("a", 4, true)
	})
}

// TestOneHolderAtATime has many gateways ask for the same new lease at once.
func TestOneHolderAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		for round := range 20 {
			var wg sync.WaitGroup
			var holders atomic.Int64
			for g := range 8 {
				wg.Go(func() {
					_, held, err := db.Leases().Acquire(t.Context(), fmt.Sprintf("job%d", round), fmt.Sprintf("gateway%d", g), leaseMost)
					if err != nil {
						t.Error(err)
					}
					if held {
						holders.Add(1)
					}
				})
			}
			wg.Wait()
			if holders.Load() != 1 {
				t.Fatalf("round %d: %d holders", round, holders.Load())
			}
		}
	})
}

// A lease from before the database's clock was set back, or from another server's clock,
// is nobody's: it would be held for as long as the clocks are apart.
func TestALeaseFromTheFuture(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		l := db.Leases()
		acquire := func(holder string, wantToken int64, wantHeld bool) {
			t.Helper()
			token, held, err := l.Acquire(t.Context(), "relay", holder, leaseMost)
			if err != nil || token != wantToken || held != wantHeld {
				t.Fatalf("%s: token %d, held %v, %v; want %d, %v", holder, token, held, err, wantToken, wantHeld)
			}
		}
		acquire("a", 1, true)
		acquire("b", 1, false) // a lease of the longest kind is not one of those
		b.exec("UPDATE job_leases SET expires_at = expires_at + 3600000")
		if free, err := l.Free(t.Context(), "relay"); err != nil || !free {
			t.Errorf("free: %v, %v", free, err)
		}
		acquire("b", 2, true)
		acquire("a", 2, false)
		if _, _, err := l.Acquire(t.Context(), "relay", "a", time.Minute); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("a lease that lives for a minute: %v", err)
		}
	})
}
