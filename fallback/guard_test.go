package fallback

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// failing is every dependency at once: it counts the calls that reach it and fails them.
type failing struct{ calls int }

func (f *failing) fail() error { f.calls++; return errAway }

func (f *failing) Deduct(context.Context, *sale.SKU, []*sale.Claim, []sale.Settlement) (sale.Deduction, error) {
	return sale.Deduction{Left: 7}, f.fail()
}
func (f *failing) Settle(context.Context, *sale.SKU, []sale.Settlement) error { return f.fail() }
func (f *failing) Release(context.Context, *sale.SKU, []sale.Order) error     { return f.fail() }
func (f *failing) Raise(context.Context, []*sale.SKU) error                   { return f.fail() }
func (f *failing) Remember(context.Context, []sale.Order, time.Duration) error {
	return f.fail()
}
func (f *failing) Recall(context.Context, sale.OrderID) (sale.Order, bool, error) {
	return sale.Order{}, false, f.fail()
}
func (f *failing) RecallAll(context.Context, []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return nil, f.fail()
}
func (f *failing) Left(context.Context, *sale.SKU) (int64, bool, error) { return 0, false, f.fail() }
func (f *failing) BulkLoad(context.Context, []*sale.SKU) ([]*sale.SKU, map[*sale.SKU]error) {
	_ = f.fail()
	return nil, nil
}
func (f *failing) Rebuild(context.Context, *sale.SKU) error { return f.fail() }
func (f *failing) Distrust(string, int64)                   { f.calls++ }
func (f *failing) Commit(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
	return sale.CommitResult{}, f.fail()
}
func (f *failing) Find(context.Context, []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return nil, f.fail()
}
func (f *failing) FindExhausted(context.Context, string, []sale.OrderID) (map[sale.OrderID]sale.Order, bool, error) {
	return nil, false, f.fail()
}
func (f *failing) Order(context.Context, sale.OrderID) (sale.Order, error) {
	return sale.Order{}, f.fail()
}
func (f *failing) Stock(context.Context, string) (map[int]sale.Stock, error) { return nil, f.fail() }
func (f *failing) Pay(context.Context, sale.Payment) (sale.PaymentResult, error) {
	return sale.PaymentResult{}, f.fail()
}
func (f *failing) Cancel(context.Context, sale.OrderID, string) (sale.Order, error) {
	return sale.Order{}, f.fail()
}
func (f *failing) Opening(context.Context, int64, int64, int) ([]string, error) { return nil, f.fail() }
func (f *failing) Now() int64                                                   { f.calls++; return 7 }
func (f *failing) SKU(context.Context, string) (*sale.SKU, error) {
	return nil, f.fail()
}

// callByName calls a method with zero values and returns its error.
func callByName(ctx context.Context, guard any, method string) (err error) {
	fn := reflect.ValueOf(guard).MethodByName(method)
	var args []reflect.Value
	for i := range fn.Type().NumIn() {
		if in := fn.Type().In(i); in == reflect.TypeFor[context.Context]() {
			args = append(args, reflect.ValueOf(ctx))
		} else {
			args = append(args, reflect.Zero(in))
		}
	}
	for _, out := range fn.Call(args) {
		if e, ok := out.Interface().(error); ok {
			err = e
		}
	}
	return err
}

