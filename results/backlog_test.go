package results

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// wish is a parked claim of one unit.
func wish(sku, user string) sale.Parked {
	return sale.Parked{
		Claim: sale.Claim{
			ID: sale.DeriveOrderID(sku, user, "k"), SKU: sku, User: user, Quantity: 1, Hash: sale.HashRequest(1, ""),
			Keyed: true, QueuedAt: 1_700_000_000_000,
		},
		Took: true, ParkedAt: 1_700_000_000_500,
	}
}

func wishes(sku string, from, to int) []sale.Parked {
	var out []sale.Parked
	for i := from; i < to; i++ {
		out = append(out, wish(sku, "u"+strconv.Itoa(i)))
	}
	return out
}

// settled is a ledger that remembers in which order claims of each SKU were settled.
type settled struct {
	mu     sync.Mutex
	users  map[string][]string
	fail   func(sku string, claims []sale.Parked) error
	before func()
}

func (s *settled) settle(_ context.Context, sku string, claims []sale.Parked) error {
	if s.before != nil {
		s.before()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(sku, claims); err != nil {
			return err
		}
	}
	if s.users == nil {
		s.users = make(map[string][]string)
	}
	for _, p := range claims {
		s.users[sku] = append(s.users[sku], p.Claim.User)
	}
	return nil
}

func (s *settled) of(sku string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.users[sku])
}

func newBacklog(t *testing.T, c *Conn, cfg BacklogConfig) *Backlog {
	t.Helper()
	if cfg.MaxBatch == 0 {
		cfg.MaxBatch = 64
	}
	b, err := NewBacklog(cfg, c)
	if err != nil {
		t.Fatal(err)
	}
	// However busy the machine is, nothing is sent twice or stale for it.
	b.resendAfter, b.staleAfter = testenv.Patience, testenv.Patience
	during(t, b.Run)
	return b
}

func park(t *testing.T, b *Backlog, sku string, claims []sale.Parked) []error {
	t.Helper()
	return b.Park(patient(t), sku, claims)
}

func mustPark(t *testing.T, b *Backlog, sku string, claims []sale.Parked) {
	t.Helper()
	if err := errors.Join(park(t, b, sku, claims)...); err != nil {
		t.Fatal(err)
	}
}

// users are the names of the claims in order.
func users(claims []sale.Parked) []string {
	var out []string
	for i := range claims {
		out = append(out, claims[i].Claim.User)
	}
	return out
}

func TestAClaimIsParkedAsItIs(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{})
	took := sale.Parked{Claim: sale.Claim{
		ID: sale.DeriveOrderID("shoe", "ann", "k"), SKU: "shoe", User: "ann", Coupon: "SPRING<&>", Quantity: 1000,
		Hash: sale.HashRequest(1000, "SPRING<&>"), Keyed: true, QueuedAt: 17,
	}, Took: true, Segment: 63, ParkedAt: 18}
	repeat := took
	repeat.Took, repeat.Segment, repeat.Claim.Keyed = false, 0, false
	want := []sale.Parked{took, repeat}
	mustPark(t, b, "shoe", want)
	if n, err := b.Units(t.Context(), []string{"shoe"}); n["shoe"] != 1000 || err != nil {
		t.Errorf("%v units, %v: a repeat holds none", n, err)
	}
	err := b.Drain(t.Context(), func(_ context.Context, sku string, got []sale.Parked) error {
		for i := range got {
			if got[i].Waited <= 0 {
				t.Errorf("the backlog does not say for how long it had %s", got[i].Claim.User)
			}
			got[i].Waited = 0
		}
		if sku != "shoe" || !slices.Equal(got, want) {
			t.Errorf("%s: %+v", sku, got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A claim that a newer gateway parked is for that one to decide: it and what was parked
// behind it stay, all others are settled, and whoever drains cannot do its job.
func TestAClaimOfANewerVersionIsLeft(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{MaxBatch: 2})
	mustPark(t, b, "shoe", wishes("shoe", 0, 3))
	p := wish("shoe", "newer")
	payload, err := encodeParked(&p)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(payload), `{"v":1`, `{"address":"new here","v":2`, 1)
	if _, err := c.js.Publish(t.Context(), backlogPrefix+"shoe", []byte(newer)); err != nil {
		t.Fatal(err)
	}
	mustPark(t, b, "shoe", wishes("shoe", 3, 5))
	mustPark(t, b, "sock", wishes("sock", 0, 4))
	var s settled
	for range 2 {
		err := b.Drain(t.Context(), s.settle)
		if !errors.Is(err, errNewer) || errors.Is(err, sale.ErrPartly) {
			t.Errorf("%v", err)
		}
	}
	if got := s.of("shoe"); !slices.Equal(got, users(wishes("shoe", 0, 3))) {
		t.Errorf("settled of the shoe: %v", got)
	}
	if got := s.of("sock"); !slices.Equal(got, users(wishes("sock", 0, 4))) {
		t.Errorf("settled of the sock: %v", got)
	}
	stream, err := b.stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 3 {
		t.Errorf("%d messages are left, want 3", n)
	}
}

func TestAFullBacklogRefuses(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t), Streams: StreamConfig{Replicas: 1, BacklogCapacity: 25}})
	b := newBacklog(t, c, BacklogConfig{})
	stored := 0
	for i, err := range park(t, b, "shoe", wishes("shoe", 0, 40)) {
		switch {
		case err == nil:
			stored++
		case !errors.Is(err, sale.ErrQueueFull) || i < 25:
			t.Errorf("claim %d: %v", i, err)
		}
	}
	if stored != 25 || b.Waiting("shoe") == 0 {
		t.Errorf("%d stored, %d known", stored, b.Waiting("shoe"))
	}
	var s settled
	if err := b.Drain(t.Context(), s.settle); err != nil {
		t.Fatal(err)
	}
	if got := s.of("shoe"); !slices.Equal(got, users(wishes("shoe", 0, 25))) {
		t.Errorf("settled %v", got)
	}
	mustPark(t, b, "shoe", wishes("shoe", 0, 1))
}

