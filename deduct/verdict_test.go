package deduct

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func TestVerdictsAreRememberedForAWhile(t *testing.T) {
	m := startMini(t)
	ctx := context.Background()
	s := newShield(t, m.Addr(), newFakeLedger(testSKU(0, 1), 1))
	c := claim("bob", "1", 3)
	c.Coupon = "SPRING"
	queued := sale.Order{ID: c.ID, SKU: "shoe", User: "bob", Quantity: 3, Status: sale.StatusQueued, Hash: c.Hash, Amount: 5, Currency: "EUR", Version: 2, Segment: 1, ReservedAt: 7, PayBy: 8}
	rejected := sale.Rejected(c, sale.SoldOut)
	if _, ok, err := s.Recall(ctx, c.ID); ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, want := range []sale.Order{queued, rejected} {
		var many []sale.Order
		for i := range 2 * rememberChunk {
			other := want
			other.ID = claims(1, i)[0].ID
			many = append(many, other)
		}
		if err := s.Remember(ctx, append(many, want), time.Minute); err != nil {
			t.Fatal(err)
		}
		got, ok, err := s.Recall(ctx, c.ID)
		if err != nil || !ok || got != want {
			t.Fatalf("%+v, want %+v (%v)", got, want, err)
		}
		if got, ok, _ := s.Recall(ctx, many[len(many)-1].ID); !ok || got != many[len(many)-1] {
			t.Fatalf("%+v", got)
		}
	}
	m.FastForward(time.Minute + time.Second)
	if _, ok, err := s.Recall(ctx, c.ID); ok || err != nil {
		t.Fatal("remembered for longer than asked", err)
	}
	m.Close()
	if _, _, err := s.Recall(ctx, c.ID); !errors.Is(err, sale.ErrUnavailable) {
		t.Error(err)
	}
	if err := s.Remember(ctx, []sale.Order{queued}, time.Minute); !errors.Is(err, sale.ErrUnavailable) {
		t.Error(err)
	}
}

// A claim that is parked is marked for as long as it may wait; the mark of the queue it
// was in before, which a slow writer may bring later, is for a few seconds.
func TestAMarkOfAQueuedClaimShortensNoOther(t *testing.T) {
	m := startMini(t)
	ctx := context.Background()
	s := newShield(t, m.Addr(), newFakeLedger(testSKU(0, 1), 1))
	c := claim("bob", "1", 3)
	remember := func(o sale.Order, ttl time.Duration) {
		t.Helper()
		if err := s.Remember(ctx, []sale.Order{o}, ttl); err != nil {
			t.Fatal(err)
		}
	}
	recall := func(want sale.Status) {
		t.Helper()
		if o, ok, err := s.Recall(ctx, c.ID); err != nil || (want == 0) == ok || o.Status != want {
			t.Fatalf("%v %t %v, want %v", o.Status, ok, err, want)
		}
	}
	queued, rejected := sale.QueuedOrder(c), sale.Rejected(c, sale.SoldOut)
	remember(queued, 10*time.Second)
	remember(queued, time.Minute) // one that lives longer replaces it
	remember(queued, 10*time.Second)
	m.FastForward(30 * time.Second)
	recall(sale.StatusQueued)
	remember(rejected, 10*time.Second) // a verdict ends it
	recall(sale.StatusRejected)
	remember(queued, time.Second) // and a new try begins
	recall(sale.StatusQueued)
	m.FastForward(2 * time.Second)
	recall(0)
}

func FuzzDecodeVerdict(f *testing.F) {
	o := sale.Rejected(claim("bob", "1", 3), sale.SoldOut)
	f.Add(encodeVerdict(&o))
	f.Add("1\nqueued\n\n\n\n1\n1\n\n\n0011223344556677\n1\n1\n1\n1")
	f.Add("1\n\n\n\n\n\n\n\n\n\n\n\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := decodeVerdict(sale.OrderID{}, text)
		if err != nil {
			return
		}
		again, err := decodeVerdict(sale.OrderID{}, encodeVerdict(&o))
		if err != nil || again != o {
			t.Fatalf("%+v became %+v, %v", o, again, err)
		}
	})
}

func TestEmbeddedLetsKeysExpire(t *testing.T) {
	e, err := StartEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	sku := testSKU(2, 1)
	s, stop := startShield(t, e.Addr(), newFakeLedger(sku, 5))
	rebuild(t, s, &sku)
	wantAnswers(t, deduct(t, s, &sku, claims(6, 0)), "111114")
	c := claims(1, 0)[0]
	if err := s.Remember(ctx, []sale.Order{sale.Rejected(c, sale.SoldOut)}, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, func() bool {
		_, known, err := s.Recall(ctx, c.ID)
		return err == nil && !known
	}, "the verdict is forgotten")
	stop()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
