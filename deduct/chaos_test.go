package deduct

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// TestChaosOnRedis lets gateways buy, cancel, crash, distrust, rebuild and reconcile at
// once while Redis is flushed and restarted; afterwards every unit can still be sold.
func TestChaosOnRedis(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	for _, segments := range []int{1, 2} {
		t.Run(fmt.Sprintf("segments=%d", segments), func(t *testing.T) { chaos(t, segments) })
	}
}

func chaos(t *testing.T, segments int) {
	server := testenv.Redis(t)
	sku := testSKU(2, segments)
	stock := make([]int64, segments)
	for i := range stock {
		stock[i] = 20_000
	}
	l := newFakeLedger(sku, stock...)
	var gates []*Shield
	for i := range 2 {
		gates = append(gates, newShield(t, server.Addr, l, func(c *Config) {
			c.Home, c.Grace = uint32(i), 150*time.Millisecond
		}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	var through, around, rebuilt, restarted atomic.Int64
	// Trouble comes after so many batches got through, and then once more soon after, in
	// the middle of what mends it: it never comes faster than a slow machine can mend.
	trouble := func(batches int64, soon time.Duration, make func(i int)) {
		for i := 0; ; i += 2 {
			for goal := through.Load() + batches; through.Load() < goal; {
				if pause(ctx, time.Millisecond) != nil {
					return
				}
			}
			make(i)
			if pause(ctx, soon) != nil {
				return
			}
			make(i + 1)
		}
	}
	for g, s := range gates {
		for range 3 {
			wg.Go(func() {
				var settled []sale.Settlement
				for ctx.Err() == nil {
					cs := make([]*sale.Claim, 1+rand.IntN(40))
					for i := range cs {
						cs[i] = claim(fmt.Sprintf("u%d", rand.IntN(30_000)), fmt.Sprint(rand.IntN(3)), int64(1+rand.IntN(2)))
					}
					d, err := s.Deduct(ctx, &sku, cs, settled)
					settled = nil
					if err != nil || !d.Loaded {
						around.Add(1)
						l.commit(cs[:1], nil) // throttled
						if err := s.Rebuild(ctx, &sku); err == nil {
							rebuilt.Add(1)
						}
						continue
					}
					through.Add(1)
					switch rand.IntN(20) {
					case 0: // dies before the ledger hears of it
					case 1: // dies before the shield hears of it
						decide(l, d, cs)
					default:
						settled = decide(l, d, cs)
						if len(settled) > 1 || len(settled[0].Refused) > 0 {
							s.Distrust(sku.Name, l.Now())
						}
					}
					if o, ok := l.cancel(cs[0].ID); ok && rand.IntN(4) > 0 {
						_ = s.Release(ctx, &sku, []sale.Order{o})
					}
				}
			})
		}
		wg.Go(func() {
			for pause(ctx, 40*time.Millisecond) == nil {
				_, _ = s.Reconcile(ctx)
			}
		})
		wg.Go(func() {
			trouble(int64(7+5*g), 20*time.Millisecond, func(int) { s.Distrust("", l.Now()) })
		})
	}
	wg.Go(func() {
		trouble(20, 30*time.Millisecond, func(i int) {
			if i%4 == 3 {
				server.Restart(t)
				restarted.Add(1)
			} else {
				server.FlushAll(t)
			}
		})
	})
	testenv.Eventually(t, func() bool {
		return through.Load() >= 100 && rebuilt.Load() >= 10 && restarted.Load() >= 2
	}, "much happens")
	cancel()
	wg.Wait()
	if err := l.check(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d batches through the shield, %d around it, %d rebuilds; %d units left", through.Load(), around.Load(), rebuilt.Load(), l.available())
	sellTheRest(t, gates, l, &sku)
}

// sellTheRest buys for new buyers until the ledger has nothing left.
func sellTheRest(t *testing.T, gates []*Shield, l *fakeLedger, sku *sale.SKU) {
	ctx := context.Background()
	users := 1_000_000
	sellSome := func() {
		for _, s := range gates {
			cs := claims(maxBatch, users)
			users += len(cs)
			d, err := s.Deduct(ctx, sku, cs, nil)
			if err != nil || !d.Loaded {
				_ = s.Rebuild(ctx, sku)
				continue
			}
			if err := s.Settle(ctx, sku, decide(l, d, cs)); err != nil {
				t.Fatal(err)
			}
			s.checkMu.Lock()
			clear(s.checks)
			s.checkMu.Unlock()
			if _, err := s.Reconcile(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	for before := l.available(); before > 0; before = l.available() {
		testenv.Eventually(t, func() bool { sellSome(); return l.available() < before }, "the last %d units are sold", before)
	}
	if err := l.check(); err != nil {
		t.Fatal(err)
	}
}
