package deduct

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"flashgate/sale"
)

// scene is one gateway whose SKU is loaded, on a Redis whose clock is held.
type scene struct {
	m   *miniredis.Miniredis
	l   *fakeLedger
	s   *Shield
	sku sale.SKU
	now time.Time
}

func newScene(t *testing.T, limit int64, stock ...int64) *scene {
	t.Helper()
	sc := &scene{m: startMini(t), sku: testSKU(limit, len(stock)), now: time.Unix(1_700_000_000, 0)}
	sc.m.SetTime(sc.now)
	sc.l = newFakeLedger(sc.sku, stock...)
	sc.s = newShield(t, sc.m.Addr(), sc.l)
	rebuild(t, sc.s, &sc.sku)
	return sc
}

func (sc *scene) age(d time.Duration) {
	sc.now = sc.now.Add(d)
	sc.m.SetTime(sc.now)
}

func (sc *scene) reconcile(t *testing.T, want Report) {
	t.Helper()
	got, err := sc.s.Reconcile(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if want.Families = got.Families; got != want {
		t.Fatalf("report %v\nwant   %v", got, want)
	}
}

func TestReconcileJudgesWhatACrashLeft(t *testing.T) {
	for _, limit := range []int64{0, 3} {
		t.Run(fmt.Sprintf("limit=%d", limit), func(t *testing.T) {
			sc := newScene(t, limit, 10)
			cs := []*sale.Claim{claim("a", "1", 1), claim("b", "1", 2), claim("c", "1", 3)}
			wantAnswers(t, deduct(t, sc.s, &sc.sku, cs), "111")
			sc.l.commit(cs[:2], nil) // then the gateway dies
			sc.l.cancel(cs[1].ID)    // and a buyer cancels, which the shield does not hear of
			sc.age(testGrace)
			sc.reconcile(t, Report{Tentative: 1})
			sc.age(time.Millisecond)
			sc.reconcile(t, Report{Tentative: 1, Judged: 1, Confirmed: 1, Returned: 2, Units: 5})
			sc.reconcile(t, Report{})
			if n := left(t, sc.s, &sc.sku); n != 9 {
				t.Errorf("%d units left, want 9", n)
			}
			// What was given back is anybody's again; what the ledger has stays known.
			again := append(append([]*sale.Claim{}, cs...), claim("b", "2", 3))
			wantAnswers(t, deduct(t, sc.s, &sc.sku, again), "2211")
			// The release that was on its way all the time changes nothing any more.
			if err := sc.s.Release(context.Background(), &sc.sku, []sale.Order{sc.l.orders[cs[1].ID]}); err != nil {
				t.Fatal(err)
			}
			if n := left(t, sc.s, &sc.sku); n != 3 {
				t.Errorf("%d units left, want 3", n)
			}
		})
	}
}

// TestReconcileGoesOnPastBrokenKeys: keys that are not what they should be, of whichever
// kind, hold up their family and no other.
func TestReconcileGoesOnPastBrokenKeys(t *testing.T) {
	for _, kind := range []string{"gen", "h", "t", "swept"} {
		t.Run(kind, func(t *testing.T) {
			sc := newScene(t, 0, 10)
			tag, key := familyTag("broken", 0), ""
			gen := newGeneration(&sale.SKU{Name: "broken"}, 1).name
			switch kind {
			case "gen":
				key = pointerKey(tag)
			case "h":
				key = hashKey(tag, gen)
			default:
				key = batchesKey(tag, gen)
			}
			if kind != "gen" {
				if err := sc.m.Set(pointerKey(tag), gen); err != nil {
					t.Fatal(err)
				}
			}
			if kind == "swept" { // of a generation that no pointer names
				sc.m.Del(pointerKey(tag))
				if _, err := sc.m.Lpush(pointerKey(tag), "x"); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := sc.m.Lpush(key, "x"); err != nil {
				t.Fatal(err)
			}
			if kind == "t" { // only what is in use is looked at
				sc.m.HSet(hashKey(tag, gen), "m", "1", "l", "0")
			}
			wantAnswers(t, deduct(t, sc.s, &sc.sku, claims(2, 0)), "11")
			sc.age(testGrace + time.Millisecond)
			rep, err := sc.s.Reconcile(context.Background())
			if !errors.Is(err, sale.ErrPartly) || rep.Broken == 0 {
				t.Errorf("%v, %v", rep, err)
			}
			if rep.Judged != 1 || rep.Returned != 2 || left(t, sc.s, &sc.sku) != 10 {
				t.Errorf("the family beside it: %v", rep)
			}
		})
	}
}

func TestReconcileLeavesWhatHasABacklog(t *testing.T) {
	sc := newScene(t, 0, 10)
	parked := true
	sc.s.cfg.Waiting = func(sku string) bool { return parked && sku == sc.sku.Name }
	wantAnswers(t, deduct(t, sc.s, &sc.sku, claims(2, 0)), "11")
	sc.age(testGrace + time.Millisecond)
	sc.reconcile(t, Report{Tentative: 1})
	if n := left(t, sc.s, &sc.sku); n != 8 {
		t.Errorf("%d units left, want 8", n)
	}
	parked = false
	sc.reconcile(t, Report{Tentative: 1, Judged: 1, Returned: 2, Units: 2})
}

func TestReconcileIsNotDoneTwice(t *testing.T) {
	sc := newScene(t, 0, 10)
	d := deduct(t, sc.s, &sc.sku, claims(4, 0))
	sc.age(testGrace + time.Second)
	// The batch is settled between the look at it and the verdict.
	sc.l.hooks["find"] = func() {
		refused := sale.Settlement{Token: d.Token, LedgerLeft: -1}
		for _, c := range claims(4, 0) {
			refused.Refused = append(refused.Refused, sale.Refused{ID: c.ID, User: c.User, Quantity: 1, Restock: true})
		}
		if err := sc.s.Settle(context.Background(), &sc.sku, []sale.Settlement{refused}); err != nil {
			t.Error(err)
		}
	}
	if _, err := sc.s.Reconcile(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := left(t, sc.s, &sc.sku); n != 10 {
		t.Fatalf("%d units left, want 10", n)
	}
}

func TestReconcileJudgesNothingWhileTheLedgerIsAway(t *testing.T) {
	sc := newScene(t, 0, 3)
	deduct(t, sc.s, &sc.sku, claims(3, 0))
	sc.age(testGrace + time.Second)
	sc.l.away = true
	if _, err := sc.s.Reconcile(context.Background()); !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	if n := left(t, sc.s, &sc.sku); n != 0 {
		t.Fatalf("%d units left, want 0", n)
	}
	sc.l.away = false
	sc.reconcile(t, Report{Tentative: 1, Judged: 1, Returned: 3, Units: 3})
}

func TestReconcileRaisesOnlyWhatSellsNothingAndIsSettled(t *testing.T) {
	sc := newScene(t, 0, 3)
	ctx := context.Background()
	cs := claims(3, 0)
	d := deduct(t, sc.s, &sc.sku, cs)
	settled := decide(sc.l, d, cs)
	sc.l.restock(0, 5)
	sc.reconcile(t, Report{Tentative: 1}) // something is tentative
	if err := sc.s.Settle(ctx, &sc.sku, settled); err != nil {
		t.Fatal(err)
	}
	sc.s.checks = map[string]*raiseCheck{}
	sc.reconcile(t, Report{Raised: 1})
	if n := left(t, sc.s, &sc.sku); n != 5 {
		t.Fatalf("%d units left, want 5", n)
	}
	sc.l.restock(0, 5)
	sc.reconcile(t, Report{}) // not sold out: it may just be selling
	sc.reconcile(t, Report{Raised: 1})
	if n := left(t, sc.s, &sc.sku); n != 10 {
		t.Fatalf("%d units left, want 10", n)
	}
	// A release comes between the look and the rise.
	d = deduct(t, sc.s, &sc.sku, claims(10, 10))
	if err := sc.s.Settle(ctx, &sc.sku, decide(sc.l, d, claims(10, 10))); err != nil {
		t.Fatal(err)
	}
	sc.l.hooks["stock alone"] = func() {
		o, _ := sc.l.cancel(cs[0].ID)
		if err := sc.s.Release(ctx, &sc.sku, []sale.Order{o}); err != nil {
			t.Error(err)
		}
	}
	sc.reconcile(t, Report{})
	if n := left(t, sc.s, &sc.sku); n != 1 {
		t.Fatalf("%d units left, want 1", n)
	}
}

// Units that came back while some were left are no less for sale: buyers of several would
// hear "sold out" for as long as nobody buys the last ones.
func TestUnitsAreFoundBeforeTheLastIsGone(t *testing.T) {
	sc := newScene(t, 0, 1)
	wantAnswers(t, deduct(t, sc.s, &sc.sku, []*sale.Claim{claim("ann", "k", 2)}), "4")
	sc.l.restock(0, 999)
	if err := sc.s.Raise(t.Context(), []*sale.SKU{&sc.sku}); err != nil {
		t.Fatal(err)
	}
	wantAnswers(t, deduct(t, sc.s, &sc.sku, []*sale.Claim{claim("ann", "k", 2)}), "1")
	if n := left(t, sc.s, &sc.sku); n != 998 {
		t.Errorf("%d units left, want 998", n)
	}
	sc.l.restock(0, 1)
	if err := sc.s.Raise(t.Context(), []*sale.SKU{&sc.sku}); err != nil {
		t.Fatal(err)
	}
	if n := left(t, sc.s, &sc.sku); n != 998 {
		t.Errorf("%d units left, want 998: the ledger does not know the tentative ones", n)
	}
}

// Who repairs and who sells go by the same pointer: with it gone nobody sells on from a
// copy that nobody else can find.
func TestACopyWithoutItsPointerIsNotUsed(t *testing.T) {
	sc := newScene(t, 0, 100)
	wantAnswers(t, deduct(t, sc.s, &sc.sku, claims(22, 0)), strings.Repeat("1", 22)) // and the gateway dies
	sc.m.Del(pointerKey(familyTag("shoe", 0)))
	wantAnswers(t, deduct(t, sc.s, &sc.sku, claims(1, 50)), "-")
	rebuild(t, sc.s, &sc.sku)
	if n := left(t, sc.s, &sc.sku); n != 100 {
		t.Errorf("%d units left, want 100", n)
	}
	sc.reconcile(t, Report{})
	if x := leftovers(sc.m); len(x) != 1 { // the old hash, which times out
		t.Errorf("left behind: %q", x)
	}
}

func TestSoldOutChecksBackOff(t *testing.T) {
	s := &Shield{checks: make(map[string]*raiseCheck)}
	looks := make([]*look, raiseChecks+20)
	for i := range looks {
		looks[i] = &look{key: familyKey{tag: fmt.Sprint(i)}}
	}
	looks[0].left, looks[1].tentative = 1, 1
	now := time.Unix(1, 0)
	if n := len(s.dueChecks(looks, now)); n != raiseChecks {
		t.Fatalf("%d checks in the first run, want %d", n, raiseChecks)
	}
	if n := len(s.dueChecks(looks, now)); n != 19 {
		t.Fatalf("%d checks in the second run, want the 19 that had to wait", n)
	}
	if n := len(s.dueChecks(looks, now)); n != 0 {
		t.Fatalf("%d checks at once again", n)
	}
	gap := time.Duration(0)
	for last := now; gap < soldOutMax; {
		now = now.Add(100 * time.Millisecond)
		for _, l := range s.dueChecks(looks[5:6], now) {
			if now.Sub(last) < gap || now.Sub(last) > soldOutMax+time.Second {
				t.Fatalf("%s checked after %v, after %v before", l.key.tag, now.Sub(last), gap)
			}
			gap, last = now.Sub(last), now
		}
	}
	if len(s.checks) != 1 {
		t.Errorf("%d families remembered, want those of the last run", len(s.checks))
	}
}

// Families that have nothing to be repaired are left alone for less than the grace, and
// what a gateway leaves behind in one of them meanwhile is judged in time all the same.
func TestQuietFamiliesAreLeftAlone(t *testing.T) {
	sc := newScene(t, 0, 10)
	// Its own clock is not Redis', by which the batch ages.
	sc.s.quietFor = time.Hour
	sc.reconcile(t, Report{})
	if rep, err := sc.s.Reconcile(context.Background()); err != nil || rep.Families != 0 {
		t.Errorf("%v, %v: the family was looked at again", rep, err)
	}
	deduct(t, sc.s, &sc.sku, claims(3, 0)) // and the gateway dies
	sc.age(testGrace + time.Millisecond)
	sc.s.quiet.note([]*look{{key: familyKey{tag: familyTag("shoe", 0)}, left: 1}}, time.Now())
	sc.reconcile(t, Report{Tentative: 1, Judged: 1, Returned: 3, Units: 3})
	// Where the keys are scanned, what is tentative is found at once.
	sc.reconcile(t, Report{})
	deduct(t, sc.s, &sc.sku, claims(2, 5))
	sc.age(testGrace + time.Millisecond)
	sc.s.known.at = time.Time{}
	sc.reconcile(t, Report{Tentative: 1, Judged: 1, Returned: 2, Units: 2})
	if n := left(t, sc.s, &sc.sku); n != 10 {
		t.Errorf("%d units left, want 10", n)
	}
	// One that is sold out is looked at each time, and one that is gone is forgotten.
	sc.m.FlushAll()
	sc.s.known.at = time.Time{}
	sc.reconcile(t, Report{})
	if n := len(sc.s.quiet.until); n != 0 {
		t.Errorf("%d families are remembered", n)
	}
	empty := newScene(t, 0, 0)
	empty.s.quietFor = time.Hour
	for range 2 {
		if rep, err := empty.s.Reconcile(context.Background()); err != nil || rep.Families != 1 {
			t.Errorf("%v, %v", rep, err)
		}
	}
}

func TestReconcileSurvivesOddKeys(t *testing.T) {
	sc := newScene(t, 0, 3)
	tag := familyTag("shoe", 0)
	gen, _ := sc.m.Get(pointerKey(tag))
	sc.m.HSet(batchesKey(tag, gen), "token", "rubbish")
	sc.m.HSet(batchesKey(tag, gen), "8 bytes.", "rubbish")
	sc.m.HSet(batchesKey(tag, "1-2-0-1-00000000"), "12345678", "of a generation that is not in use")
	sc.m.Set("fg:{shoe:1}:gen", "rubbish")
	sc.m.Set("fg:{nonsense", "x")
	sc.m.Set("fg:{sock:0}:gen", "1-2-0-1-00000000")
	sc.m.Set(hashKey(familyTag("sock", 0), "1-2-0-1-00000000"), "not a hash")
	rep, err := sc.s.Reconcile(context.Background())
	if !errors.Is(err, sale.ErrPartly) {
		t.Fatal(err)
	}
	if rep.Judged != 1 || rep.Families != 1 || rep.Broken != 1 {
		t.Error(rep)
	}
	if sc.m.Exists(batchesKey(tag, "1-2-0-1-00000000")) {
		t.Error("batches of a generation that is not in use stay")
	}
}

func TestSegments(t *testing.T) {
	m := startMini(t)
	ctx := context.Background()
	sku := testSKU(2, 3)
	l := newFakeLedger(sku, 2, 3, 2)
	home := func(n uint32) func(*Config) { return func(c *Config) { c.Home = n } }
	a, b := newShield(t, m.Addr(), l, home(1)), newShield(t, m.Addr(), l, home(5)) // 5 % 3 = 2
	rebuild(t, a, &sku)

	// Home first, then the others in turn, then sold out.
	cs := claims(8, 0)
	d := deduct(t, a, &sku, cs)
	wantAnswers(t, d, "11111114")
	if got := fmt.Sprint(d.Segments[:7]); got != "[1 1 1 2 2 0 0]" || d.Left != 0 {
		t.Fatalf("segments %s, left %d", got, d.Left)
	}
	// One settlement reaches every segment the batch took from.
	settled := decide(l, d, cs)
	settled[0].Refused = append(settled[0].Refused, sale.Refused{ID: cs[6].ID, User: cs[6].User, Quantity: 1, Segment: 0, Restock: true})
	l.cancel(cs[6].ID)
	d = deduct(t, a, &sku, nil, settled...)
	if rep, err := a.Reconcile(ctx); err != nil || rep.Tentative != 0 {
		t.Fatal(rep, err)
	}
	if n := left(t, a, &sku); n != 1 {
		t.Fatalf("%d units left, want 1", n)
	}
	// A release is heard in the segment it was sold from, and its buyer may buy anywhere.
	o, _ := l.cancel(cs[0].ID)
	if err := b.Release(ctx, &sku, []sale.Order{o}); err != nil {
		t.Fatal(err)
	}
	d = deduct(t, b, &sku, []*sale.Claim{claim(cs[0].User, "again", 1), claim("new", "1", 1), claim("too late", "1", 1)})
	wantAnswers(t, d, "114")
	if got := fmt.Sprint(d.Segments[:2]); got != "[0 1]" {
		t.Errorf("segments %s", got)
	}
}

func TestSegmentThatIsNotLoadedUndoesTheBatch(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 2)
	l := newFakeLedger(sku, 2, 2)
	s := newShield(t, m.Addr(), l)
	rebuild(t, s, &sku)
	for _, key := range m.Keys() {
		if k, ok := parseFamilyKey(key); ok && k.segment == 1 {
			m.Del(key)
		}
	}
	wantAnswers(t, deduct(t, s, &sku, claims(2, 0)), "11")
	wantAnswers(t, deduct(t, s, &sku, claims(1, 10)), "-")
	rebuild(t, s, &sku) // only what is missing
	d := deduct(t, s, &sku, claims(3, 0))
	wantAnswers(t, d, "221")

	// Units taken before the segment was found missing are given back at once.
	sc := newScene(t, 0, 2, 2)
	for _, key := range sc.m.Keys() {
		if k, ok := parseFamilyKey(key); ok && k.segment == 1 {
			sc.m.Del(key)
		}
	}
	wantAnswers(t, deduct(t, sc.s, &sc.sku, claims(3, 0)), "-")
	rebuild(t, sc.s, &sc.sku)
	wantAnswers(t, deduct(t, sc.s, &sc.sku, claims(5, 0)), "11114")
}

// An order that the shield never saw ends; its unit is on sale at once, and never while
// something is tentative or more than the ledger has.
func TestRaiseAfterAnUnknownOrderEnded(t *testing.T) {
	ctx := context.Background()
	sc := newScene(t, 0, 2)
	around := []*sale.Claim{claim("around", "1", 1)}
	sc.l.commit(around, nil) // behind the shield's back
	raise := func(want int64) {
		t.Helper()
		if err := sc.s.Raise(ctx, []*sale.SKU{&sc.sku}); err != nil {
			t.Fatal(err)
		}
		if n := left(t, sc.s, &sc.sku); n != want {
			t.Fatalf("%d units left, want %d", n, want)
		}
	}
	through := []*sale.Claim{claim("a", "1", 1), claim("b", "1", 1)}
	d := deduct(t, sc.s, &sc.sku, through)
	wantAnswers(t, d, "11")
	sc.l.restock(0, 1)
	raise(0) // both are tentative: too early to tell
	if err := sc.s.Settle(ctx, &sc.sku, decide(sc.l, d, through)); err != nil {
		t.Fatal(err)
	}
	raise(0) // two of three units went through, one around
	o, _ := sc.l.cancel(around[0].ID)
	if err := sc.s.Release(ctx, &sc.sku, []sale.Order{o}); err != nil {
		t.Fatal(err)
	}
	raise(1)
	raise(1) // not sold out: left alone
}
