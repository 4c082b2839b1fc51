package checkout

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// fakeBacklog stores what it is given, or fails as told.
type fakeBacklog struct {
	mu      sync.Mutex
	away    bool
	err     error // of every claim
	parked  []sale.Parked
	waiting int64
	drained chan struct{} // closed when nothing waits any more
}

func (b *fakeBacklog) Usable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.away
}

func (b *fakeBacklog) Park(_ context.Context, _ string, claims []sale.Parked) []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	errs := make([]error, len(claims))
	for i := range errs {
		errs[i] = b.err
	}
	if b.err == nil {
		b.parked = append(b.parked, claims...)
		b.waiting += int64(len(claims))
	}
	return errs
}

func (b *fakeBacklog) Waiting(string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

func (b *fakeBacklog) Drained(ctx context.Context, _ string) bool {
	select {
	case <-b.drained:
		return true
	case <-ctx.Done():
		return false
	}
}

// users names the parked claims: with * those for which the shield took units.
func (b *fakeBacklog) users() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := ""
	for _, p := range b.parked {
		s += p.Claim.User
		if p.Took {
			s += "*"
		}
	}
	return s
}

func newParkingWorld(t *testing.T) (*world, *fakeBacklog) {
	t.Helper()
	w := newWorld(t, config())
	l := &fakeBacklog{drained: make(chan struct{})}
	w.Deps.Backlog, w.cfg.MaxWait = l, 5*time.Minute
	return w, l
}

func failingCommit(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
	return sale.CommitResult{}, fmt.Errorf("group: %w", sale.ErrUnavailable)
}

// Q is parked, f the backlog is full, t timed out; the others as settle has them.
func TestPark(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(w *world, l *fakeBacklog)
		users  string
		want   string
		parked string
		// told is how many of the batch the shield hears were refused; -1 = it hears nothing.
		told int
	}{
		{name: "the ledger is there", users: "aB", want: "RR"},
		{name: "its breaker is open", set: func(w *world, _ *fakeBacklog) { w.sql.open = true }, users: "aB", want: "QQ", parked: "a*B*"},
		{name: "its commit fails", set: func(w *world, _ *fakeBacklog) { w.ledger.commit = failingCommit }, users: "ab", want: "QQ", parked: "a*b*"},
		{name: "only what the shield admitted", set: func(w *world, _ *fakeBacklog) {
			w.sql.open = true
			w.shield.deduct = w.answers("A-LS-")
		}, users: "abcdE", want: "Q-LQu", parked: "a*d"},
		{name: "not without the shield", set: func(w *world, _ *fakeBacklog) { w.sql.open, w.redis.open = true, true }, users: "ab", want: "uu", told: -1},
		{name: "not when the backlog is away too", set: func(w *world, l *fakeBacklog) { w.sql.open, l.away = true, true }, users: "ab", want: "uu", told: -1},
		{name: "the commit fails and the backlog is away", set: func(w *world, l *fakeBacklog) { w.ledger.commit, l.away = failingCommit, true }, users: "ab", want: "uu", told: -1},
		{name: "the backlog is full: the units go back", set: func(w *world, l *fakeBacklog) { w.sql.open, l.err = true, sale.ErrQueueFull }, users: "ab", want: "ff", told: 2},
		{name: "nobody knows whether it is parked: it stays tentative", set: func(w *world, l *fakeBacklog) { w.sql.open, l.err = true, sale.ErrUnknown }, users: "ab", want: "uu", told: -1},
		{name: "the backlog is full and the ledger may have them", set: func(w *world, l *fakeBacklog) { w.ledger.commit, l.err = failingCommit, sale.ErrQueueFull }, users: "ab", want: "ff", told: -1},
		{name: "a repeat that cannot be looked up is parked, the rest committed", set: func(w *world, _ *fakeBacklog) {
			w.shield.deduct, w.ledger.away = w.answers("AS"), errBroken
		}, users: "ab", want: "RQ", parked: "b"},
		{name: "a repeat cannot be parked: what was committed is settled all the same", set: func(w *world, l *fakeBacklog) {
			w.shield.deduct, w.ledger.away, l.away = w.answers("AS"), errBroken, true
		}, users: "ab", want: "Ru"},
		{name: "behind others", set: func(_ *world, l *fakeBacklog) { l.waiting = 1 << 20 }, users: "ab", want: "QQ", parked: "a*b*"},
		{name: "behind a few that are drained in time", set: func(_ *world, l *fakeBacklog) {
			l.waiting = 3
			time.AfterFunc(time.Second, func() { close(l.drained) })
		}, users: "ab", want: "RR"},
		{name: "behind a few that are not", set: func(_ *world, l *fakeBacklog) { l.waiting = 3 }, users: "ab", want: "QQ", parked: "a*b*"},
		{name: "behind others without a shield: until it is too late", set: func(w *world, l *fakeBacklog) { l.waiting, w.redis.open = 1<<20, true }, users: "ab", want: "tt", told: -1},
		{name: "behind others that are out of reach: what the shield admits goes ahead", set: func(w *world, l *fakeBacklog) {
			l.waiting, l.away = 1<<20, true
			w.shield.deduct = w.answers("ASL")
		}, users: "abc", want: "RRL"},
		{name: "behind others that are out of reach, without a shield", set: func(w *world, l *fakeBacklog) {
			l.waiting, l.away, w.redis.open = 1<<20, true, true
		}, users: "ab", want: "uu", told: -1},
		{name: "a known repeat hears of its order", set: func(w *world, l *fakeBacklog) {
			l.waiting = 1 << 20
			w.shield.deduct = w.answers("SSA")
			w.existing("A", false)
		}, users: "ABc", want: "DQQ", parked: "c*B"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, l := newParkingWorld(t)
				if c.set != nil {
					c.set(w, l)
				}
				began := time.Now()
				if got := w.settleParking(t, claims(c.users)); got != c.want {
					t.Errorf("the verdicts of %q are %q, want %q", c.users, got, c.want)
				}
				if took := time.Since(began); took > 9*time.Second {
					t.Errorf("they took %s", took)
				}
				if got := l.users(); got != c.parked {
					t.Errorf("parked: %q, want %q", got, c.parked)
				}
				w.redis.set(false)
				w.Quiet(t.Context(), "s")
				told := w.shield.takeTold()
				switch {
				case c.told < 0 && len(told) != 0:
					t.Errorf("the shield was told %+v, want nothing", told)
				case c.told >= 0 && (len(told) != 1 || len(told[0].Refused) != c.told):
					t.Errorf("the shield was told %+v, want one settlement with %d refusals", told, c.told)
				}
			})
		})
	}
}

func (w *world) settleParking(t *testing.T, cs []*sale.Claim) string {
	t.Helper()
	s := ""
	for i, v := range w.Settle(t.Context(), "s", cs, func() {}) {
		switch {
		case v.Err == sale.ErrUnavailable:
			s += "u"
		case v.Err == sale.ErrQueueFull:
			s += "f"
		case v.Err != nil:
			t.Errorf("an error that the edge does not know: %v", v.Err)
		case v.Outcome == sale.Queued && (v.Order == nil || v.Order.ID != cs[i].ID || v.Order.Status != sale.StatusQueued):
			t.Errorf("queued without its order: %+v", v.Order)
		default:
			s += map[sale.Outcome]string{
				sale.Reserved: "R", sale.Duplicate: "D", sale.Conflict: "C", sale.LimitReached: "L", sale.SoldOut: "-",
				sale.Queued: "Q", sale.TimedOut: "t",
			}[v.Outcome]
		}
	}
	return s
}