// TestGuards calls every method of every guard: behind an open breaker it is not called,
// unless it is meant to be, and behind a closed one its failures count, or do not.
func TestGuards(t *testing.T) {
	behind := &failing{}
	for _, c := range []struct {
		name      string
		methods   reflect.Type
		guard     func(*Breaker) any
		counts    bool
		unguarded []string
	}{
		{"shield", reflect.TypeFor[Shield](), func(b *Breaker) any { return GuardShield(behind, b) }, true, []string{"BulkLoad", "Rebuild", "Distrust"}},
		{"ledger", reflect.TypeFor[Ledger](), func(b *Breaker) any { return GuardLedger(behind, b) }, true, []string{"Now", "SKU"}},
		{"ledger, asked", reflect.TypeFor[Ledger](), func(b *Breaker) any { return GuardLedger(behind, b).Asked() }, false, []string{"Now", "SKU"}},
	} {
		for i := range c.methods.NumMethod() {
			method := c.methods.Method(i).Name
			t.Run(c.name+", "+method, func(t *testing.T) {
				b, unguarded := newBreaker(t, config()), slices.Contains(c.unguarded, method)
				guard := c.guard(b)
				force(b, sale.BreakerForcedOpen, 0, "")
				before := behind.calls
				if err := callByName(t.Context(), guard, method); (behind.calls > before) != (unguarded || !c.counts) {
					t.Errorf("behind a breaker that was forced open: %v", err)
				}
				force(b, sale.BreakerAuto, 0, "")
				for range config().Consecutive {
					if err := callByName(t.Context(), guard, method); !unguarded && !errors.Is(err, errAway) {
						t.Errorf("%v, want the dependency's own error", err)
					}
				}
				if opened := !b.Usable(); opened != (c.counts && !unguarded) {
					t.Errorf("after %d failures in a row the breaker is open: %t", config().Consecutive, opened)
				}
				for range config().Consecutive {
					do(b, errAway)
				}
				before = behind.calls
				err := callByName(t.Context(), guard, method)
				if called := behind.calls > before; called != unguarded || errors.Is(err, sale.ErrNotCalled) == unguarded {
					t.Errorf("behind an open breaker: called %t, %v", called, err)
				}
			})
		}
	}
}

// Each server of many has a breaker of its own: the one in front of all of them opens by an
// operator's order, and by nothing else.
func TestGuardShards(t *testing.T) {
	behind := &failing{}
	for i := range reflect.TypeFor[Shield]().NumMethod() {
		method := reflect.TypeFor[Shield]().Method(i).Name
		if slices.Contains([]string{"BulkLoad", "Rebuild", "Distrust"}, method) {
			continue
		}
		b := newBreaker(t, config())
		guard := GuardShards(behind, b)
		for range 3 * config().Consecutive {
			if err := callByName(t.Context(), guard, method); !errors.Is(err, errAway) || !guard.Usable() {
				t.Errorf("%s: %v, usable %t", method, err, guard.Usable())
			}
		}
		force(b, sale.BreakerForcedOpen, 0, "")
		if err := callByName(t.Context(), guard, method); !errors.Is(err, sale.ErrNotCalled) {
			t.Errorf("%s past an order: %v", method, err)
		}
	}
	each, err := NewEach(config())
	if err != nil {
		t.Fatal(err)
	}
	one, other := each("a:1"), each("b:2")
	for range config().Consecutive {
		do(one, errAway)
	}
	if one.Usable() || !other.Usable() {
		t.Errorf("one failed: it is usable %t, and the other %t", one.Usable(), other.Usable())
	}
	if _, err := NewEach(Config{}); err == nil {
		t.Error("breakers of nothing")
	}
}

func TestGuardedBacklogIsUsableWhenBothAre(t *testing.T) {
	for _, c := range []struct{ connected, closed bool }{{true, true}, {true, false}, {false, true}} {
		b := newBreaker(t, config())
		if !c.closed {
			force(b, sale.BreakerForcedOpen, 0, "")
		}
		if got := GuardBacklog(fakeBacklog{usable: c.connected}, b).Usable(); got != (c.connected && c.closed) {
			t.Errorf("%+v: usable %t", c, got)
		}
	}
}

type fakeBacklog struct {
	Backlog
	usable bool
}

func (f fakeBacklog) Usable() bool { return f.usable }

// A dependency that nobody else calls is found to be back by its probe.
func TestProbeClosesABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		doAll(b, errAway, errAway, errAway, errAway, errAway)
		away := true
		probe := b.Probe(time.Second, func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("a probe without an end")
			}
			if away {
				return errAway
			}
			return nil
		})
		for _, away = range []bool{true, false} {
			pass(config().ProbeAfter)
			if err := probe(t.Context()); err != nil {
				t.Errorf("the job failed: %v", err)
			}
			if b.Usable() == away {
				t.Errorf("away %t, and usable %t", away, b.Usable())
			}
		}
	})
}
