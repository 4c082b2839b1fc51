package fallback

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

var errAway = errors.New("away")

// config is the default of breaker.redis.
func config() Config {
	return Config{
		Name: "redis", Window: 5 * time.Second, MinCalls: 20, FailureRatio: 0.5,
		Consecutive: 5, ProbeAfter: time.Second,
	}
}

func newBreaker(t *testing.T, cfg Config) *Breaker {
	t.Helper()
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// do makes one call that ends with err; it reports whether the call was made.
func do(b *Breaker, err error) bool {
	made := false
	got := b.Do(context.Background(), func(context.Context) error { made = true; return err })
	if made != !errors.Is(got, sale.ErrNotCalled) {
		panic("the breaker's word and what it did differ")
	}
	return made
}

func doAll(b *Breaker, errs ...error) {
	for _, err := range errs {
		do(b, err)
	}
}

func wantState(t *testing.T, b *Breaker, state string, usable bool) {
	t.Helper()
	if s := b.Status(); s.State != state {
		t.Errorf("the breaker is %s, want %s", s.State, state)
	}
	if b.Usable() != usable {
		t.Errorf("usable is %t, want %t", !usable, usable)
	}
}

// changes records what Changed is told.
type changes struct {
	mu  sync.Mutex
	got []bool
}

func (c *changes) told(_ string, usable bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, usable)
}

func (c *changes) want(t *testing.T, want ...bool) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if fmt.Sprint(c.got) != fmt.Sprint(want) {
		t.Errorf("Changed was told %v, want %v", c.got, want)
	}
}

func TestBreakerRefusesImpossibleKnobs(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no name":          func(c *Config) { c.Name = "" },
		"no window":        func(c *Config) { c.Window = 0 },
		"a tiny window":    func(c *Config) { c.Window = 9 * time.Nanosecond },
		"negative window":  func(c *Config) { c.Window = -time.Second },
		"no min calls":     func(c *Config) { c.MinCalls = 0 },
		"ratio of nothing": func(c *Config) { c.FailureRatio = 0 },
		"ratio above one":  func(c *Config) { c.FailureRatio = 1.1 },
		"no consecutive":   func(c *Config) { c.Consecutive = 0 },
		"no probe":         func(c *Config) { c.ProbeAfter = 0 },
	} {
		cfg := config()
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestBreakerOpensByRatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		for range 9 {
			doAll(b, errAway, nil)
		}
		doAll(b, errAway)
		wantState(t, b, "closed", true) // 10 of 19
		doAll(b, nil, errAway)          // 11 of 21
		wantState(t, b, "open", false)
		if do(b, nil) {
			t.Error("an open breaker made a call")
		}
	})
}

func TestBreakerForgetsWhatIsOlderThanItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		for range 9 {
			doAll(b, errAway, nil)
		}
		pass(5*time.Second + time.Millisecond)
		for range 8 {
			doAll(b, errAway, nil, nil)
		}
		wantState(t, b, "closed", true)
		// Half a window later the newer half still counts.
		pass(2500 * time.Millisecond)
		for range 4 {
			doAll(b, errAway, errAway, errAway, errAway, nil)
			if b.Status().State == "open" {
				return
			}
		}
		t.Error("24 failures of 44 calls within the window did not open the breaker")
	})
}

func TestBreakerOpensByConsecutiveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		for range 4 {
			doAll(b, errAway, errAway, errAway, errAway, nil, nil, nil, nil, nil, nil, nil)
		}
		wantState(t, b, "closed", true)
		doAll(b, errAway, errAway, errAway, errAway)
		// Neither a caller that gave up, nor a gateway that has too much to do, nor another
		// dependency's failure, nor a healthy one's answer counts.
		doAll(b, fmt.Errorf("read for a load: %w", sale.ErrElsewhere))
		doAll(b, sale.ErrOverloaded, fmt.Errorf("waiting for a connection: %w", sale.ErrOverloaded))
		doAll(b, context.Canceled, fmt.Errorf("while waiting: %w", context.Canceled))
		wantState(t, b, "closed", true)
		doAll(b, errAway)
		wantState(t, b, "open", false)
	})
}

func TestBreakerTakesAnswersForSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		for _, err := range []error{
			sale.ErrUnknownSKU, sale.ErrUnknownOrder, sale.ErrInvalid, sale.ErrAlreadyPaid, sale.ErrOrderExpired,
			sale.ErrOrderQueued, sale.ErrPaymentMismatch, sale.ErrLeaseLost, &sale.StockBelowSoldError{MaxReduction: 3},
		} {
			for range 50 {
				if !do(b, fmt.Errorf("asked: %w", err)) {
					t.Fatalf("%v opened the breaker", err)
				}
			}
		}
	})
}

func TestBreakerProbesOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told changes
		cfg := config()
		cfg.Changed = told.told
		b := newBreaker(t, cfg)
		doAll(b, errAway, errAway, errAway, errAway, errAway)
		wantState(t, b, "open", false)
		pass(time.Second)
		wantState(t, b, "open", false)
		pass(time.Millisecond)
		wantState(t, b, "half_open", true)

		release := make(chan error)
		go func() {
			b.Do(t.Context(), func(context.Context) error { return <-release }) //nolint:errcheck // the probe's own error is of no interest
		}()
		synctest.Wait()
		wantState(t, b, "half_open", false)
		if do(b, nil) {
			t.Error("a second call passed beside the probe")
		}
		release <- errAway
		synctest.Wait()
		wantState(t, b, "open", false)
		told.want(t, false) // it never was usable in between

		pass(time.Second + time.Millisecond)
		if !do(b, context.Canceled) {
			t.Error("no second probe")
		}
		wantState(t, b, "half_open", true) // a probe that was called off says nothing
		if !do(b, nil) {
			t.Error("no third probe")
		}
		wantState(t, b, "closed", true)
		told.want(t, false, true)
	})
}

