package fallback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// orderTable is the ledger's table of orders, for several gateways.
type orderTable struct {
	rows []sale.BreakerOrder
	at   int64
	away bool
}

func (o *orderTable) Now() int64 { return time.Now().UnixMilli() + 3_600_000 } // the ledger's clock is another

func (o *orderTable) GiveBreakerOrder(_ context.Context, order sale.BreakerOrder) ([]sale.BreakerOrder, error) {
	if o.away {
		return nil, fmt.Errorf("x: %w", sale.ErrUnavailable)
	}
	o.rows = slices.DeleteFunc(o.rows, func(r sale.BreakerOrder) bool { return r.Name == order.Name })
	o.at++
	order.At = o.at
	o.rows = append(o.rows, order)
	return slices.Clone(o.rows), nil
}

func (o *orderTable) BreakerOrders(context.Context) ([]sale.BreakerOrder, error) {
	if o.away {
		return nil, fmt.Errorf("x: %w", sale.ErrUnavailable)
	}
	return slices.Clone(o.rows), nil
}

func newPanel(t *testing.T, name string, orders Orders) *Panel {
	t.Helper()
	var breakers []*Breaker
	for _, of := range []string{"redis", "ledger"} {
		cfg := config()
		cfg.Name = of
		breakers = append(breakers, newBreaker(t, cfg))
	}
	return NewPanel(name, orders, breakers...)
}

// fleetOf are two gateways' panels, and what an operator says to one of them.
type fleetOf struct {
	t     *testing.T
	table *orderTable
	a, b  *Panel
}

func (f *fleetOf) order(p *Panel, scope sale.BreakerScope, mode sale.BreakerMode, d time.Duration) {
	f.t.Helper()
	o := sale.BreakerOrder{Name: "ledger", Mode: mode, Reason: "drill"}
	if d > 0 {
		o.Until = f.table.Now() + d.Milliseconds()
	}
	s, err := p.ForceBreaker(f.t.Context(), scope, o)
	if err != nil || s.Mode != mode || s.Scope != scope || s.By != p.gateway || s.Name != "ledger" {
		f.t.Errorf("an order for %s: %+v, %v", scope, s, err)
	}
}

func (f *fleetOf) look(panels ...*Panel) {
	f.t.Helper()
	for _, p := range panels {
		if err := p.Obey(f.t.Context()); err != nil {
			f.t.Error(err)
		}
	}
}

// want checks the modes of the ledger's breaker in a and in b, and that no order is
// mistaken for the other breaker's.
func (f *fleetOf) want(what string, a, b sale.BreakerMode) {
	f.t.Helper()
	for p, mode := range map[*Panel]sale.BreakerMode{f.a: a, f.b: b} {
		if s := p.Breakers(); s[1].Mode != mode || s[0].Mode != sale.BreakerAuto {
			f.t.Errorf("%s: the breakers of %s are %+v, want %s", what, p.gateway, s, mode)
		}
	}
}

func TestAnOrderForTheFleet(t *testing.T) {
	const open, closed, auto = sale.BreakerForcedOpen, sale.BreakerForcedClosed, sale.BreakerAuto
	synctest.Test(t, func(t *testing.T) {
		f := &fleetOf{t: t, table: &orderTable{}}
		f.a, f.b = newPanel(t, "a", f.table), newPanel(t, "b", f.table)
		f.order(f.a, sale.ScopeFleet, open, 0)
		f.want("before b looks", open, auto)
		f.look(f.a, f.b)
		f.want("after it", open, open)
		if s := f.b.Breakers()[1]; s.Scope != sale.ScopeFleet || s.By != "a" || s.Reason != "drill" || s.Until != 0 || s.State != "open" {
			t.Errorf("b shows %+v", s)
		}
		f.order(f.b, sale.ScopeGateway, closed, time.Minute)
		f.look(f.a, f.b)
		f.want("one is excepted", open, closed)
		time.Sleep(time.Minute)
		f.want("the exception is over", open, open)
		f.order(f.b, sale.ScopeGateway, auto, 0)
		f.look(f.a, f.b)
		f.want("one is left to itself", open, auto)
		f.order(f.a, sale.ScopeGateway, closed, 0)
		f.order(f.b, sale.ScopeFleet, auto, 0)
		f.look(f.a, f.b)
		f.want("auto for the fleet ends everything", auto, auto)

		f.order(f.a, sale.ScopeFleet, closed, time.Hour)
		f.look(f.b)
		f.table.away = true
		time.Sleep(30 * time.Minute)
		if err := f.b.Obey(t.Context()); !errors.Is(err, sale.ErrUnavailable) {
			t.Errorf("with the ledger away: %v", err)
		}
		f.want("with the ledger away", closed, closed)
		o := sale.BreakerOrder{Name: "ledger", Mode: open}
		if _, err := f.a.ForceBreaker(t.Context(), sale.ScopeFleet, o); !errors.Is(err, sale.ErrUnavailable) {
			t.Errorf("an order that nobody can keep: %v", err)
		}
		f.want("an order that nobody can keep is obeyed by none", closed, closed)
		f.order(f.a, sale.ScopeGateway, open, 0)
		f.want("one gateway needs no ledger", open, closed)
		f.table.away = false
		f.look(f.a, f.b)
		f.want("what is known is no new order", open, closed)
		f.b = newPanel(t, "late", f.table)
		f.look(f.b)
		f.want("who starts later obeys", open, closed)
		time.Sleep(30 * time.Minute)
		f.want("its time is over", open, auto)
		f.b = newPanel(t, "later", f.table)
		f.look(f.b)
		f.want("an order that is over is none", open, auto)
		if s := f.b.Breakers()[1]; s.Scope != 0 || s.Reason != "" || s.Until != 0 {
			t.Errorf("without an order: %+v", s)
		}
		o.Name = "mail"
		if _, err := f.a.ForceBreaker(t.Context(), sale.ScopeFleet, o); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("a breaker that does not exist: %v", err)
		}
	})
}
