package results

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"
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
	during(t, b.Run)
	return b
}

func park(t *testing.T, b *Backlog, sku string, claims []sale.Parked) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return b.Park(ctx, sku, claims)
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
	if n, err := b.Units(t.Context(), "sku0"); n != each || err != nil {
		t.Errorf("%d units, %v", n, err)
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
	if n, err := b.Units(t.Context(), "sku0"); n != 0 || err != nil {
		t.Errorf("%d units after the drain, %v", n, err)
	}
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
	if n, err := b.Units(t.Context(), "shoe"); n != 1000 || err != nil {
		t.Errorf("%d units, %v: a repeat holds none", n, err)
	}
	err := b.Drain(t.Context(), func(_ context.Context, sku string, got []sale.Parked) error {
		if sku != "shoe" || !slices.Equal(got, want) {
			t.Errorf("%s: %+v", sku, got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
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
	if err := b.Drain(t.Context(), s.settle); err != nil {
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
	if got := second.of("shoe"); !slices.Equal(got, users(wishes("shoe", 10, 30))) {
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

func TestAFullBacklogRefuses(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t), Streams: StreamConfig{BacklogCapacity: 25}})
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
	if !b.Drained(t.Context(), "shoe") || b.view.ids != 0 || b.view.holds(&claims[0].Claim) {
		t.Error("a drained claim is remembered as parked")
	}
}

func TestWhatIsNoClaimIsDropped(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{})
	good, err := parkedMsg(&wishes("shoe", 0, 1)[0], "c", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []*nats.Msg{
		{Subject: backlogPrefix + "shoe", Data: []byte("x")}, good, {Subject: backlogPrefix + "hat", Data: good.Data},
	} {
		if _, err := c.js.PublishMsg(t.Context(), msg); err != nil {
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
	if n, err := b.Units(t.Context(), "shoe"); n != 0 || err != nil {
		t.Errorf("%d units, %v: nothing was ever known to be parked", n, err)
	}
	if err := b.Drain(t.Context(), (&settled{}).settle); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("drain: %v", err)
	}
}

// TestAnAnswerThatDoesNotComeIsUnknown: the server is frozen, and then goes on.
func TestAnAnswerThatDoesNotComeIsUnknown(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	c := connected(t, Config{URL: n.URL})
	b := newBacklog(t, c, BacklogConfig{ResendAfter: 50 * time.Millisecond})
	mustPark(t, b, "shoe", wishes("shoe", 0, 1))
	n.Stop()
	testenv.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return c.Ping(ctx) != nil
	}, "the server is frozen")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for _, err := range b.Park(ctx, "shoe", wishes("shoe", 1, 4)) {
		if !errors.Is(err, sale.ErrUnknown) {
			t.Errorf("%v, want unknown", err)
		}
	}
	n.Cont()
	// However often each was sent, it stands in the stream once.
	testenv.Eventually(t, func() bool {
		counts, err := b.look(t.Context())
		return err == nil && counts["shoe"] == 4
	}, "the claims arrive")
	var s settled
	testenv.Eventually(t, func() bool { return b.Drain(t.Context(), s.settle) == nil }, "drained")
	if got := s.of("shoe"); !slices.Equal(got, users(wishes("shoe", 0, 4))) {
		t.Errorf("settled %v", got)
	}
}

// TestNATSRestartsWhileParkingAndDraining: what was acknowledged is settled, whatever
// happens to the server meanwhile.
func TestNATSRestartsWhileParkingAndDraining(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	c := connected(t, Config{URL: n.URL})
	b := newBacklog(t, c, BacklogConfig{MaxBatch: 50, ResendAfter: 100 * time.Millisecond})
	const batches, each = 60, 50
	acked := make(map[string]bool)
	var parking sync.WaitGroup
	half := make(chan struct{})
	parking.Go(func() {
		for k := range batches {
			claims := wishes("shoe", k*each, (k+1)*each)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			for i, err := range b.Park(ctx, "shoe", claims) {
				if err == nil {
					acked[claims[i].Claim.User] = true
				}
			}
			cancel()
			if k == batches/2 {
				close(half)
			}
		}
	})
	<-half
	n.Restart(t)
	parking.Wait()
	if len(acked) < batches*each/4 {
		t.Errorf("only %d claims were acknowledged", len(acked))
	}
	var s settled
	restart := make(chan struct{})
	s.before = sync.OnceFunc(func() { close(restart) })
	var draining sync.WaitGroup
	done := make(chan struct{})
	draining.Go(func() {
		for {
			err := b.Drain(t.Context(), s.settle)
			select {
			case <-done:
				if err == nil && b.Waiting("shoe") == 0 {
					return
				}
			default:
			}
		}
	})
	<-restart
	n.Restart(t)
	close(done)
	draining.Wait()
	got := make(map[string]bool)
	for _, u := range s.of("shoe") {
		got[u] = true
	}
	for u := range acked {
		if !got[u] {
			t.Errorf("%s was acknowledged and never settled", u)
		}
	}
}

func TestParkedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := sale.Parked{
			Claim: sale.Claim{
				SKU:  rapid.StringMatching(`[A-Za-z0-9_-]{1,64}`).Draw(t, "sku"),
				User: rapid.StringMatching(`[!-~]{1,128}`).Draw(t, "user"), Coupon: rapid.StringMatching(`[!-~]{0,128}`).Draw(t, "coupon"),
				Quantity: rapid.Int64Range(1, sale.MaxQuantity).Draw(t, "quantity"), Keyed: rapid.Bool().Draw(t, "keyed"),
				QueuedAt: rapid.Int64Range(0, lastTime).Draw(t, "queued"),
			},
			Took: rapid.Bool().Draw(t, "took"), Segment: rapid.IntRange(0, sale.MaxSegments-1).Draw(t, "segment"),
			ParkedAt: rapid.Int64Range(0, lastTime).Draw(t, "parked"),
		}
		copy(p.Claim.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		copy(p.Claim.Hash[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "hash"))
		msg, err := parkedMsg(&p, "call", 7)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeParked(msg.Data)
		if err != nil || got != p {
			t.Fatalf("%+v became %+v: %v", p, got, err)
		}
		if want := map[bool]int64{true: p.Claim.Quantity}[p.Took]; parkedUnits(msg.Header) != want {
			t.Fatalf("%d units in the header, want %d", parkedUnits(msg.Header), want)
		}
	})
}

func FuzzDecodeParked(f *testing.F) {
	for _, p := range wishes("shoe", 0, 2) {
		payload, err := encodeParked(&p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
		f.Add(append(payload, '1'))
		f.Add(payload[:len(payload)-1])
	}
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := decodeParked(payload)
		if err != nil {
			return
		}
		if err := validateParked(&p); err != nil {
			t.Fatalf("accepted %+v: %v", p, err)
		}
		again, err := encodeParked(&p)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := decodeParked(again); err != nil || q != p {
			t.Fatalf("%+v became %+v: %v", p, q, err)
		}
	})
}

