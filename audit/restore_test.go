package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// shelf is a ledger that takes orders back as long as it has units, and refuses those
// of a user called "bad" as no orders at all.
type shelf struct {
	*world
	units int64
	asked []sale.OrderID
	fail  error
}

func (s *shelf) RestoreOrders(_ context.Context, orders []sale.Order) ([]sale.RestoreResult, error) {
	results := make([]sale.RestoreResult, len(orders))
	for _, o := range orders {
		if o.User == "bad" {
			return results, fmt.Errorf("%w: bad", sale.ErrInvalid)
		}
	}
	if s.fail != nil {
		return results, s.fail
	}
	for i, o := range orders {
		s.asked = append(s.asked, o.ID)
		has, ok := s.orders[o.ID]
		switch {
		case ok && (has.Version > o.Version || has.Status == o.Status):
			results[i] = sale.RestoreExists
		case !ok && o.Status.Live() && s.units < o.Quantity:
			results[i] = sale.RestoreNoStock
		default:
			if !ok && o.Status.Live() {
				s.units -= o.Quantity
			}
			o.ChangedAt = 0 // which only events tell
			s.orders[o.ID] = o
			results[i] = sale.RestoreDone
		}
	}
	return results, nil
}

func (s *shelf) restore(t testing.TB, cfg RestoreConfig, change ...func(*Restorer)) (Restoration, []Restored) {
	t.Helper()
	r, err := NewRestorer(cfg, s, streamed{s.world})
	if err != nil {
		t.Fatal(err)
	}
	for _, fn := range change {
		fn(r)
	}
	var told []Restored
	sum, err := r.Run(context.Background(), func(x Restored) error { told = append(told, x); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return sum, told
}

// TestRestorePutsBackWhatWasPublished loses any orders and changes, and finds the
// ledger afterwards as it was, whatever fits into memory.
func TestRestorePutsBackWhatWasPublished(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		all := w.fill(rapid.IntRange(0, 40).Draw(rt, "orders"))
		w.publishAll()
		if rapid.Bool().Draw(rt, "again") {
			w.stream = append(w.stream, w.stream...)
		}
		lacked := 0
		for i, o := range all {
			switch rapid.IntRange(0, 2).Draw(rt, fmt.Sprint("fate ", i)) {
			case 1:
				delete(w.orders, o.ID)
				lacked++
			case 2:
				if o.Version > 1 {
					before := o
					before.Status, before.Version = sale.StatusReserved, 1
					w.orders[o.ID] = before
					lacked++
				}
			}
		}
		s := &shelf{world: w, units: 1000}
		most, chunk := rapid.SampledFrom([]int{2, 5, 1000}).Draw(rt, "most"), rapid.IntRange(1, 50).Draw(rt, "chunk")
		bounds := func(r *Restorer) { r.maxLost, r.chunk = most, chunk }
		sum, told := s.restore(t, RestoreConfig{DryRun: true}, bounds)
		if len(s.asked) != 0 || sum.Done != 0 || sum.Failed != 0 || sum.Lacked < lacked || len(told) != sum.Lacked || (most == 1000 && sum.Lacked != lacked) {
			rt.Fatalf("dry run: %+v of %d", sum, lacked)
		}
		sum, told = s.restore(t, RestoreConfig{}, bounds)
		if sum.Failed != 0 || sum.Done < lacked || (most == 1000 && sum.Done != lacked) || (lacked > 0) != slices.Equal(sum.SKUs, []string{"shoe"}) {
			rt.Fatalf("%+v of %d", sum, lacked)
		}
		for _, r := range told {
			if !r.OK() {
				rt.Fatalf("%+v", r)
			}
		}
		for _, o := range all {
			if w.orders[o.ID] != o {
				rt.Fatalf("%+v, was %+v", w.orders[o.ID], o)
			}
		}
		if again, _ := s.restore(t, RestoreConfig{}, bounds); again.Lacked != 0 {
			rt.Fatalf("again: %+v", again)
		}
	})
}

// TestRestoreServesTheEarliest: where units are too few, who was first has them.
func TestRestoreServesTheEarliest(t *testing.T) {
	for _, most := range []int{2, 4, 1000} {
		w := newWorld()
		var ids []sale.OrderID
		for range 10 {
			o := w.reserve("")
			ids = append(ids, o.ID)
			delete(w.orders, o.ID)
		}
		w.publishAll()
		s := &shelf{world: w, units: 6}
		sum, told := s.restore(t, RestoreConfig{}, func(r *Restorer) { r.maxLost, r.chunk = most, 3 })
		if !slices.Equal(s.asked, ids) || sum.Done != 6 || sum.Failed != 4 {
			t.Errorf("%d in memory: %+v", most, sum)
		}
		for i, r := range told {
			if r.OK() != (i < 6) || (i >= 6 && r.Result != sale.RestoreNoStock) {
				t.Errorf("%d: %+v", i, r)
			}
		}
	}
}

func TestRestoreWithWhatNoLedgerTakes(t *testing.T) {
	w := newWorld()
	for range 7 {
		o := w.reserve("")
		delete(w.orders, o.ID)
	}
	w.publishAll()
	w.stream[3].orders[0].User = "bad"
	s := &shelf{world: w, units: 10}
	sum, told := s.restore(t, RestoreConfig{})
	if sum.Done != 6 || sum.Failed != 1 || len(told) != 7 || !errors.Is(told[3].Err, sale.ErrInvalid) {
		t.Errorf("%+v %+v", sum, told)
	}
	for what, broken := range map[string]func(s *shelf){
		"the ledger's rows": func(s *shelf) {
			s.fail = fmt.Errorf("%w: gone", sale.ErrUnavailable)
			w.orders = map[sale.OrderID]sale.Order{}
		},
		"the ledger": func(s *shelf) { s.fail = nil; w.away["ledger"] = sale.ErrUnavailable },
		"the stream": func(s *shelf) { w.away = map[string]error{"nats": sale.ErrUnavailable} },
	} {
		s := &shelf{world: w, units: 10}
		broken(s)
		r, err := NewRestorer(RestoreConfig{}, s, streamed{w})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Run(context.Background(), func(Restored) error { return nil }); !errors.Is(err, sale.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := NewRestorer(RestoreConfig{}, nil, nil); err == nil {
		t.Error("no ledger, no error")
	}
}
