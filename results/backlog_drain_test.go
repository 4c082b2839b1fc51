package results

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go"
)

func TestTheBacklogIsDrainedInOrder(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{MaxBatch: 7})
	const skus, each = 5, 100
	for from := 0; from < each; from += 20 {
		for k := range skus {
			sku := "sku" + strconv.Itoa(k)
			mustPark(t, b, sku, wishes(sku, from, from+20))
		}
	}
	if n := b.Waiting("sku0"); n < each {
		t.Errorf("%d claims are known to wait, want %d", n, each)
	}
	if n, err := b.Units(t.Context(), []string{"sku0", "sku1", "none"}); !maps.Equal(n, map[string]int64{"sku0": each, "sku1": each}) || err != nil {
		t.Errorf("%v units, %v", n, err)
	}
	var s settled
	if err := b.Drain(t.Context(), s.settle); err != nil {
		t.Fatal(err)
	}
	for k := range skus {
		sku := "sku" + strconv.Itoa(k)
		if got := s.of(sku); !slices.Equal(got, users(wishes(sku, 0, each))) {
			t.Errorf("%s was settled as %v", sku, got)
		}
		if !b.Drained(t.Context(), sku) || b.Waiting(sku) != 0 {
			t.Errorf("%s is not known to be drained", sku)
		}
	}
	if n, err := b.Units(t.Context(), []string{"sku0"}); len(n) != 0 || err != nil {
		t.Errorf("%v units after the drain, %v", n, err)
	}
}

// TestASKUThatFailsHoldsUpNoOther: and nothing of it that came later is settled, or
// deleted, before what failed.
func TestASKUThatFailsHoldsUpNoOther(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{MaxBatch: 10})
	mustPark(t, b, "bad", wishes("bad", 0, 35))
	mustPark(t, b, "good", wishes("good", 0, 35))
	mustPark(t, b, "bad", wishes("bad", 35, 60))
	calls := 0
	s := settled{fail: func(sku string, claims []sale.Parked) error {
		if sku == "bad" {
			if calls++; calls == 2 {
				return sale.ErrUnavailable
			}
		}
		return nil
	}}
	if err := b.Drain(t.Context(), s.settle); !errors.Is(err, sale.ErrPartly) {
		t.Fatalf("a pass that got something through: %v", err)
	}
	if len(s.of("good")) != 35 || len(s.of("bad")) != 10 {
		t.Fatalf("settled %d and %d", len(s.of("good")), len(s.of("bad")))
	}
	if err := b.Drain(t.Context(), s.settle); err != nil {
		t.Fatal(err)
	}
	if got := s.of("bad"); !slices.Equal(got, users(wishes("bad", 0, 60))) {
		t.Errorf("settled as %v", got)
	}
	s.fail = func(string, []sale.Parked) error { return sale.ErrUnavailable }
	mustPark(t, b, "bad", wishes("bad", 0, 1))
	if err := b.Drain(t.Context(), s.settle); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("a pass that got nothing through: %v", err)
	}
	s.fail = func(string, []sale.Parked) error { return fmt.Errorf("rows are held: %w", sale.ErrOverloaded) }
	if err := b.Drain(t.Context(), s.settle); !errors.Is(err, sale.ErrPartly) {
		t.Errorf("a pass in which nothing failed for all: %v", err)
	}
}

// TestADrainerThatDiesBeforeDeletingSettlesAgain: whoever comes next finds the same
// claims in the same order.
func TestADrainerThatDiesBeforeDeletingSettlesAgain(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{MaxBatch: 10})
	mustPark(t, b, "shoe", wishes("shoe", 0, 30))
	ctx, die := context.WithCancel(t.Context())
	first := settled{fail: func(_ string, claims []sale.Parked) error {
		if claims[0].Claim.User == "u10" {
			die() // settled, and then no call goes out any more
		}
		return nil
	}}
	if err := b.Drain(ctx, first.settle); err == nil {
		t.Fatal("a drain that was cut off ends without an error")
	}
	if got := first.of("shoe"); !slices.Equal(got, users(wishes("shoe", 0, 20))) {
		t.Fatalf("the first settled %v", got)
	}
	var second settled
	if err := b.Drain(t.Context(), second.settle); err != nil {
		t.Fatal(err)
	}
	if got := second.of("shoe"); !slices.Equal(got, users(wishes("shoe", 0, 30))) {
		t.Errorf("the second settled %v", got)
	}
}

// TestALateDrainerDeletesOnlyWhatItSettled: it read the stream, was frozen, and wakes
// when its successor is done and new claims have been parked.
func TestALateDrainerDeletesOnlyWhatItSettled(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{MaxBatch: 100})
	mustPark(t, b, "shoe", wishes("shoe", 0, 10))
	var second settled
	first := settled{before: sync.OnceFunc(func() {
		if err := b.Drain(t.Context(), second.settle); err != nil {
			t.Error(err)
		}
		mustPark(t, b, "shoe", wishes("shoe", 10, 20))
	})}
	if err := b.Drain(t.Context(), first.settle); err != nil {
		t.Fatal(err)
	}
	if err := b.Drain(t.Context(), second.settle); err != nil {
		t.Fatal(err)
	}
	all := append(first.of("shoe"), second.of("shoe")...)
	for _, u := range users(wishes("shoe", 0, 20)) {
		if !slices.Contains(all, u) {
			t.Errorf("%s was deleted without being settled", u)
		}
	}
}

// TestWhatIsStaleIsReadAnew: nothing of a page that waited too long is settled.
func TestWhatIsStaleIsReadAnew(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{})
	mustPark(t, b, "shoe", wishes("shoe", 0, 3))
	var s settled
	b.staleAfter = 0
	if err := b.Drain(t.Context(), s.settle); !errors.Is(err, errStale) || s.of("shoe") != nil {
		t.Errorf("settled %v: %v", s.of("shoe"), err)
	}
	b.staleAfter = testenv.Patience
	if err := b.Drain(t.Context(), s.settle); err != nil || len(s.of("shoe")) != 3 {
		t.Errorf("settled %v: %v", s.of("shoe"), err)
	}
}

func TestWhatIsNoClaimIsDropped(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{})
	good, err := plain.parkedMsg(&wishes("shoe", 0, 1)[0], "c", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []*nats.Msg{
		{Subject: backlogPrefix + "shoe", Data: []byte("x")}, good, {Subject: backlogPrefix + "hat", Data: good.Data},
	} {
		if _, err := c.js.PublishMsg(patient(t), msg); err != nil {
			t.Fatal(err)
		}
	}
	var s settled
	if err := b.Drain(t.Context(), s.settle); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.of("shoe"), []string{"u0"}) || s.of("hat") != nil {
		t.Errorf("settled %v", s.users)
	}
	if !b.Drained(t.Context(), "hat") {
		t.Error("a message that is no claim holds up its SKU")
	}
}
