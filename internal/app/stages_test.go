package app

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The HTTP library keeps its Date header current for the life of the process, and
		// its cleaner sleeps for up to ten seconds before it sees that its server is gone.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

// recorder notes in which order stages stop.
type recorder struct {
	mu      sync.Mutex
	stopped []string
}

// stage runs until its context ends, then takes a while, and returns err.
func (r *recorder) stage(name string, takes time.Duration, err error) stage {
	return stage{name, func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(takes)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stopped = append(r.stopped, name)
		return err
	}}
}

func TestStagesStopInOrderAndJoinTheirErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		bad, worse := errors.New("bad"), errors.New("worse")
		err := runStages(ctx, slog.New(slog.DiscardHandler), 10*time.Second, []stage{
			r.stage("edge", 3*time.Second, bad), r.stage("queue", time.Second, nil),
			r.stage("ledger", 0, worse), r.stage("last", 0, context.Canceled),
		})
		if !slices.Equal(r.stopped, []string{"edge", "queue", "ledger", "last"}) {
			t.Errorf("stopped %v", r.stopped)
		}
		if !errors.Is(err, bad) || !errors.Is(err, worse) || errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAStageThatEndsStopsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		broken := errors.New("broken")
		err := runStages(t.Context(), slog.New(slog.DiscardHandler), time.Second, []stage{
			r.stage("edge", 0, nil),
			{"proof", func(context.Context) error { return broken }},
			r.stage("ledger", 0, nil),
		})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "proof: broken") {
			t.Errorf("error %v", err)
		}
		if !slices.Equal(r.stopped, []string{"edge", "ledger"}) {
			t.Errorf("stopped %v", r.stopped)
		}
	})
}

func TestAStageThatDoesNotDrainIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		err := runStages(ctx, slog.New(slog.DiscardHandler), 5*time.Second, []stage{
			r.stage("stuck", time.Minute, nil), r.stage("quick", 0, nil),
		})
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("took %v", took)
		}
		if err == nil || !strings.Contains(err.Error(), "stuck: not drained within 5s") {
			t.Errorf("error %v", err)
		}
		time.Sleep(2 * time.Minute) // let the stuck one end, as the process would
	})
}

// A command that ended because what it needs has ended says why that did, and nothing else.
func TestACommandSaysWhyItsPartEnded(t *testing.T) {
	why := errors.New("the schema is old")
	err := runCommand(t.Context(), stage{"ledger", func(context.Context) error { return why }}, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, why) || errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rests := stage{"ledger", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	err = runCommand(ctx, rests, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended from outside: %v", err)
	}
}
