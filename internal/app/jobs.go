package app

import (
	"context"
	"crypto/rand"
	"time"
)

// How often the jobs run. Orders expire at most three seconds late; a SKU is paused until
// its first limit's orders are counted; sums that were found to be wrong hold up their SKU.
const (
	relayEvery   = 500 * time.Millisecond
	drainEvery   = 250 * time.Millisecond
	expireEvery  = time.Second
	limitsEvery  = time.Second
	repairEvery  = 10 * time.Second
	preheatEvery = 5 * time.Second
	retainEvery  = 10 * time.Second
	probeEvery   = time.Second
)

// hungAfter is how long a run of a leased job may take. With less, a run that works off
// much changes the gateway in the middle; with more, one that hangs keeps the job from
// others for longer.
const hungAfter = time.Minute

// How long a probe waits. NATS takes seconds to elect a leader, which is no failure.
const (
	ledgerProbe = 2 * time.Second
	natsProbe   = 5 * time.Second
)

// holder names this gateway in the leases. It has a random part, because containers
// share host names and process ids.
func holder() string { return rand.Text()[:8] + "/" + instance() }

// anyLeader is a job that needs no fencing token: an older leader that runs it as well
// does no harm.
func anyLeader(run func(context.Context) error) func(context.Context, int64) error {
	return func(ctx context.Context, _ int64) error { return run(ctx) }
}

// runJobs begins once the ledger was proved: the leases are kept there.
func (a *app) runJobs(ctx context.Context) error {
	if !await(ctx, a.ledger.Ready) {
		return nil
	}
	return a.jobs.Run(ctx)
}

// await looks again and again until the condition holds; false means that ctx ended
// before.
func await(ctx context.Context, cond func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
