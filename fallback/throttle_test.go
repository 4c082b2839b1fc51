package fallback

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"flashgate/sale"
)

func newThrottle(t *testing.T, perSecond float64, burst int) *Throttle {
	t.Helper()
	th, err := NewThrottle(perSecond, burst)
	if err != nil {
		t.Fatal(err)
	}
	return th
}

// far is a deadline that no test reaches.
func far() time.Time { return time.Now().Add(time.Hour) }

func TestThrottleRefusesImpossibleKnobs(t *testing.T) {
	for _, c := range []struct {
		rate  float64
		burst int
	}{{0, 1}, {-1, 1}, {1, 0}, {1, -1}} {
		if _, err := NewThrottle(c.rate, c.burst); err == nil {
			t.Errorf("NewThrottle(%v, %d) was accepted", c.rate, c.burst)
		}
	}
}

func TestThrottlePaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, 100, 10)
		began := time.Now()
		for i, want := range []time.Duration{0, 0, 100, 200, 450} {
			n := []int{5, 5, 10, 10, 25}[i]
			if err := th.Wait(t.Context(), n, far()); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(began); got != want*time.Millisecond {
				t.Errorf("call %d went on after %s, want %sms", i, got, want)
			}
		}
		// A quiet second fills the burst again, and no more than that.
		pass(time.Second)
		began = time.Now()
		for range 11 {
			if err := th.Wait(t.Context(), 1, far()); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got != 10*time.Millisecond {
			t.Errorf("eleven claims after a quiet second took %s, want 10ms", got)
		}
	})
}

func TestThrottleTakesBatchesLargerThanItsBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, 1000, 10)
		began := time.Now()
		if err := th.Wait(t.Context(), 512, far()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 502*time.Millisecond {
			t.Errorf("512 claims took %s, want 502ms: ten at once, the others at the rate", got)
		}
	})
}

func TestThrottleRefusesAtOnceWhatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, 100, 10)
		began := time.Now()
		// 30 claims would wait 200 ms.
		if err := th.Wait(t.Context(), 30, began.Add(199*time.Millisecond)); !errors.Is(err, sale.ErrDegraded) {
			t.Fatalf("a turn after the deadline: %v", err)
		}
		if got := time.Since(began); got != 0 {
			t.Errorf("the refusal took %s", got)
		}
		if err := th.Wait(t.Context(), 30, began.Add(200*time.Millisecond)); err != nil {
			t.Fatalf("a turn at the deadline: %v", err)
		}
		if got := time.Since(began); got != 200*time.Millisecond {
			t.Errorf("after a refusal of all 30, the next 30 took %s, want 200ms", got)
		}
	})
}

// Many callers are refused while others take their turns: a refusal never lengthens
// the line.
func TestThrottleRefusalsLeaveNoTrace(t *testing.T) {
	th := newThrottle(t, 1, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				if err := th.Wait(t.Context(), 3, time.Now().Add(time.Millisecond)); !errors.Is(err, sale.ErrDegraded) {
					t.Errorf("three claims at one a second: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if turn, delay := th.reserve(1, time.Now()); turn == nil || delay > 0 {
		t.Errorf("after nothing but refusals the next claim would wait %s", delay)
	}
}

func TestThrottleGivesBackTheTurnOfACallerThatGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, 100, 10)
		began := time.Now()
		if err := th.Wait(t.Context(), 10, far()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := th.Wait(ctx, 100, far()); !errors.Is(err, sale.ErrUnavailable) {
			t.Fatalf("a caller whose context ended: %v", err)
		}
		if got := time.Since(began); got != 50*time.Millisecond {
			t.Errorf("it waited %s", got)
		}
		// Five units came in meanwhile; five more take 50 ms.
		if err := th.Wait(t.Context(), 10, far()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 100*time.Millisecond {
			t.Errorf("the caller after it went on after %s, want 100ms", got)
		}
	})
}

func TestThrottleServesInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle(t, 100, 10)
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if err := th.Wait(t.Context(), 1+rand.IntN(20), far()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			})
			synctest.Wait() // i stands in line
		}
		wg.Wait()
		// Those whose turn needs no waiting may overtake in the scheduler, nobody else.
		for k := 1; k < len(order); k++ {
			if order[k] < order[k-1] && order[k] > 10 {
				t.Fatalf("claim %d went on before %d", order[k-1], order[k])
			}
		}
	})
}

// However callers come, are refused and give up, what went on never exceeds
// burst + rate x time.
func TestThrottleNeverPassesItsRate(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		perSecond := float64(rapid.IntRange(1, 5000).Draw(rt, "rate"))
		burst := rapid.IntRange(1, 1000).Draw(rt, "burst")
		type call struct {
			at, patience, giveUp time.Duration
			n                    int
		}
		calls := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) call {
			return call{
				at:       time.Duration(rapid.IntRange(0, 3000).Draw(rt, "at")) * time.Millisecond,
				patience: time.Duration(rapid.IntRange(0, 3000).Draw(rt, "patience")) * time.Millisecond,
				giveUp:   time.Duration(rapid.IntRange(1, 5000).Draw(rt, "give up")) * time.Millisecond,
				n:        rapid.IntRange(1, 2000).Draw(rt, "n"),
			}
		}), 1, 40).Draw(rt, "calls")
		synctest.Test(t, func(t *testing.T) {
			th := newThrottle(t, perSecond, burst)
			began := time.Now()
			var mu sync.Mutex
			passed := 0
			var wg sync.WaitGroup
			for _, c := range calls {
				wg.Go(func() {
					pass(c.at)
					ctx, cancel := context.WithTimeout(t.Context(), c.giveUp)
					defer cancel()
					deadline := time.Now().Add(c.patience)
					err := th.Wait(ctx, c.n, deadline)
					switch {
					case err == nil && time.Now().After(deadline):
						rt.Errorf("a claim went on %s after its deadline", time.Since(deadline))
					case err == nil:
						mu.Lock()
						passed += c.n
						if most := float64(burst) + perSecond*time.Since(began).Seconds(); float64(passed) > most+1e-3 {
							rt.Errorf("%d claims passed within %s, want at most %.3f", passed, time.Since(began), most)
						}
						mu.Unlock()
					case !errors.Is(err, sale.ErrDegraded) && !errors.Is(err, sale.ErrUnavailable):
						rt.Errorf("unexpected error: %v", err)
					}
				})
			}
			wg.Wait()
		})
	})
}
