package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// stage is one part of the process that runs until its context ends. Stages are
// started from the last to the first and stopped from the first to the last, so that
// each one finds what it needs while it drains.
type stage struct {
	name string
	run  func(context.Context) error
}

// runStages runs all stages until ctx ends or one of them returns, then stops them in
// order. Each is joined before the next is told to stop. The drain as a whole has the
// given time; a stage that takes longer is reported and left behind, since the process
// ends right after. All errors are joined.
func runStages(ctx context.Context, log *slog.Logger, drain time.Duration, stages []stage) error {
	type running struct {
		stop context.CancelFunc
		done chan struct{}
		err  error
	}
	ended := make(chan string, len(stages))
	run := make([]*running, len(stages))
	for i := len(stages) - 1; i >= 0; i-- {
		sctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		r := &running{stop: stop, done: make(chan struct{})}
		run[i] = r
		go func() { // joined below, stage by stage
			defer close(r.done)
			r.err = stages[i].run(sctx)
			ended <- stages[i].name
		}()
	}
	select {
	case <-ctx.Done():
		log.Info("stopping", "drain", drain)
	case name := <-ended:
		log.Error("a part ended by itself; stopping", "part", name)
	}
	deadline := time.NewTimer(drain)
	defer deadline.Stop()
	var errs []error
	for i, r := range run {
		r.stop()
		select {
		case <-r.done:
			if r.err != nil && !errors.Is(r.err, context.Canceled) {
				errs = append(errs, fmt.Errorf("%s: %w", stages[i].name, r.err))
			}
		case <-deadline.C:
			errs = append(errs, fmt.Errorf("%s: not drained within %v", stages[i].name, drain))
			deadline.Reset(lastWords)
		}
	}
	return errors.Join(errs...)
}

// lastWords is what each further stage gets once the drain's time is over: enough to
// close what it holds, not to wait for anybody.
const lastWords = 200 * time.Millisecond
