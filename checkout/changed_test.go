package checkout

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// A change that this gateway hears of makes it look again, and throws no copy away.
func TestHeardOfAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.running(t)
		w.Heard(nil, w.sku)             // of which nothing is remembered
		pass(time.Minute + time.Second) // not when what nobody asked for is forgotten
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

// What changes decides what is done: a copy is distrusted where it is wrong, and loaded
// where it will be asked soon.
func TestWhatAChangeLoads(t *testing.T) {
	sku := func(change ...func(*sale.SKU)) *sale.SKU {
		s := &sale.SKU{Name: "s", State: sale.StateOpen, Heat: sale.HeatHot, Segments: 1, PayWithin: 900_000, Version: 1}
		for _, fn := range change {
			fn(s)
		}
		return s
	}
	cold := func(s *sale.SKU) { s.Heat = sale.HeatCold }
	paused := func(s *sale.SKU) { s.State = sale.StatePaused }
	titled := func(s *sale.SKU) { s.Title, s.UnitPrice, s.Version = "new", 7, 2 }
	limited := func(s *sale.SKU) { s.PerUserLimit = 3 }
	counting := func(s *sale.SKU) { s.PerUserLimit, s.Counting = 3, true }
	split := func(s *sale.SKU) { s.Segments = 4 }
	opens := func(d time.Duration) func(*sale.SKU) {
		return func(s *sale.SKU) { s.OpensAt = time.Now().Add(d).UnixMilli() }
	}
	over := func(s *sale.SKU) { s.ClosesAt = time.Now().UnixMilli() }
	for _, c := range []struct {
		name              string
		before, after     func() *sale.SKU
		stock             bool
		distrusted, loads int
	}{
		{"made", nil, func() *sale.SKU { return sku() }, true, 1, 1},
		{"made cold", nil, func() *sale.SKU { return sku(cold) }, true, 0, 0},
		{"made, opens tomorrow", nil, func() *sale.SKU { return sku(opens(24 * time.Hour)) }, true, 1, 0},
		{"made, opens soon", nil, func() *sale.SKU { return sku(opens(time.Second)) }, true, 1, 1},
		{"made paused", nil, func() *sale.SKU { return sku(paused) }, true, 1, 0},
		{"a title and a price", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku(titled) }, false, 0, 0},
		{"stock", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku() }, true, 1, 1},
		{"stock while cold", func() *sale.SKU { return sku(cold) }, func() *sale.SKU { return sku(cold) }, true, 0, 0},
		{"a limit", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku(limited) }, false, 1, 1},
		{"a limit that is not in force", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku(counting) }, false, 1, 0},
		{"a limit that has come into force", func() *sale.SKU { return sku(counting) }, func() *sale.SKU { return sku(limited) }, false, 1, 1},
		{"segments", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku(split) }, false, 1, 1},
		{"heated", func() *sale.SKU { return sku(cold) }, func() *sale.SKU { return sku() }, false, 1, 1},
		{"cooled", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku(cold) }, false, 0, 0},
		{"opened", func() *sale.SKU { return sku(paused) }, func() *sale.SKU { return sku() }, false, 0, 1},
		{"paused", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku(paused) }, false, 0, 0},
		{"closed", func() *sale.SKU { return sku() }, func() *sale.SKU { return sku(over) }, false, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				l := &loads{}
				w.shield.rebuild = l.rebuild
				w.running(t)
				var before *sale.SKU
				if c.before != nil {
					before = c.before()
				}
				w.Changed(before, c.after(), c.stock)
				pass(time.Millisecond)
				if d := w.shield.takeDistrusted(); len(d) != c.distrusted || l.count("s") != c.loads {
					t.Errorf("distrusted %v, %d loads; want %d and %d", d, l.count("s"), c.distrusted, c.loads)
				}
			})
		})
	}
}

// What was sold while a SKU was cold, no copy was told of, on any gateway.
func TestHeardThatASKUWasHeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		cold := *w.sku
		cold.Heat = sale.HeatCold
		w.sku.ChangedAt = 77
		w.Heard(&cold, w.sku)
		if d := w.shield.takeDistrusted(); !slices.Equal(d, []distrust{{"s", 77}}) {
			t.Errorf("distrusted %v", d)
		}
		if w.Heard(w.sku, &cold); len(w.shield.takeDistrusted()) != 0 {
			t.Error("distrusted a copy that will not be asked")
		}
	})
}

// SKUs are loaded a minute before their sale opens, whoever put them.
func TestPreheat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		l := &loads{}
		w.shield.rebuild = l.rebuild
		w.running(t)
		for i := range 4 {
			name := fmt.Sprint("in-", i)
			w.ledger.skus[name] = &sale.SKU{Name: name, State: sale.StateOpen, OpensAt: time.Now().Add(time.Duration(i) * 45 * time.Second).UnixMilli()}
		}
		if err := w.Preheat(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if l.count("in-1") != 1 || l.count("in-0")+l.count("in-2")+l.count("in-3")+l.count("s") != 0 {
			t.Errorf("loaded %v", l.of)
		}
		w.ledger.away = errBroken
		if err := w.Preheat(t.Context()); err == nil {
			t.Error("no error without a ledger")
		}
	})
}