// A probe begun just before a black-holed dependency came back must not keep the
// breaker waiting for as long as its caller would.
func TestBreakerBoundsItsProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		doAll(b, errAway, errAway, errAway, errAway, errAway)
		pass(time.Second + time.Millisecond)
		began := time.Now()
		err := b.Do(t.Context(), func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Minute):
				return nil
			}
		})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("the probe ended after %s with %v, want a deadline of 3s", time.Since(began), err)
		}
		pass(time.Second + time.Millisecond)
		if !do(b, nil) {
			t.Error("no probe after the one that hung")
		}
		wantState(t, b, "closed", true)
	})
}

// gobreaker's rolling window drops results of calls that began before it.
func TestBreakerCountsCallsLongerThanItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		for range 5 {
			err := b.Do(t.Context(), func(context.Context) error { pass(8 * time.Second); return errAway })
			if !errors.Is(err, errAway) {
				t.Fatalf("the call returned %v", err)
			}
		}
		wantState(t, b, "open", false)
	})
}

func TestBreakerIgnoresStragglers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, config())
		release := make(chan struct{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				b.Do(t.Context(), func(context.Context) error { <-release; return errAway }) //nolint:errcheck // counted below
			})
		}
		synctest.Wait()
		doAll(b, errAway, errAway, errAway, errAway, errAway)
		pass(6 * time.Second)
		if !do(b, nil) {
			t.Fatal("no probe")
		}
		pass(6 * time.Second)
		close(release)
		wg.Wait()
		// All ten began before the breaker opened and closed again.
		wantState(t, b, "closed", true)
	})
}

// force gives an operator's order for this gateway; d = 0 is without an end.
func force(b *Breaker, mode sale.BreakerMode, d time.Duration, reason string) {
	o := order{mode: mode, reason: reason}
	if d > 0 {
		o.until = time.Now().Add(d)
	}
	b.force(o)
}

func TestBreakerForcedModes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told changes
		cfg := config()
		cfg.Changed = told.told
		b := newBreaker(t, cfg)

		force(b, sale.BreakerForcedOpen, 5*time.Minute, "maintenance")
		wantState(t, b, "open", false)
		if do(b, nil) {
			t.Error("a breaker forced open made a call")
		}
		s := b.Status()
		if s.Mode != sale.BreakerForcedOpen || s.Reason != "maintenance" || s.Name != "redis" ||
			s.Until != time.Now().Add(5*time.Minute).UnixMilli() || s.Since != time.Now().UnixMilli() {
			t.Errorf("the status of a breaker forced open is %+v", s)
		}
		force(b, sale.BreakerForcedOpen, 10*time.Minute, "longer")
		told.want(t, false)
		pass(10*time.Minute - time.Millisecond)
		wantState(t, b, "open", false)
		pass(time.Millisecond)
		wantState(t, b, "closed", true)
		if s := b.Status(); s.Mode != sale.BreakerAuto || s.Reason != "" || s.Until != 0 {
			t.Errorf("the status after a forced mode ended is %+v", s)
		}
		told.want(t, false, true)

		// Forced closed, failures pass and are not counted.
		force(b, sale.BreakerForcedClosed, 0, "we know better")
		told.want(t, false, true)
		for range 50 {
			if !do(b, errAway) {
				t.Fatal("a breaker forced closed refused a call")
			}
		}
		pass(24 * time.Hour)
		wantState(t, b, "closed", true)
		force(b, sale.BreakerAuto, 0, "")
		wantState(t, b, "closed", true)
		// Nobody counted meanwhile: whoever keeps a view has to look again.
		told.want(t, false, true, true)
	})
}

func TestBreakerForcedClosedOverAnOpenOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told changes
		cfg := config()
		cfg.Changed = told.told
		b := newBreaker(t, cfg)
		doAll(b, errAway, errAway, errAway, errAway, errAway)
		force(b, sale.BreakerForcedClosed, time.Millisecond, "a try")
		if !do(b, nil) {
			t.Error("a breaker forced closed refused a call")
		}
		told.want(t, false, true)
		pass(time.Millisecond)
		wantState(t, b, "open", false) // its own counts speak again
		told.want(t, false, true, false)
		pass(time.Second)
		do(b, nil)
		wantState(t, b, "closed", true)
		told.want(t, false, true, false, true)
	})
}

// Every change is told in the order in which it happened: the last word is the state.
func TestBreakerTellsInOrder(t *testing.T) {
	for range 200 {
		var told changes
		cfg := config()
		cfg.ProbeAfter = time.Hour // in real time: what opened stays open
		cfg.Changed = told.told
		b := newBreaker(t, cfg)
		var wg sync.WaitGroup
		wg.Go(func() { doAll(b, errAway, errAway, errAway, errAway, errAway) })
		for range 3 {
			wg.Go(func() {
				for range 20 {
					force(b, sale.BreakerForcedOpen, 0, "")
					force(b, sale.BreakerAuto, 0, "")
					force(b, sale.BreakerForcedClosed, time.Nanosecond, "")
					b.Usable()
				}
			})
		}
		wg.Wait()
		usable := b.Usable()
		// Usable may be told again after forced_closed, unusable never.
		for i := 1; i < len(told.got); i++ {
			if !told.got[i] && !told.got[i-1] {
				t.Fatalf("unusable was told twice in a row: %v", told.got)
			}
		}
		if n := len(told.got); n > 0 && told.got[n-1] != usable {
			t.Fatalf("the last word was %t, but usable is %t", told.got[n-1], usable)
		}
	}
}
