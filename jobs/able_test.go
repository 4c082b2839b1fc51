package jobs

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// A job that cannot do anything is not run, and one whose dependency was not called has
// not failed: neither is counted as a failure, nor waited for longer.
func TestAJobThatCannotWorkHasNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		var able atomic.Bool
		var asked, runs atomic.Int64
		start(t, Config{Registerer: reg}, nil, Job{
			Name: "x", Every: time.Second, EveryGateway: true,
			Able: func() bool { asked.Add(1); return able.Load() },
			Run: func(context.Context, int64) error {
				runs.Add(1)
				return fmt.Errorf("through a breaker: %w", sale.ErrNotCalled)
			},
		})
		time.Sleep(10 * time.Second)
		if asked.Load() < 8 || runs.Load() > 0 {
			t.Errorf("in ten seconds it was asked %d times and run %d times", asked.Load(), runs.Load())
		}
		able.Store(true)
		time.Sleep(10 * time.Second)
		if runs.Load() < 8 {
			t.Errorf("run %d times in ten seconds", runs.Load())
		}
		if got := value(t, reg, "flashgate_job_errors_total"); got > 0 {
			t.Errorf("%v failures are counted", got)
		}
		if got := value(t, reg, "flashgate_job_last_success_timestamp_seconds"); got > 0 {
			t.Errorf("it is said to have succeeded at %v", got)
		}
	})
}
