package deduct

import (
	"testing"
	"time"
)

// setBack sets the ledger's clock back by an hour.
func (l *fakeLedger) setBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now -= 3_600_000
}

// The ledger's clock is set back: what is loaded stays in use, what is distrusted is not
// used, and what is loaded then can be used at once, by all gateways.
func TestLedgerClockSetBack(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 100)
	a, b := newShield(t, m.Addr(), l), newShield(t, m.Addr(), l)
	all := map[string]*Shield{"a": a, "b": b}
	usable := func(what string) {
		t.Helper()
		for name, s := range all {
			if d := deduct(t, s, &sku, nil); !d.Loaded {
				t.Errorf("%s: %s has no copy", what, name)
			}
		}
	}
	distrusted := func(what string, s *Shield) {
		t.Helper()
		if d := deduct(t, s, &sku, nil); d.Loaded {
			t.Errorf("%s: the copy is used all the same", what)
		}
	}
	rebuild(t, a, &sku)
	usable("before")
	l.setBack()
	usable("set back")

	a.Distrust("shoe", l.Now())
	distrusted("distrust of a SKU", a)
	rebuild(t, a, &sku)
	usable("loaded again")

	b.DistrustAll()
	distrusted("distrust of all", b)
	rebuild(t, b, &sku)
	usable("loaded again by another gateway")

	// One that is started now knows nothing of what was.
	c := newShield(t, m.Addr(), l)
	all["c"] = c
	c.Distrust("shoe", l.Now())
	distrusted("distrust by one that is new", c)
	rebuild(t, c, &sku)
	usable("loaded by one that is new")
	loads := 0
	for range 3 {
		before, _ := m.Get(pointerKey(familyTag("shoe", 0)))
		for _, s := range all {
			if d := deduct(t, s, &sku, nil); !d.Loaded {
				rebuild(t, s, &sku)
			}
		}
		if after, _ := m.Get(pointerKey(familyTag("shoe", 0))); after != before {
			loads++
		}
	}
	if loads != 0 {
		t.Errorf("%d loads more: gateways do not agree on what they trust", loads)
	}

	m.FlushAll()
	rebuild(t, c, &sku)
	rebuild(t, a, &sku)
	usable("flushed and loaded again")
	l.setBack()
	b.DistrustAll()
	distrusted("set back once more", b)
	rebuild(t, b, &sku)
	usable("set back once more, and loaded")
}

// Redis' clock is set back, or a replica with another clock is promoted: a dead loader is
// not waited for, and batches that it left behind are judged.
func TestRedisClockSetBack(t *testing.T) {
	sc := newScene(t, 0, 10)
	deduct(t, sc.s, &sc.sku, claims(3, 0)) // its gateway dies
	tag := familyTag("shoe", 0)
	pointer, _ := sc.m.Get(pointerKey(tag))
	sc.m.HSet(loadKey(tag), "g", "dead", "at", "1700000000000")
	sc.age(-time.Hour)
	sc.reconcile(t, Report{Tentative: 1, Judged: 1, Returned: 3, Units: 3})
	if n := left(t, sc.s, &sc.sku); n != 10 {
		t.Errorf("%d units left, want 10", n)
	}
	sc.s.Distrust("shoe", sc.l.Now())
	rebuild(t, sc.s, &sc.sku)
	if now, _ := sc.m.Get(pointerKey(tag)); now == pointer {
		t.Error("the copy was not loaded anew")
	}
}
