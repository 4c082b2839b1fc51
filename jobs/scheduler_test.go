package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"flashgate/sale"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is the ledger's job_leases in memory.
type table struct {
	mu     sync.Mutex
	rows   map[string]lease
	away   bool
	frozen chan struct{} // when set, calls of `slow` hang until their ctx ends
	slow   string
}

type lease struct {
	holder  string
	token   int64
	expires time.Time
}

func newTable() *table { return &table{rows: make(map[string]lease)} }

var errAway = errors.New("away")

func (l *table) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (int64, bool, error) {
	l.mu.Lock()
	hang := l.frozen != nil && l.slow == holder
	l.mu.Unlock()
	if hang {
		<-ctx.Done()
		return 0, false, ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return 0, false, errAway
	}
	now := time.Now()
	row := l.rows[name]
	switch expired := !now.Before(row.expires); {
	case expired:
		row = lease{holder: holder, token: row.token + 1}
	case row.holder != holder:
		return row.token, false, nil
	}
	row.expires = now.Add(ttl)
	l.rows[name] = row
	return row.token, true, nil
}

func (l *table) Free(_ context.Context, name string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return false, errAway
	}
	return !time.Now().Before(l.rows[name].expires), nil
}

func (l *table) Release(_ context.Context, name, holder string, token int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if row := l.rows[name]; row.holder == holder && row.token == token {
		row.expires = time.Time{}
		l.rows[name] = row
	}
	return nil
}

func (l *table) set(f func(*table)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

func (l *table) row(name string) lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows[name]
}

// start runs a scheduler inside the bubble.
func start(t *testing.T, cfg Config, l Leases, jobs ...Job) (stop func()) {
	t.Helper()
	s, err := New(cfg, l, jobs...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestALeasedJobRunsInOneGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTable()
		var running, runs atomic.Int64
		job := Job{Name: "relay", Every: 100 * time.Millisecond, Run: func(ctx context.Context, _ int64) error {
			if running.Add(1) > 1 {
				t.Error("two gateways run the job at once")
			}
			defer running.Add(-1)
			runs.Add(1)
			pause(ctx, 30*time.Millisecond)
			return nil
		}}
		for _, holder := range []string{"a", "b", "c"} {
			start(t, Config{Holder: holder}, l, job)
		}
		time.Sleep(10 * time.Second)
		if n := runs.Load(); n < 85 || n > 115 {
			t.Errorf("%d runs in 10 s, want about 100", n)
		}
		if row := l.row("relay"); row.token != 1 {
			t.Errorf("the lease changed hands: token %d", row.token)
		}
	})
}

func TestAJobOfEveryGatewayNeedsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int64
		job := Job{Name: "heat", Every: time.Second, EveryGateway: true, Run: func(context.Context, int64) error {
			runs.Add(1)
			return nil
		}}
		start(t, Config{}, nil, job)
		start(t, Config{}, nil, job)
		time.Sleep(10 * time.Second)
		if n := runs.Load(); n < 16 || n > 24 {
			t.Errorf("%d runs of two gateways in 10 s, want about 20", n)
		}
	})
}

// TestALeaderThatIsCutOffStopsBeforeTheNextOneStarts: the leader can no longer reach
// the ledger, the other gateway can.
func TestALeaderThatIsCutOffStopsBeforeTheNextOneStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTable()
		var running, last atomic.Int64
		job := Job{Name: "expiry", Every: time.Second, Run: func(ctx context.Context, token int64) error {
			if running.Add(1) > 1 {
				t.Error("two leaders at once")
			}
			defer running.Add(-1)
			if token < last.Load() {
				t.Errorf("token %d after %d", token, last.Load())
			}
			last.Store(token)
			<-ctx.Done() // a run that only its lease ends
			return ctx.Err()
		}}
		start(t, Config{Holder: "a"}, l, job)
		time.Sleep(time.Second)
		start(t, Config{Holder: "b"}, l, job)
		time.Sleep(time.Minute)
		if last.Load() != 1 {
			t.Fatalf("the leader changed for no reason: token %d", last.Load())
		}
		l.set(func(l *table) { l.frozen, l.slow = make(chan struct{}), "a" })
		time.Sleep(5 * time.Second)
		if row := l.row("expiry"); last.Load() != 2 || row.holder != "b" {
			t.Errorf("after 5 s token %d is held by %s", last.Load(), row.holder)
		}
	})
}

func TestAShortAbsenceOfTheLedgerChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTable()
		var ended atomic.Int64
		start(t, Config{Holder: "a"}, l, Job{Name: "x", Every: time.Second, Run: func(ctx context.Context, _ int64) error {
			<-ctx.Done()
			ended.Add(1)
			return nil
		}})
		time.Sleep(5 * time.Second)
		l.set(func(l *table) { l.away = true })
		time.Sleep(1500 * time.Millisecond)
		l.set(func(l *table) { l.away = false })
		time.Sleep(5 * time.Second)
		if ended.Load() != 0 {
			t.Error("an absence shorter than the lease ended the run")
		}
		l.set(func(l *table) { l.away = true })
		time.Sleep(3 * time.Second)
		if ended.Load() != 1 {
			t.Error("an absence as long as the lease did not end the run")
		}
	})
}

func TestShutdownHandsTheLeaseOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTable()
		var leader atomic.Value
		job := func(holder string) Job {
			return Job{Name: "x", Every: 100 * time.Millisecond, Run: func(context.Context, int64) error {
				leader.Store(holder)
				return nil
			}}
		}
		stop := start(t, Config{Holder: "a"}, l, job("a"))
		time.Sleep(time.Second)
		start(t, Config{Holder: "b"}, l, job("b"))
		time.Sleep(3 * time.Second)
		if leader.Load() != "a" {
			t.Fatal("a does not lead")
		}
		stop()
		time.Sleep(1200 * time.Millisecond) // less than the lease lives
		if leader.Load() != "b" {
			t.Error("b waited for the lease to run out")
		}
	})
}

func TestFailuresBackOffAndAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		var runs atomic.Int64
		var broken atomic.Bool
		broken.Store(true)
		start(t, Config{Registerer: reg}, nil, Job{Name: "x", Every: 100 * time.Millisecond, EveryGateway: true, Run: func(context.Context, int64) error {
			runs.Add(1)
			if broken.Load() {
				return errAway
			}
			return nil
		}})
		time.Sleep(time.Minute)
		n := runs.Load()
		if n < 20 || n > 32 {
			t.Errorf("%d failing runs in a minute, want about one in 3 s", n)
		}
		if got := value(t, reg, "flashgate_job_errors_total"); got != float64(n) {
			t.Errorf("%v errors counted of %d", got, n)
		}
		if got := value(t, reg, "flashgate_job_last_success_timestamp_seconds"); got != 0 {
			t.Errorf("last success %v", got)
		}
		broken.Store(false)
		time.Sleep(10 * time.Second)
		if n := runs.Load() - n; n < 60 {
			t.Errorf("%d runs in 10 s after the failures", n)
		}
		if got := value(t, reg, "flashgate_job_last_success_timestamp_seconds"); time.Since(time.UnixMilli(int64(got*1000))) > time.Second {
			t.Errorf("last success %v", got)
		}
	})
}

// A job that did its work for all SKUs but some has failed, and goes on at its pace.
func TestAJobThatFailsForSomeSKUsDoesNotPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		var runs atomic.Int64
		start(t, Config{Registerer: reg}, nil, Job{Name: "x", Every: time.Second, EveryGateway: true, Run: func(context.Context, int64) error {
			runs.Add(1)
			return fmt.Errorf("two are broken: %w", sale.ErrPartly)
		}})
		time.Sleep(time.Minute)
		if n := runs.Load(); n < 50 {
			t.Errorf("%d runs in a minute", n)
		}
		if n, got := runs.Load(), value(t, reg, "flashgate_job_errors_total"); got != float64(n) {
			t.Errorf("%v errors counted of %d", got, n)
		}
	})
}

// value is the one value of a metric that has one label, 0 when it has none yet.
func value(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return 0
}

func TestNewRefuses(t *testing.T) {
	run := func(context.Context, int64) error { return nil }
	good := Job{Name: "x", Every: time.Second, Run: run}
	tests := []struct {
		name   string
		cfg    Config
		leases Leases
		jobs   []Job
	}{
		{"no name", Config{Holder: "a"}, newTable(), []Job{{Every: time.Second, Run: run}}},
		{"one name twice", Config{Holder: "a"}, newTable(), []Job{good, good}},
		{"no period", Config{Holder: "a"}, newTable(), []Job{{Name: "x", Run: run}}},
		{"nothing to run", Config{Holder: "a"}, newTable(), []Job{{Name: "x", Every: time.Second}}},
		{"no leases", Config{Holder: "a"}, nil, []Job{good}},
		{"no holder", Config{}, newTable(), []Job{good}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := New(tc.cfg, tc.leases, tc.jobs...); err == nil {
				t.Error("accepted")
			}
		})
	}
}