func TestAClaimIsParkedAgainAfterItWasDrained(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{})
	var s settled
	for range 3 {
		mustPark(t, b, "shoe", wishes("shoe", 0, 2))
		if err := b.Drain(t.Context(), s.settle); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.of("shoe"); len(got) != 6 {
		t.Errorf("settled %v", got)
	}
}

func TestRepeatsDoNotFillTheBacklog(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	var away atomic.Bool
	away.Store(true)
	b := newBacklog(t, c, BacklogConfig{Hurry: away.Load})
	claims := wishes("shoe", 0, 2)
	mustPark(t, b, "shoe", claims)
	stored := func(want int64) {
		t.Helper()
		if counts, err := b.look(t.Context()); err != nil || counts["shoe"] != want {
			t.Errorf("%d are stored, want %d; %v", counts["shoe"], want, err)
		}
	}
	repeats := wishes("shoe", 0, 3) // the third is of a claim that another gateway parked
	for i := range repeats {
		repeats[i].Took = false
	}
	mustPark(t, b, "shoe", repeats)
	stored(3)
	other := repeats[0]
	other.Claim.Hash[0]++ // the same key with another payload
	mustPark(t, b, "shoe", []sale.Parked{other})
	stored(4)
	mustPark(t, b, "shoe", claims[:1]) // units were taken again: somebody has to sort it out
	stored(5)
	away.Store(false)
	mustPark(t, b, "shoe", repeats[:1]) // by now the first may have been refused
	stored(6)
	if err := b.Drain(t.Context(), (&settled{}).settle); err != nil {
		t.Fatal(err)
	}
	if !b.Drained(t.Context(), "shoe") || b.view.ids != 0 || b.view.hasParked(&claims[0].Claim) {
		t.Error("a drained claim is remembered as parked")
	}
}

func TestAnInvalidClaimIsRefused(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{})
	claims := wishes("shoe", 0, 4)
	claims[0].Claim.User, claims[1].Claim.SKU, claims[2].Claim.Quantity = "a b", "hat", 0
	errs := park(t, b, "shoe", claims)
	for i := range 3 {
		if !errors.Is(errs[i], sale.ErrInvalid) {
			t.Errorf("claim %d: %v", i, errs[i])
		}
	}
	if errs[3] != nil {
		t.Error(errs[3])
	}
}

func TestTheBacklogWhileNATSIsAway(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	b := newBacklog(t, c, BacklogConfig{})
	for _, err := range park(t, b, "shoe", wishes("shoe", 0, 3)) {
		if !errors.Is(err, sale.ErrUnavailable) || errors.Is(err, sale.ErrUnknown) {
			t.Errorf("%v: it certainly is not stored", err)
		}
	}
	if b.Waiting("shoe") != 0 {
		t.Error("something is said to be parked")
	}
	if n, err := b.Units(t.Context(), []string{"shoe"}); len(n) != 0 || err != nil {
		t.Errorf("%v units, %v: nothing was ever known to be parked", n, err)
	}
	if err := b.Drain(t.Context(), (&settled{}).settle); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("drain: %v", err)
	}
}

func TestNewBacklogRefuses(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	for _, cfg := range []BacklogConfig{
		{}, {MaxBatch: -1},
	} {
		if _, err := NewBacklog(cfg, c); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
