package checkout

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// orders of SKU "s" that ended.
func ended(users string) []sale.Order {
	var out []sale.Order
	for _, c := range claims(users) {
		out = append(out, sale.Order{ID: c.ID, SKU: "s", User: c.User, Quantity: 1, Status: sale.StatusCancelled})
	}
	return out
}

func TestReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.running(t)
		w.Released(t.Context(), "s", ended("x")) // of which nothing is remembered
		w.shield.deduct = w.answers("-")
		if w.settle(t, claims("a")); !w.SoldOut("s") {
			t.Fatal("not sold out after the shield said so")
		}
		if w.Released(t.Context(), "s", ended("yz")); w.SoldOut("s") {
			t.Error("still sold out, though units came back")
		}
		// A cancellation may have taken all the time that its request had.
		over, cancel := context.WithCancel(t.Context())
		cancel()
		w.Released(over, "s", ended("q"))
		if n := len(w.shield.released); n != 4 {
			t.Errorf("the shield was told of %d orders, want 4", n)
		}
		if d := w.shield.takeDistrusted(); len(d) > 0 {
			t.Errorf("distrusted %v", d)
		}
	})
}

// What came back is looked for in the ledger for a second and a half after the last time,
// and then no more.
func TestUnitsThatCameBackAreLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.running(t)
		w.Released(t.Context(), "s", ended("x"))
		pass(10*restockEvery + restockEvery/2) // in between two looks
		w.Changed(nil, w.sku, true)
		pass(time.Minute)
		if n := len(w.shield.takeRaised()); n != 10+restockLooks {
			t.Errorf("%d looks, want ten before the change and %d after it", n, restockLooks)
		}
	})
}

// A shield that is away, or a SKU that cannot be looked at, costs the others nothing.
func TestUnitsThatCameBackWithoutAShield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.running(t)
		w.redis.set(true)
		w.Released(t.Context(), "s", ended("x"))
		if len(w.shield.released) > 0 {
			t.Error("the shield was told past its breaker")
		}
		pass(10*restockEvery + restockEvery/2) // in between two looks
		if n := len(w.shield.takeRaised()); n > 0 {
			t.Errorf("%d looks past the breaker", n)
		}
		w.redis.set(false)
		w.sql.set(true) // a look would ask the ledger
		pass(20 * restockEvery)
		if n := len(w.shield.takeRaised()); n > 0 {
			t.Errorf("%d looks without a ledger", n)
		}
		pass(time.Minute)
		w.sql.set(false)
		w.shield.mu.Lock()
		w.shield.fail = errors.New("broken")
		w.shield.mu.Unlock()
		w.Released(t.Context(), "gone", nil) // no such SKU
		w.Released(t.Context(), "s", ended("y"))
		pass(time.Minute)
		if n := len(w.shield.takeRaised()); n != restockLooks {
			t.Errorf("%d looks beside a SKU that is gone, want %d", n, restockLooks)
		}
	})
}
