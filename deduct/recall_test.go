package deduct

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashgate/sale"
)

// More ids than a pipeline takes, of which every other is known.
func TestRecallAll(t *testing.T) {
	m := startMini(t)
	ctx := context.Background()
	s := newShield(t, m.Addr(), newFakeLedger(testSKU(0, 1), 1))
	want := map[sale.OrderID]sale.Order{}
	var ids []sale.OrderID
	var known []sale.Order
	for i, c := range claims(2*rememberChunk+3, 0) {
		ids = append(ids, c.ID)
		if i%2 == 0 {
			o := sale.Rejected(c, sale.SoldOut)
			known, want[c.ID] = append(known, o), o
		}
	}
	if err := s.Remember(ctx, known, time.Minute); err != nil {
		t.Fatal(err)
	}
	got, err := s.RecallAll(ctx, ids)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d of %d are recalled: %v", len(got), len(want), err)
	}
	for id, o := range want {
		if got[id] != o {
			t.Fatalf("%+v, want %+v", got[id], o)
		}
	}
	if none, err := s.RecallAll(ctx, nil); err != nil || len(none) > 0 {
		t.Error(none, err)
	}
	if err := m.Set(verdictKey(ids[1]), "not a verdict"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RecallAll(ctx, ids); !errors.Is(err, errVerdict) {
		t.Errorf("a damaged verdict: %v", err)
	}
	m.Close()
	if _, err := s.RecallAll(ctx, ids); !errors.Is(err, sale.ErrUnavailable) {
		t.Error(err)
	}
}
