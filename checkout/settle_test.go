package checkout

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

var errBroken = errors.New("connection reset")

func TestSettle(t *testing.T) {
	for _, c := range []struct {
		name    string
		set     func(w *world)
		users   string // capital letters gave a key
		want    string
		commits int // calls to Commit
		passed  int // claims that went around
	}{
		{name: "through the shield", users: "aBc", want: "RRR", commits: 1},
		{name: "no such SKU", set: func(w *world) { w.ledger.skus = nil }, users: "ab", want: "??"},
		{name: "ledger away, SKU not cached", set: func(w *world) { w.ledger.skus, w.ledger.away = nil, errBroken }, users: "ab", want: "uu"},
		{name: "ledger's breaker open", set: func(w *world) { w.sql.open = true }, users: "aB", want: "uu"},

		{name: "paused", set: func(w *world) { w.sku.State = sale.StatePaused }, users: "ab", want: "pp"},
		{name: "closed", set: func(w *world) { w.sku.State = sale.StateClosed }, users: "ab", want: "xx"},
		{name: "not open yet", set: func(w *world) { w.sku.OpensAt = time.Now().UnixMilli() + 1 }, users: "ab", want: "oo"},
		{name: "open by now", set: func(w *world) { w.sku.OpensAt = time.Now().UnixMilli() }, users: "ab", want: "RR", commits: 1},
		{name: "over", set: func(w *world) { w.sku.ClosesAt = time.Now().UnixMilli() }, users: "ab", want: "xx"},
		{name: "a repeat behind a pause", set: func(w *world) { w.sku.State = sale.StatePaused; w.existing("B", false) }, users: "aBC", want: "pDp"},
		{name: "another payload behind a pause", set: func(w *world) { w.sku.State = sale.StatePaused; w.existing("B", true) }, users: "aBC", want: "pCp"},
		{name: "paused and the ledger fails", set: func(w *world) { w.sku.State = sale.StatePaused; w.ledger.away = errBroken }, users: "aB", want: "pu"},

		{name: "sold out by the shield", set: func(w *world) { w.shield.deduct, w.ledger.exhausted = w.answers("A--"), true }, users: "abC", want: "R--", commits: 1},
		// Another gateway may have the same claim on its way: a read would miss it.
		{name: "sold out by the shield, ledger has some", set: func(w *world) { w.shield.deduct = w.answers("A--") }, users: "abC", want: "R-R", commits: 2},
		{name: "sold out by the shield, and the ledger says so too", set: func(w *world) {
			w.shield.deduct, w.ledger.commit = w.answers("---"), w.commits("-")
		}, users: "abC", want: "---", commits: 1},
		{name: "a repeat behind the shield's sold out, ledger exhausted", set: func(w *world) {
			w.shield.deduct, w.ledger.exhausted = w.answers("---"), true
			w.existing("B", false)
			w.existing("C", true)
		}, users: "aBC", want: "-DC"},
		{name: "a repeat behind the shield's sold out, ledger has some", set: func(w *world) {
			w.shield.deduct = w.answers("---")
			w.existing("B", false)
		}, users: "aBC", want: "-DR", commits: 1},
		{name: "sold out and the ledger fails", set: func(w *world) { w.shield.deduct, w.ledger.away = w.answers("--"), errBroken }, users: "aB", want: "-u"},
		{name: "the limit by the shield", set: func(w *world) { w.shield.deduct = w.answers("LA") }, users: "ab", want: "LR", commits: 1},
		{name: "a repeat behind the shield's limit", set: func(w *world) {
			w.shield.deduct, w.ledger.commit = w.answers("LLL"), w.commits("L")
			w.existing("A", false)
		}, users: "ABc", want: "DLL", commits: 1},
		{name: "limit and sold out together", set: func(w *world) {
			w.shield.deduct, w.ledger.exhausted = w.answers("L-L-"), true
			w.existing("C", false)
		}, users: "abCD", want: "L-D-"},
		// Gateways' clocks differ: the ledger goes by its own.
		{name: "just over, with a key", set: func(w *world) { w.sku.ClosesAt = time.Now().UnixMilli(); w.ledger.commit = w.commits("R") }, users: "aB", want: "xR", commits: 1},
		{name: "just over, a repeat", set: func(w *world) { w.sku.ClosesAt = time.Now().UnixMilli(); w.existing("B", false) }, users: "aB", want: "xD"},
		{name: "about to open, with a key", set: func(w *world) { w.sku.OpensAt = time.Now().UnixMilli() + 1 }, users: "aB", want: "oR", commits: 1},
		{name: "over for a while, with a key", set: func(w *world) { w.sku.ClosesAt = time.Now().Add(-clockDoubt).UnixMilli() }, users: "aB", want: "xx"},

		{name: "seen and in the ledger", set: func(w *world) { w.shield.deduct = w.answers("SS"); w.existing("a", false); w.existing("B", true) }, users: "aB", want: "DC"},
		{name: "seen and nowhere: the ledger decides", set: func(w *world) { w.shield.deduct = w.answers("SAS"); w.existing("a", false) }, users: "abC", want: "DRR", commits: 2},
		{name: "seen and the ledger fails", set: func(w *world) { w.shield.deduct, w.ledger.away = w.answers("SA"), errBroken }, users: "ab", want: "uR", commits: 1},
		{name: "no answer", set: func(w *world) { w.shield.deduct = w.answers("?A") }, users: "ab", want: "uR", commits: 1},

		{name: "shield not loaded", set: func(w *world) {
			w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, nil }
		}, users: "aBc", want: "RRR", commits: 1, passed: 3},
		{name: "shield fails", set: func(w *world) {
			w.shield.deduct = func(context.Context, []*sale.Claim) (sale.Deduction, error) { return sale.Deduction{}, errBroken }
		}, users: "ab", want: "RR", commits: 1, passed: 2},
		{name: "shield's breaker open", set: func(w *world) { w.redis.open = true }, users: "ab", want: "RR", commits: 1, passed: 2},
		{name: "cold", set: func(w *world) { w.sku.Heat = sale.HeatCold }, users: "ab", want: "RR", commits: 1, passed: 2},
		{name: "around, all kinds", set: func(w *world) { w.redis.open = true; w.ledger.commit = w.commits("RDCL-p") }, users: "abcdef", want: "RDCL-p", commits: 1, passed: 6},
		{name: "around is full", set: func(w *world) { w.redis.open = true; w.throttle.err = sale.ErrDegraded }, users: "aB", want: "dd"},
		{name: "around, given up", set: func(w *world) { w.redis.open = true; w.throttle.err = sale.ErrUnavailable }, users: "a", want: "u"},
		{name: "around and the ledger fails", set: func(w *world) {
			w.redis.open = true
			w.ledger.commit = func(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
				return sale.CommitResult{}, errBroken
			}
		}, users: "aB", want: "uu", commits: 1, passed: 2},

		{name: "the ledger says otherwise", set: func(w *world) { w.ledger.commit = w.commits("DCL-pR") }, users: "abcdef", want: "DCL-pR", commits: 1},
		{name: "the ledger fails", set: func(w *world) {
			w.ledger.commit = func(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
				return sale.CommitResult{}, fmt.Errorf("group: %w", sale.ErrUnavailable)
			}
		}, users: "ab", want: "uu", commits: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				if c.set != nil {
					c.set(w)
				}
				if got := w.settle(t, claims(c.users)); got != c.want {
					t.Errorf("the verdicts of %q are %q, want %q", c.users, got, c.want)
				}
				if len(w.ledger.commits) != c.commits || w.throttle.passed != c.passed {
					t.Errorf("%d commits and %d claims around, want %d and %d", len(w.ledger.commits), w.throttle.passed, c.commits, c.passed)
				}
				for _, b := range w.ledger.commits {
					if around := b.Segments == nil; around && !b.LockFirst || len(b.Segments) != len(b.Claims) && !around {
						t.Errorf("a batch with %d claims, segments %v, lock first %t", len(b.Claims), b.Segments, b.LockFirst)
					}
				}
				if w.ledger.finds > 1 || w.ledger.points > exhaustedLooks {
					t.Errorf("%d reads and %d point reads for one batch", w.ledger.finds, w.ledger.points)
				}
			})
		})
	}
}

func TestSettleCountsRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.shield.deduct = w.answers("A-L-")
		w.settle(t, claims("abcd"))
		if got := fmt.Sprint(w.stats.count); got != "map[s/limit_reached:1 s/sold_out:2]" {
			t.Errorf("counted %s", got)
		}
	})
}

// A batch may begin when its oldest claim has hardly any time left. Its calls get some
// all the same, lest they fail for lack of it and count against their dependencies.
func TestLateBatchesGetTimeForTheirCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.shield.deduct = func(ctx context.Context, cs []*sale.Claim) (sale.Deduction, error) {
			pass(50 * time.Millisecond)
			if ctx.Err() != nil {
				return sale.Deduction{}, ctx.Err()
			}
			return w.answers("")(ctx, cs)
		}
		reserve := w.ledger.commit
		w.ledger.commit = func(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
			pass(500 * time.Millisecond)
			if ctx.Err() != nil {
				return sale.CommitResult{}, ctx.Err()
			}
			return reserve(ctx, b)
		}
		cs := claims("ab")
		pass(8*time.Second - 10*time.Millisecond)
		if got := w.settle(t, cs); got != "RR" {
			t.Errorf("the verdicts are %q, want RR", got)
		}
		// The throttle's line, though, is not for claims that would come out too old.
		w.redis.set(true)
		cs = claims("ab")
		due := time.Now().Add(8 * time.Second)
		pass(time.Second)
		w.settle(t, append(claims("c"), append(cs, claims("d")...)...))
		if !w.throttle.deadline.Equal(due) {
			t.Errorf("the throttle's deadline is %s after the claims' time, want 0s", w.throttle.deadline.Sub(due))
		}
		// And nothing is waited for without end.
		w.redis.set(false)
		began := time.Now()
		w.ledger.commit = func(ctx context.Context, _ sale.CommitBatch) (sale.CommitResult, error) {
			<-ctx.Done()
			return sale.CommitResult{}, fmt.Errorf("%w: %w", sale.ErrUnavailable, ctx.Err())
		}
		if got := w.settle(t, claims("a")); got != "u" || time.Since(began) != 9*time.Second {
			t.Errorf("a ledger that hangs gave %q after %s, want u after 9s", got, time.Since(began))
		}
	})
}

