package ledger

import (
	"errors"
	"fmt"
	"testing"

	"flashgate/sale"
)

// TestSnapshot reads orders and outbox while more is sold: they stay one state.
func TestSnapshot(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 100_000, 0)
		// More than a page of either.
		for i := range pendingPage + 6 {
			if _, err := db.Commit(t.Context(), direct(sku, claims(sku, fmt.Sprint("early-", i), 100)...)); err != nil {
				t.Fatal(err)
			}
		}
		o := b.reserve(db, sku, "ann", "1", 2)
		b.cancel(db, &o)
		var rows, orders int
		err := db.InSnapshot(t.Context(), func(s *Snapshot) error {
			if _, err := db.Commit(t.Context(), direct(sku, claims(sku, "late", 50)...)); err != nil {
				return err
			}
			first, last := sale.OrderID{}, sale.OrderID{}
			for i := range last {
				last[i] = 0xff
			}
			after := sale.OrderID{}
			err := s.EachOrder(t.Context(), first, last, func(chunk []sale.Order) error {
				for _, o := range chunk {
					if compareOrderIDs(after, o.ID) >= 0 {
						t.Fatalf("%s behind %s", o.ID, after)
					}
					after = o.ID
				}
				orders += len(chunk)
				return nil
			})
			if err != nil {
				return err
			}
			halves := 0
			middle, next := sale.OrderID{0: 0x80}, sale.OrderID{0: 0x80, 15: 1}
			for _, r := range [][2]sale.OrderID{{first, middle}, {next, last}} {
				if err := s.EachOrder(t.Context(), r[0], r[1], func(chunk []sale.Order) error { halves += len(chunk); return nil }); err != nil {
					return err
				}
			}
			if halves != orders {
				t.Errorf("%d orders in two halves, %d in all", halves, orders)
			}
			return s.EachPending(t.Context(), func(r sale.OutboxRow) error {
				rows++
				if r.SKU != "shoe" || len(r.Payload) == 0 || r.Kind == "" || r.ID == 0 {
					t.Errorf("%+v", r)
				}
				return nil
			})
		})
		// Each commit wrote a row, the last order two.
		if want := pendingPage + 6 + 2; err != nil || orders != (pendingPage+6)*100+1 || rows != want {
			t.Errorf("%d orders and %d rows, want %d, %v", orders, rows, want, err)
		}
		stop := errors.New("enough")
		if err := db.InSnapshot(t.Context(), func(s *Snapshot) error {
			return s.EachPending(t.Context(), func(sale.OutboxRow) error { return stop })
		}); !errors.Is(err, stop) {
			t.Error(err)
		}
	})
}