// TestOwnParksAreKnownUntilALookCoversThem: a look that began before a parking ended
// may have missed it.
func TestOwnParksAreKnownUntilALookCoversThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v *backlogView
		stored := make(map[string]int64)
		inLook := func() {}
		v = newBacklogView(BacklogConfig{LookOften: 250 * time.Millisecond, LookRarely: time.Second, Hurry: func() bool { return false }, Log: discard},
			func(context.Context) (map[string]int64, error) {
				seen := map[string]int64{}
				for k, n := range stored {
					seen[k] = n
				}
				inLook()
				return seen, nil
			})
		v.begin("shoe")
		if v.waiting("shoe") == 0 {
			t.Error("a parking under way is not known")
		}
		// The look sees nothing, and the parking ends while it is on its way.
		inLook = func() { stored["shoe"] = 3; v.end("shoe", 3) }
		if err := v.once(t.Context()); err != nil || v.waiting("shoe") != 3 {
			t.Errorf("%d known after a look that missed it, %v", v.waiting("shoe"), err)
		}
		inLook = func() {}
		if err := v.once(t.Context()); err != nil || v.waiting("shoe") != 3 {
			t.Errorf("%d known after a look that saw it, %v", v.waiting("shoe"), err)
		}
		delete(stored, "shoe")
		if err := v.once(t.Context()); err != nil || v.waiting("shoe") != 0 {
			t.Errorf("%d known after it was drained, %v", v.waiting("shoe"), err)
		}
		v.begin("shoe")
		v.end("shoe", 0)
		if v.waiting("shoe") != 0 {
			t.Error("a parking that stored nothing is known")
		}
	})
}

func TestLooksHurryWhenItMatters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		looks, hurry, stored := 0, false, map[string]int64{}
		var failing error
		set := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
		count := func(d time.Duration) int {
			set(func() { looks = 0 })
			time.Sleep(d)
			mu.Lock()
			defer mu.Unlock()
			return looks
		}
		v := newBacklogView(BacklogConfig{LookOften: 250 * time.Millisecond, LookRarely: time.Second, Log: discard,
			Hurry: func() bool { mu.Lock(); defer mu.Unlock(); return hurry }},
			func(context.Context) (map[string]int64, error) {
				mu.Lock()
				defer mu.Unlock()
				looks++
				seen := map[string]int64{}
				for k, n := range stored {
					seen[k] = n
				}
				return seen, failing
			})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.run(ctx) }()
		if n := count(10 * time.Second); n < 9 || n > 11 {
			t.Errorf("%d looks in 10 s of peace", n)
		}
		set(func() { hurry = true })
		time.Sleep(time.Second)
		if n := count(10 * time.Second); n < 39 || n > 41 {
			t.Errorf("%d looks in 10 s while the ledger is away", n)
		}
		set(func() { hurry = false; stored["shoe"] = 5 })
		time.Sleep(time.Second)
		if n := count(10 * time.Second); n < 39 || n > 41 || v.waiting("shoe") != 5 {
			t.Errorf("%d looks in 10 s while %d are parked", n, v.waiting("shoe"))
		}
		set(func() { failing = errors.New("away") })
		time.Sleep(time.Second)
		set(func() { delete(stored, "shoe") })
		time.Sleep(time.Second)
		if v.waiting("shoe") != 5 {
			t.Error("what was known last is forgotten while NATS is away")
		}
		set(func() { failing = nil; stored["shoe"] = 5 })
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			set(func() { delete(stored, "shoe") })
		}()
		if !v.drained(ctx, "shoe") || time.Since(began) > 1100*time.Millisecond {
			t.Errorf("drained was seen after %v", time.Since(began))
		}
		set(func() { stored["shoe"] = 1 })
		time.Sleep(2 * time.Second)
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if v.drained(short, "shoe") {
			t.Error("drained, though one is parked")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNewBacklogRefuses(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	for _, cfg := range []BacklogConfig{
		{}, {MaxBatch: -1}, {MaxBatch: 1, LookOften: time.Minute}, {MaxBatch: 1, ResendAfter: -1},
	} {
		if _, err := NewBacklog(cfg, c); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
