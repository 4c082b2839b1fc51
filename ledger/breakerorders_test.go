package ledger

import (
	"errors"
	"testing"

	"flashgate/sale"
)

// The order that was given last stands, as it was given, also when the clock was set
// back in between; each breaker has its own.
func TestTheLastBreakerOrderStands(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		if got, err := db.BreakerOrders(t.Context()); err != nil || len(got) != 0 {
			t.Fatal(got, err)
		}
		redis := sale.BreakerOrder{Name: "redis", Mode: sale.BreakerForcedOpen, Until: 1 << 50, Reason: "größer", By: "host/1"}
		nats := sale.BreakerOrder{Name: "nats", Mode: sale.BreakerForcedClosed, By: "host/2"}
		auto := sale.BreakerOrder{Name: "redis", Mode: sale.BreakerAuto, By: "host/2"}
		var given []sale.BreakerOrder
		give := func(o sale.BreakerOrder) (at int64) {
			t.Helper()
			var err error
			if given, err = db.GiveBreakerOrder(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			for _, g := range given {
				if g.Name == o.Name {
					at, g.At = g.At, 0
					if g != o {
						t.Errorf("given %+v, stands %+v", o, g)
					}
				}
			}
			return at
		}
		first := give(redis)
		give(nats)
		b.exec("UPDATE breaker_orders SET given_at = given_at + 3600000")
		if at := give(auto); at != first+3_600_001 {
			t.Errorf("given at %d, the next one at %d", first, at)
		}
		got, err := db.BreakerOrders(t.Context())
		if err != nil || len(got) != 2 || got[0] != given[0] || got[1] != given[1] {
			t.Errorf("%+v, %v; want %+v", got, err, given)
		}
		b.exec("UPDATE breaker_orders SET mode = 'sideways' WHERE name = 'redis'")
		if _, err := db.BreakerOrders(t.Context()); !errors.Is(err, sale.ErrUnavailable) {
			t.Errorf("an order that nobody understands: %v", err)
		}
	})
}
