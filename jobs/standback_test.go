package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// fleet is a few gateways that run one job, each with a link of its own to what the job
// needs. Nothing in it blocks.
type fleet struct {
	table *table

	mu      sync.Mutex
	seen    map[string]bool  // by gateway: Able sees that its link is cut
	broken  map[string]error // by gateway: what a run ends with
	hiccups map[string]int   // by gateway: so many runs fail
	hangs   map[string]bool
	flaps   map[string]bool // by gateway: Able sees it by turns
	worked  []string        // who did the job, in turn
	tried   map[string]int
	took    []time.Time
	holders []string // of every tenure of the lease
}

// startFleet starts the gateways one after the other, so that the first one leads.
func startFleet(t *testing.T, names ...string) *fleet {
	f := &fleet{
		table: newTable(), seen: map[string]bool{}, broken: map[string]error{}, hiccups: map[string]int{},
		hangs: map[string]bool{}, flaps: map[string]bool{}, tried: map[string]int{},
	}
	for _, name := range names {
		start(t, Config{Holder: name}, f.leases(), Job{
			Name: "x", Every: 500 * time.Millisecond, Within: 5 * time.Second,
			Able: func() bool {
				return !f.look(func() bool { return f.seen[name] || f.flaps[name] && time.Now().UnixMilli()/300%2 == 0 })
			},
			Run: func(ctx context.Context, _ int64) error { return f.run(ctx, name) },
		})
		time.Sleep(time.Second)
	}
	time.Sleep(3 * time.Second)
	if !f.look(func() bool { return f.last() == names[0] }) {
		t.Fatalf("%s does not lead", names[0])
	}
	return f
}

func (f *fleet) look(fn func() bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fn()
}

func (f *fleet) set(fn func()) { f.look(func() bool { fn(); return true }) }

func (f *fleet) last() string { return f.worked[len(f.worked)-1] }

func (f *fleet) run(ctx context.Context, name string) error {
	if f.look(func() bool { return f.hangs[name] }) {
		<-ctx.Done()
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried[name]++
	if f.hiccups[name] > 0 {
		f.hiccups[name]--
		return errCutOff
	}
	if err := f.broken[name]; err != nil {
		return err
	}
	f.worked = append(f.worked, name)
	return nil
}

// leases is the table, and a note of every change of holder.
func (f *fleet) leases() Leases { return noted{f.table, f} }

type noted struct {
	*table
	f *fleet
}

func (n noted) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (int64, bool, error) {
	before := n.row(name).token
	token, held, err := n.table.Acquire(ctx, name, holder, ttl)
	if held && token != before {
		n.f.set(func() { n.f.holders, n.f.took = append(n.f.holders, holder), append(n.f.took, time.Now()) })
	}
	return token, held, err
}

var errCutOff = errors.New("cut off")

// Whoever leads and cannot work any more, however that shows, another one leads within
// five seconds, and nobody changes back.
func TestAnotherLeadsWhereTheLeaderCannotWork(t *testing.T) {
	for what, c := range map[string]struct {
		breaks func(f *fleet)
		within time.Duration
	}{
		"it is not able":        {func(f *fleet) { f.seen["a"] = true }, 5 * time.Second},
		"its runs fail":         {func(f *fleet) { f.broken["a"] = errCutOff }, 5 * time.Second},
		"nothing is called":     {func(f *fleet) { f.broken["a"] = fmt.Errorf("x: %w", sale.ErrNotCalled) }, 5 * time.Second},
		"its runs do not end":   {func(f *fleet) { f.hangs["a"] = true }, 10 * time.Second},
		"it is able by turns":   {func(f *fleet) { f.flaps["a"] = true }, 5 * time.Second},
		"it and another cannot": {func(f *fleet) { f.broken["a"], f.broken["b"] = errCutOff, errCutOff }, 10 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startFleet(t, "a", "b", "c")
				var done int
				f.set(func() { c.breaks(f); done = len(f.worked) })
				time.Sleep(c.within)
				f.set(func() {
					if f.last() == "a" || len(f.worked) == done {
						t.Errorf("after %v nobody else has done the job: tenures of %v", c.within, f.holders)
					}
				})
				time.Sleep(10 * time.Minute)
				f.set(func() {
					if n := len(f.holders); n > 3 {
						t.Errorf("in ten minutes the lease was held by %v", f.holders)
					}
					if n := len(f.worked) - done; n < 1100 {
						t.Errorf("the job was done %d times in ten minutes", n)
					}
				})
			})
		})
	}
}

