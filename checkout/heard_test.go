package checkout

import (
	"testing"
	"testing/synctest"
	"time"
)

// A change that this gateway hears of makes it look again, and throws no copy away.
func TestHeardOfAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.running(t)
		w.Heard(nil, w.sku) // of which nothing is remembered
		pass(time.Minute)
		w.shield.takeRaised()
		w.shield.deduct = w.answers("-")
		if w.settle(t, claims("a")); !w.SoldOut("s") {
			t.Fatal("not sold out after the shield said so")
		}
		if w.Heard(w.sku, w.sku); w.SoldOut("s") {
			t.Error("still sold out, though there may be more")
		}
		pass(time.Minute)
		if n := len(w.shield.takeRaised()); n != restockLooks {
			t.Errorf("%d looks, want %d", n, restockLooks)
		}
		if d := w.shield.takeDistrusted(); len(d) > 0 {
			t.Errorf("distrusted %v", d)
		}
	})
}