// Two claims with one id can meet in a batch when their payloads differ: the first wins.
func TestOfTwoPayloadsInABatchTheFirstWins(t *testing.T) {
	for _, shield := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, config())
			w.shield.deduct = w.answers("AS")
			w.redis.open = !shield
			// A ledger that takes its time and then keeps one order per id.
			w.ledger.commit = func(_ context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
				if !b.LockFirst {
					pass(10 * time.Millisecond) // a group commit takes longer than a small locked one
				}
				w.ledger.mu.Lock()
				defer w.ledger.mu.Unlock()
				var res sale.CommitResult
				for _, c := range b.Claims {
					o, ok := w.ledger.orders[c.ID]
					v := sale.Verdict{Outcome: sale.Reserved, Order: &o}
					switch {
					case !ok:
						o = sale.NewOrder(c, b.SKU, 0, time.Now().UnixMilli())
						w.ledger.orders[c.ID] = o
					case o.Hash != c.Hash:
						v = sale.Verdict{Outcome: sale.Conflict}
					default:
						v.Outcome = sale.Duplicate
					}
					res.Verdicts = append(res.Verdicts, v)
				}
				return res, nil
			}
			cs := claims("AA")
			cs[1].Hash = sale.HashRequest(2, "")
			if got := w.settle(t, cs); got != "RC" {
				t.Errorf("shield=%t: the verdicts are %q, want RC", shield, got)
			}
		})
	}
}

