package results

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// TestAnAnswerThatDoesNotComeIsUnknown: the server falls silent, and then goes on.
func TestAnAnswerThatDoesNotComeIsUnknown(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	proxy := testenv.NewProxy(t, strings.TrimPrefix(n.URL, "nats://"))
	c := connected(t, Config{URL: "nats://" + proxy.Addr})
	b := newBacklog(t, c, BacklogConfig{})
	// A connection that is given up meanwhile loses what was sent, and proves nothing.
	arranged := false
	for try := 0; !arranged; try++ {
		testenv.Eventually(t, c.Connected, "connected")
		arranged = parkInSilence(t, b, proxy, "shoe"+strconv.Itoa(try))
	}
}

// parkInSilence parks a claim and, while nobody answers, three more. It reports whether
// the connection stood all the time.
func parkInSilence(t *testing.T, b *Backlog, proxy *testenv.Proxy, sku string) bool {
	t.Helper()
	lost := func() bool { return !b.conn.Connected() }
	before := b.conn.nc.Stats().Reconnects
	if errors.Join(park(t, b, sku, wishes(sku, 0, 1))...) != nil {
		return false
	}
	b.resendAfter = 50 * time.Millisecond
	proxy.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	errs := b.Park(ctx, sku, wishes(sku, 1, 4))
	cancel()
	proxy.Resume()
	b.resendAfter = testenv.Patience
	for _, err := range errs {
		if err == nil || !errors.Is(err, sale.ErrUnknown) && !errors.Is(err, sale.ErrUnavailable) {
			t.Errorf("%v, want unknown", err)
		}
		if errors.Is(err, sale.ErrUnavailable) && !errors.Is(err, sale.ErrUnknown) {
			return false
		}
	}
	// However often each was sent, it stands in the stream once.
	testenv.Eventually(t, func() bool {
		counts, err := b.look(t.Context())
		return lost() || err == nil && counts[sku] >= 4
	}, "the claims arrive")
	if lost() || b.conn.nc.Stats().Reconnects != before {
		return false
	}
	var s settled
	if err := b.Drain(t.Context(), s.settle); err != nil {
		return false
	}
	if got := s.of(sku); !slices.Equal(got, users(wishes(sku, 0, 4))) {
		t.Errorf("settled %v", got)
	}
	return true
}

// TestNATSRestartsWhileParkingAndDraining: what was acknowledged is settled, whatever
// happens to the server meanwhile.
func TestNATSRestartsWhileParkingAndDraining(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	proxy := testenv.NewProxy(t, strings.TrimPrefix(n.URL, "nats://"))
	c := connected(t, Config{URL: "nats://" + proxy.Addr})
	b := newBacklog(t, c, BacklogConfig{MaxBatch: 50})
	b.resendAfter = 100 * time.Millisecond
	const each = 50
	acked := make(map[string]bool)
	parked := 0
	parkOne := func() bool {
		claims := wishes("shoe", parked, parked+each)
		parked += each
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		stored := 0
		for i, err := range b.Park(ctx, "shoe", claims) {
			if err == nil {
				acked[claims[i].Claim.User] = true
				stored++
			}
		}
		return stored > 0
	}
	testenv.Eventually(t, parkOne, "claims are parked")
	// The server stores claims, nobody hears of it, and it dies.
	sprung := proxy.SwallowReply("PUB " + backlogPrefix + "shoe")
	testenv.Eventually(t, func() bool {
		parkOne()
		select {
		case <-sprung:
			return true
		default:
			return false
		}
	}, "acknowledgements get lost")
	n.Restart(t)
	testenv.Eventually(t, parkOne, "claims are parked again")

	// It dies again between the reading of claims and their end.
	var s settled
	read, restarted := make(chan struct{}), make(chan struct{})
	s.before = sync.OnceFunc(func() { close(read); <-restarted })
	var draining sync.WaitGroup
	draining.Go(func() {
		ctx := patient(t)
		drained := testenv.Patiently(func() bool {
			err := b.Drain(ctx, s.settle)
			counts, lookErr := b.look(ctx)
			return err == nil && lookErr == nil && counts["shoe"] == 0
		})
		if !drained {
			t.Error("the backlog is never drained")
		}
	})
	select {
	case <-read:
	case <-time.After(testenv.Patience):
		t.Error("nothing is read of the backlog")
	}
	n.Restart(t)
	close(restarted)
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
