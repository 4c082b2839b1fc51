package fallback

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func newLag(t *testing.T) *Lag {
	t.Helper()
	l, err := NewLag(nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A call that takes a tenth of a second, for a part of which this process does not run.
func (l *Lag) call(b *Breaker, err error, lost time.Duration) error {
	return b.Do(context.Background(), func(context.Context) error {
		time.Sleep(100 * time.Millisecond)
		l.mu.Lock()
		l.lost += lost
		l.mu.Unlock()
		return err
	})
}

// Time-outs of our own making do not open a breaker while the dependency answers.
func TestLagIsNoFailure(t *testing.T) {
	const all, some = 60 * time.Millisecond, 40 * time.Millisecond
	for name, c := range map[string]struct {
		err   error
		lost  time.Duration
		state string
	}{
		"ours":              {context.DeadlineExceeded, all, "closed"},
		"ours, suspended":   {context.DeadlineExceeded, time.Hour, "closed"},
		"the dependency's":  {context.DeadlineExceeded, some, "open"},
		"no time-out":       {errAway, all, "open"},
		"what it says then": {sale.ErrUnknownSKU, all, "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := config()
				cfg.Lag = newLag(t)
				b := newBreaker(t, cfg)
				if err := cfg.Lag.call(b, nil, 0); err != nil {
					t.Fatal(err)
				}
				for range cfg.Consecutive {
					if err := cfg.Lag.call(b, c.err, c.lost); err != c.err {
						t.Errorf("the caller hears %v, want %v", err, c.err)
					}
				}
				wantState(t, b, c.state, c.state == "closed")
			})
		})
	}
}

// A dependency that went away while the machine is busy is found out all the same.
func TestLagDoesNotHideADeadDependency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Lag = newLag(t)
		b := newBreaker(t, cfg)
		_ = cfg.Lag.call(b, nil, 0)
		began := time.Now()
		for b.Usable() && time.Since(began) < time.Minute {
			_ = cfg.Lag.call(b, context.DeadlineExceeded, 100*time.Millisecond)
		}
		if took := time.Since(began); took > lagPatience+2*time.Second {
			t.Errorf("the breaker opened after %v", took)
		}
	})
}

func TestLagOfAProcessThatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLag(t)
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = l.Run(ctx) }()
		time.Sleep(time.Minute)
		stop()
		synctest.Wait()
		time.Sleep(time.Minute) // it is not looked at any more
		if lost := l.Lost(); lost != 0 {
			t.Errorf("%v were lost", lost)
		}
	})
}

func TestLagOfABusyProcess(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	l := newLag(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Run(ctx) }()
	busy := make(chan struct{})
	const hogs = 4
	for range hogs {
		go func() {
			for ctx.Err() == nil {
			}
			busy <- struct{}{}
		}()
	}
	testenv.Eventually(t, func() bool { return l.Lost() > 50*time.Millisecond }, "the process is found to lack a processor")
	stop()
	<-done
	for range hogs {
		<-busy
	}
}
