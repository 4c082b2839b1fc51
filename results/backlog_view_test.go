package results

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestOwnParksAreKnownUntilALookCoversThem: a look that began before a parking ended
// may have missed it.
func TestOwnParksAreKnownUntilALookCoversThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v *backlogView
		stored := make(map[string]int64)
		inLook := func() {}
		v = newBacklogView(BacklogConfig{Hurry: func() bool { return false }, Log: discard},
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
		v := newBacklogView(BacklogConfig{Log: discard,
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