// Units that lie in several segments of the shield are worth more together than any of
// them alone: the ledger, which can move them, decides.
func TestTheSumOfSegmentsSuffices(t *testing.T) {
	for _, c := range []struct {
		name       string
		segments   int
		left       int64
		quantities []int64
		want       string
		commits    int
	}{
		{"enough together", 4, 4, []int64{3}, "R", 1},
		{"enough for the second", 4, 4, []int64{5, 4}, "-R", 1},
		{"no more than there are", 4, 4, []int64{3, 2, 1}, "R-R", 1},
		{"one segment", 1, 4, []int64{5}, "-", 0},
		{"nothing left", 4, 0, []int64{1}, "-", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, config())
				w.sku.Segments = c.segments
				cs := claims("abc"[:len(c.quantities)])
				w.shield.deduct = func(ctx context.Context, cs []*sale.Claim) (sale.Deduction, error) {
					d, err := w.answers("---")(ctx, cs)
					d.Left = c.left
					return d, err
				}
				for i, n := range c.quantities {
					cs[i].Quantity, cs[i].Hash = n, sale.HashRequest(n, "")
				}
				if got := w.settle(t, cs); got != c.want || len(w.ledger.commits) != c.commits {
					t.Errorf("the verdicts are %q after %d commits, want %q after %d", got, len(w.ledger.commits), c.want, c.commits)
				}
				for _, b := range w.ledger.commits {
					if !b.LockFirst || b.Segments != nil {
						t.Errorf("lock first %t, segments %v", b.LockFirst, b.Segments)
					}
				}
			})
		})
	}
}

func TestLimitRefusalsAreHeldAgainstTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.checkLimits(2)
		w.sku.PerUserLimit = 1
		w.shield.deduct = w.answers("LLLL")
		w.ledger.commit = w.commits("LL")
		if got := w.settle(t, claims("abcd")); got != "LLLL" {
			t.Errorf("the verdicts are %q, want LLLL", got)
		}
		if n := len(w.ledger.commits); n != 1 || len(w.ledger.commits[0].Claims) != 2 {
			t.Errorf("%d commits; two refusals a second are checked", n)
		}
		if d := w.shield.takeDistrusted(); len(d) != 0 {
			t.Errorf("distrusted though the ledger agreed: %v", d)
		}
		pass(time.Second)
		w.ledger.commit = w.commits("R")
		if got := w.settle(t, claims("e")); got != "R" {
			t.Errorf("a buyer whom the shield wrongs got %q, want R", got)
		}
		if d := w.shield.takeDistrusted(); len(d) != 1 {
			t.Errorf("distrusted %v, want the SKU once", d)
		}
		// With the ledger away the shield's word stands where no repeat can hide.
		pass(time.Second)
		w.ledger.away = errBroken
		if got := w.settle(t, claims("fG")); got != "Lu" {
			t.Errorf("with the ledger away the verdicts are %q, want Lu", got)
		}
		w.ledger.away = nil
		pass(time.Second)
		w.ledger.commit = func(context.Context, sale.CommitBatch) (sale.CommitResult, error) {
			return sale.CommitResult{}, errBroken
		}
		if got := w.settle(t, claims("hI")); got != "Lu" {
			t.Errorf("with commits failing the verdicts are %q, want Lu", got)
		}
	})
}

func TestNewRefusesImpossibleKnobs(t *testing.T) {
	w := newWorld(t, config())
	for name, spoil := range map[string]func(*Config, *Deps){
		"no age":    func(c *Config, _ *Deps) { c.MaxAge = 0 },
		"no ttl":    func(c *Config, _ *Deps) { c.VerdictTTL = 0 },
		"no shield": func(_ *Config, d *Deps) { d.Shield = nil },
		"no ledger": func(_ *Config, d *Deps) { d.Ledger = nil },
	} {
		cfg, deps := config(), w.Deps
		spoil(&cfg, &deps)
		if _, err := New(cfg, deps); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