// When nobody can do the job the lease does not go round and round: changes come more
// and more seldom. Somebody tries all the time, so that the job is done soon once it can be.
func TestALeaseDoesNotGoRoundForEver(t *testing.T) {
	for what, errs := range map[string]error{"fails": errCutOff, "is not called": sale.ErrNotCalled} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startFleet(t, "a", "b", "c")
				var done int
				f.set(func() {
					for _, name := range []string{"a", "b", "c"} {
						f.broken[name] = errs
					}
					done = len(f.worked)
					f.took, f.holders = nil, nil
				})
				began := time.Now()
				time.Sleep(time.Hour)
				f.set(func() {
					minute := slices.IndexFunc(f.took, func(at time.Time) bool { return at.Sub(began) > time.Minute })
					if n := len(f.took); n > 150 || minute < 2 || minute > 20 {
						t.Errorf("%d changes in an hour, %d of them in the first minute", n, minute)
					}
					for name, n := range f.tried {
						if n < 20 {
							t.Errorf("%s tried %d times", name, n)
						}
					}
					clear(f.broken)
				})
				time.Sleep(5 * time.Second)
				f.set(func() {
					if len(f.worked) == done {
						t.Error("five seconds after it can be done again, nobody has done it")
					}
				})
			})
		})
	}
}

// A job that no gateway is able to do has no leader, and one as soon as it can be done.
func TestAJobThatNobodyIsAbleToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFleet(t, "a", "b")
		f.set(func() { f.seen["a"], f.seen["b"] = true, true })
		time.Sleep(time.Minute)
		var done int
		f.set(func() {
			done = len(f.worked)
			if n := len(f.holders); n > 2 {
				t.Errorf("the lease was held by %v", f.holders)
			}
			f.seen["a"], f.seen["b"] = false, false
		})
		time.Sleep(500 * time.Millisecond)
		f.set(func() {
			if len(f.worked) == done {
				t.Error("it is not done once it can be")
			}
		})
	})
}

// One failure changes no leader, nor does an item that fails for reasons of its own,
// which does not slow the job down either.
func TestWhatDoesNotChangeTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFleet(t, "a", "b")
		for range 20 {
			f.set(func() { f.hiccups["a"] = 1 })
			time.Sleep(5 * time.Second)
		}
		var tried int
		f.set(func() {
			f.broken["a"] = fmt.Errorf("orders of a SKU: %w", sale.ErrPartly)
			tried = f.tried["a"]
		})
		time.Sleep(time.Minute)
		f.set(func() {
			if n := f.tried["a"] - tried; n < 100 {
				t.Errorf("%d runs in a minute beside an item that fails", n)
			}
			if len(f.holders) > 1 {
				t.Errorf("the lease was held by %v", f.holders)
			}
		})
	})
}

// A gateway alone has nobody to make way for: it is back soon, and goes on trying.
func TestAGatewayAloneKeepsTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startFleet(t, "a")
		f.set(func() { f.broken["a"] = errCutOff })
		var tried int
		for range 30 {
			f.set(func() { tried = f.tried["a"] })
			time.Sleep(8 * time.Second)
			f.set(func() {
				if f.tried["a"] == tried {
					t.Errorf("not tried for eight seconds")
				}
			})
		}
	})
}
