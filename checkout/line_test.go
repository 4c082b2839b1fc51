package checkout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// SKUs that buyers wait for come first, in the order of their asking, whenever the
// waiting began; a SKU that has to be loaded by itself keeps its rank.
func TestBuyersWaitForNoPreheating(t *testing.T) {
	var r rebuilds
	r.init()
	for i := range 5 {
		r.ahead(fmt.Sprint("ahead-", i))
	}
	r.want("late")
	r.want("ahead-3")
	r.want("late")
	if got := r.next(&r.bulk, 3); !slices.Equal(got, []string{"late", "ahead-3", "ahead-0"}) {
		t.Fatalf("the first three are %q", got)
	}
	r.want("ahead-0") // too late to matter for this line
	for _, name := range []string{"ahead-0", "ahead-3", "late"} {
		r.leave(name)
	}
	r.done(r.next(&r.bulk, 1)[0], false, 0)
	if got := r.next(&r.bulk, 9); !slices.Equal(got, []string{"ahead-2", "ahead-4"}) {
		t.Fatalf("the rest is %q", got)
	}
	if got := r.next(&r.alone, 9); !slices.Equal(got, []string{"ahead-0", "ahead-3", "late"}) {
		t.Fatalf("to be loaded alone: %q", got)
	}
	if got := append(r.next(&r.bulk, 9), r.next(&r.alone, 9)...); len(got) != 0 {
		t.Fatalf("loaded twice: %q", got)
	}
}

// Whatever is asked in whatever order, no SKU is loaded by two at a time, and each is
// loaded after it was last asked for.
func TestRebuildsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r rebuilds
		r.init()
		wanted := map[string]bool{}  // a load that begins after now is owed
		loading := map[string]bool{} // being loaded
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		owe := func(n string) {
			if !loading[n] {
				wanted[n] = true
			}
		}
		step := map[string]func(*rapid.T){
			"want":  func(t *rapid.T) { n := name.Draw(t, "sku"); r.want(n); owe(n) },
			"ahead": func(t *rapid.T) { n := name.Draw(t, "sku"); r.ahead(n); owe(n) },
			"renew": func(t *rapid.T) { n := name.Draw(t, "sku"); r.renew(n); wanted[n] = true },
			"next": func(t *rapid.T) {
				l := &r.bulk
				if rapid.Bool().Draw(t, "alone") {
					l = &r.alone
				}
				for _, n := range r.next(l, rapid.IntRange(1, 2).Draw(t, "n")) {
					if loading[n] {
						t.Fatalf("%s is loaded twice at a time", n)
					}
					loading[n] = true
					delete(wanted, n)
				}
			},
			"done": func(t *rapid.T) {
				for n := range loading {
					r.done(n, false, 0)
					delete(loading, n)
					return
				}
			},
			"leave": func(t *rapid.T) {
				for n := range loading {
					r.leave(n)
					delete(loading, n)
					wanted[n] = true
					return
				}
			},
		}
		t.Repeat(step)
		for n := range loading {
			r.done(n, false, 0)
		}
		for range 4 {
			for _, l := range []*line{&r.bulk, &r.alone} {
				for _, n := range r.next(l, 9) {
					delete(wanted, n)
					r.done(n, false, 0)
				}
			}
		}
		if len(wanted) > 0 || len(r.pending) > 0 {
			t.Fatalf("never loaded: %v; left in line: %v", wanted, r.pending)
		}
	})
}

// Many SKUs are loaded together; one that fails is tried again, and the others are not.
func TestLoadedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		single := &loads{takes: time.Second}
		w.shield.rebuild = single.rebuild
		calls, loaded := 0, map[string]int{}
		w.shield.bulk = func(skus []*sale.SKU) (alone []*sale.SKU, failed map[*sale.SKU]error) {
			calls++
			failed = map[*sale.SKU]error{}
			for _, sku := range skus {
				loaded[sku.Name]++
				switch {
				case sku.Name == "s7" && loaded["s7"] == 1:
					failed[sku] = errors.New("away")
				case sku.Name == "s9":
					alone = append(alone, sku)
				}
			}
			return alone, failed
		}
		w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, nil }
		for i := range 2 * bulkSize {
			name := fmt.Sprint("s", i)
			w.ledger.skus[name] = &sale.SKU{Name: name}
			w.rebuilds.want(name)
		}
		w.rebuilds.want("unknown")
		w.running(t)
		pass(time.Minute)
		if calls < 3 || calls > 4 {
			t.Errorf("%d loads of many SKUs, want two, the last SKU's and the repetition", calls)
		}
		for i := range 2 * bulkSize {
			name := fmt.Sprint("s", i)
			want := 1
			if name == "s7" {
				want = 2
			}
			if loaded[name] != want {
				t.Errorf("%s was loaded %d times", name, loaded[name])
			}
		}
		if single.count("s9") != 1 || single.count("s8") != 0 {
			t.Errorf("loaded alone: %v", single.of)
		}
	})
}
