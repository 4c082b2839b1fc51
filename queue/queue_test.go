package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

func config() Config {
	return Config{
		Capacity: 8, MaxWaiting: 16, MaxBatch: 4, Inflight: 2,
		MaxAge: 8 * time.Second, Linger: time.Second, DrainTimeout: 5 * time.Second,
	}
}

// call is one batch in the hands of a desk.
type call struct {
	ctx    context.Context
	sku    string
	claims []*sale.Claim
	admit  func()
	reply  chan []sale.Verdict
}

// all answers every claim of the batch alike.
func (c *call) all(o sale.Outcome) {
	out := make([]sale.Verdict, len(c.claims))
	for i := range out {
		out[i].Outcome = o
	}
	c.reply <- out
}

func (c *call) users() string {
	s := ""
	for _, cl := range c.claims {
		s += cl.User
	}
	return s
}

// desk is a settler whose batches the test decides by hand.
type desk struct {
	calls chan *call

	mu         sync.Mutex
	remembered []string
	quiet      []string
}

func newDesk() *desk { return &desk{calls: make(chan *call, 100)} }

func (d *desk) Settle(ctx context.Context, sku string, claims []*sale.Claim, admitted func()) []sale.Verdict {
	c := &call{ctx: ctx, sku: sku, claims: claims, admit: admitted, reply: make(chan []sale.Verdict, 1)}
	select {
	case d.calls <- c:
	case <-ctx.Done():
	}
	select {
	case v := <-c.reply:
		return v
	case <-ctx.Done():
		out := make([]sale.Verdict, len(claims))
		for i := range out {
			out[i].Err = sale.ErrUnavailable
		}
		return out
	}
}

func (d *desk) Remember(_ context.Context, claims []*sale.Claim, verdicts []sale.Verdict) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, c := range claims {
		d.remembered = append(d.remembered, c.User+":"+verdicts[i].Outcome.String())
	}
}

func (d *desk) Quiet(_ context.Context, sku string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = append(d.quiet, sku)
}

// told is what the desk was told to remember, and which SKUs went quiet; it forgets the
// former.
func (d *desk) told() (remembered string, quiet []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	remembered, d.remembered = strings.Join(d.remembered, " "), nil
	return remembered, slices.Clone(d.quiet)
}

// next is the batch that has just begun, or nil.
func (d *desk) next() *call {
	synctest.Wait()
	select {
	case c := <-d.calls:
		return c
	default:
		return nil
	}
}

// mustNext is the batch that has just begun, which holds these users in this order.
func (d *desk) mustNext(t *testing.T, users string) *call {
	t.Helper()
	c := d.next()
	if c == nil {
		t.Fatalf("no batch began, want one of %q", users)
	}
	if got := c.users(); got != users {
		t.Fatalf("the batch holds %q, want %q", got, users)
	}
	return c
}

func (d *desk) noNext(t *testing.T) {
	t.Helper()
	if c := d.next(); c != nil {
		t.Fatalf("a batch of %q began", c.users())
	}
}

// started is a queue that runs; its end drains it and checks that nothing is left.
func started(t *testing.T, cfg Config, s Settler) (*Queue, func() error) {
	t.Helper()
	q, err := New(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	t.Cleanup(cancel) // also when the test fails half-way
	return q, func() error {
		t.Helper()
		cancel()
		err := <-done
		assertEmpty(t, q)
		return err
	}
}

func assertEmpty(t *testing.T, q *Queue) {
	t.Helper()
	if n := q.Waiting(); n != 0 {
		t.Errorf("%d claims wait when none should", n)
	}
	for i := range q.index.shards {
		s := &q.index.shards[i]
		s.mu.Lock()
		if len(s.tickets) != 0 || len(s.followers) != 0 {
			t.Errorf("the index holds %d tickets and %d lists of followers when it should be empty", len(s.tickets), len(s.followers))
		}
		s.mu.Unlock()
	}
}

// claimOf is a claim of the SKU "s" whose id follows from the user's name.
func claimOf(user string) *sale.Claim { return claimAt("s", user) }

func claimAt(sku, user string) *sale.Claim {
	return &sale.Claim{
		ID: sale.DeriveOrderID(sku, user, "key"), SKU: sku, User: user, Quantity: 1, Keyed: true,
		Hash: sale.HashRequest(1, ""), QueuedAt: time.Now().UnixMilli(),
	}
}

func join(t *testing.T, q *Queue, users string) []*sale.Ticket {
	t.Helper()
	var out []*sale.Ticket
	for _, u := range users {
		ticket, err := q.Join(claimOf(string(u)), false)
		if err != nil {
			t.Fatalf("%c: %v", u, err)
		}
		out = append(out, ticket)
	}
	return out
}

// wantVerdict takes the verdict that must be there already.
func wantVerdict(t *testing.T, ticket *sale.Ticket, want sale.Outcome) {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-ticket.Verdict():
		if v.Outcome != want || v.Err != nil {
			t.Errorf("%s got %q (%v), want %q", ticket.Claim.User, v.Outcome, v.Err, want)
		}
	default:
		t.Errorf("%s has no verdict, want %q", ticket.Claim.User, want)
	}
	if p := ticket.Position(); p != 0 {
		t.Errorf("%s was answered at position %d", ticket.Claim.User, p)
	}
}

func wantErr(t *testing.T, ticket *sale.Ticket, want error) {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-ticket.Verdict():
		if !errors.Is(v.Err, want) || v.Outcome != sale.NoOutcome {
			t.Errorf("%s got %q (%v), want %v", ticket.Claim.User, v.Outcome, v.Err, want)
		}
	default:
		t.Errorf("%s has no verdict, want %v", ticket.Claim.User, want)
	}
}

func wantNothing(t *testing.T, ticket *sale.Ticket) {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-ticket.Verdict():
		t.Errorf("%s got %q (%v) too early", ticket.Claim.User, v.Outcome, v.Err)
	default:
	}
}

// pass lets time go by, inside a synctest bubble only.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestQueueRefusesImpossibleKnobs(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no capacity":               func(c *Config) { c.Capacity = 0 },
		"no batch":                  func(c *Config) { c.MaxBatch = 0 },
		"a batch beyond capacity":   func(c *Config) { c.MaxBatch = c.Capacity + 1 },
		"fewer in all than per SKU": func(c *Config) { c.MaxWaiting = c.Capacity - 1 },
		"nothing in flight":         func(c *Config) { c.Inflight = 0 },
		"no age":                    func(c *Config) { c.MaxAge = 0 },
		"no linger":                 func(c *Config) { c.Linger = 0 },
		"no drain":                  func(c *Config) { c.DrainTimeout = -1 },
	} {
		cfg := config()
		spoil(&cfg)
		if _, err := New(cfg, newDesk()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := New(config(), nil); err == nil {
		t.Error("a queue without a settler was accepted")
	}
}

func TestBatchesFormWhileOneIsBeingAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		a := join(t, q, "a")
		first := d.mustNext(t, "a")
		waiting := join(t, q, "bcdefg")
		d.noNext(t) // the first is still being admitted
		if n := q.Depth("s"); n != 6 {
			t.Errorf("%d claims wait, want 6", n)
		}
		for i, ticket := range waiting {
			if p := ticket.Position(); p != int64(i) {
				t.Errorf("%s stands at position %d, want %d", ticket.Claim.User, p, i)
			}
		}
		first.admit()
		first.admit() // again: no effect
		second := d.mustNext(t, "bcde")
		d.noNext(t)
		first.admit() // nor when it is another batch's turn
		d.noNext(t)
		second.admit()
		d.noNext(t) // two are in flight
		first.all(sale.SoldOut)
		wantVerdict(t, a[0], sale.SoldOut)
		third := d.mustNext(t, "fg")
		first.admit()
		third.all(sale.Reserved) // without ever calling admitted
		for _, ticket := range waiting[4:] {
			wantVerdict(t, ticket, sale.Reserved)
		}
		second.all(sale.Reserved)
		for _, ticket := range waiting[:4] {
			wantVerdict(t, ticket, sale.Reserved)
		}
		if n := q.Waiting() + int64(q.Depth("s")); n != 0 {
			t.Errorf("%d claims wait, want none", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestOneSKUDoesNotHoldUpAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		join(t, q, "a")
		stuck := d.mustNext(t, "a")
		join(t, q, "b")
		other, err := q.Join(claimAt("other", "x"), false)
		if err != nil {
			t.Fatal(err)
		}
		d.mustNext(t, "x").all(sale.Reserved)
		wantVerdict(t, other, sale.Reserved)
		stuck.all(sale.Reserved)
		d.mustNext(t, "b").all(sale.Reserved)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestFullQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		join(t, q, "0")
		batch := d.mustNext(t, "0")
		join(t, q, "12345678")
		if _, err := q.Join(claimOf("9"), false); !errors.Is(err, sale.ErrQueueFull) {
			t.Errorf("the ninth to wait: %v", err)
		}
		// A repeat of a claim that waits needs no room.
		again, err := q.Join(claimOf("8"), false)
		if err != nil {
			t.Errorf("a repeat of one that waits: %v", err)
		}
		// 9 wait or are in flight; 7 more make 16 in all SKUs.
		for i := range 7 {
			if _, err := q.Join(claimAt(fmt.Sprint("sku", i), "x"), false); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := q.Join(claimAt("sku8", "x"), false); !errors.Is(err, sale.ErrQueueFull) {
			t.Errorf("the seventeenth of all: %v", err)
		}
		for range 7 {
			d.next().all(sale.Reserved)
		}
		batch.all(sale.SoldOut)
		d.mustNext(t, "1234").all(sale.SoldOut)
		d.mustNext(t, "5678").all(sale.SoldOut)
		wantVerdict(t, again, sale.SoldOut)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestClaimsTimeOut(t *testing.T) {
	const age = 8 * time.Second
	late := func(t *testing.T, tickets ...*sale.Ticket) {
		t.Helper()
		pass(age - time.Millisecond)
		for _, ticket := range tickets {
			wantNothing(t, ticket)
		}
		pass(time.Millisecond)
		for _, ticket := range tickets {
			wantVerdict(t, ticket, sale.TimedOut)
		}
	}
	for name, story := range map[string]func(t *testing.T, q *Queue, d *desk){
		"while slots are taken": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			one.admit()
			join(t, q, "b")
			two := d.mustNext(t, "b")
			two.admit()
			late(t, join(t, q, "cd")...)
			one.all(sale.Reserved)
			two.all(sale.Reserved)
			d.noNext(t)
		},
		"while a batch is being admitted, joined before it began": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "0")
			zero := d.mustNext(t, "0")
			tickets := join(t, q, "abcdef")
			zero.all(sale.Reserved)
			one := d.mustNext(t, "abcd")
			late(t, tickets[4:]...)
			one.all(sale.Reserved)
			d.noNext(t)
		},
		"while a batch is being admitted, joined after it began": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			pass(time.Second)
			late(t, join(t, q, "b")...)
			one.all(sale.Reserved)
			d.noNext(t)
		},
		"one after the other": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			b := join(t, q, "b")
			pass(time.Second)
			c := join(t, q, "c")
			pass(age - time.Second)
			wantVerdict(t, b[0], sale.TimedOut)
			wantNothing(t, c[0])
			one.admit()
			d.mustNext(t, "c").all(sale.Reserved)
			wantVerdict(t, c[0], sale.Reserved)
			one.all(sale.Reserved)
		},
		"already when it joins": func(t *testing.T, q *Queue, d *desk) {
			c := claimOf("a")
			c.QueuedAt -= age.Milliseconds()
			ticket, err := q.Join(c, false)
			if err != nil {
				t.Fatal(err)
			}
			wantVerdict(t, ticket, sale.TimedOut)
			d.noNext(t)
		},
		"and their repeats with them": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			b := join(t, q, "b")
			pass(time.Second)
			again := join(t, q, "b")
			pass(age - time.Second)
			wantVerdict(t, b[0], sale.TimedOut)
			wantVerdict(t, again[0], sale.TimedOut)
			one.all(sale.Reserved)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk()
				q, stop := started(t, config(), d)
				story(t, q, d)
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestRepeatsShareTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		tickets := join(t, q, "aa") // the second joins the first
		first := d.mustNext(t, "a")
		tickets = append(tickets, join(t, q, "a")...) // in flight
		other := claimOf("a")
		other.Hash = sale.HashRequest(2, "")
		own, err := q.Join(other, false)
		if err != nil {
			t.Fatal(err)
		}
		if q.Find(tickets[0].Claim.ID) != tickets[0] || q.Depth("s") != 1 {
			t.Error("another payload must take a place of its own, behind the first")
		}
		order := &sale.Order{User: "a"}
		first.reply <- []sale.Verdict{{Outcome: sale.Reserved, Order: order}}
		synctest.Wait()
		for i, want := range []sale.Outcome{sale.Reserved, sale.Duplicate, sale.Duplicate} {
			if v := <-tickets[i].Verdict(); v.Outcome != want || v.Order != order {
				t.Errorf("the %d. of the same claim got %q, want %q with the order", i+1, v.Outcome, want)
			}
		}
		second := d.mustNext(t, "a")
		if second.claims[0] != other {
			t.Error("the other payload is not in the next batch")
		}
		second.all(sale.Conflict)
		wantVerdict(t, own, sale.Conflict)
		if q.Find(other.ID) != nil {
			t.Error("a claim that was answered is still found")
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestOtherVerdictsAreSharedAsTheyAre(t *testing.T) {
	for _, v := range []sale.Verdict{
		{Outcome: sale.Duplicate, Order: &sale.Order{}}, {Outcome: sale.Conflict}, {Outcome: sale.SoldOut},
		{Outcome: sale.Queued, Order: &sale.Order{}}, {Err: sale.ErrUnavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk()
			q, stop := started(t, config(), d)
			tickets := join(t, q, "aa")
			d.mustNext(t, "a").reply <- []sale.Verdict{v}
			for _, ticket := range tickets {
				if got := <-ticket.Verdict(); got != v {
					t.Errorf("the verdict is %+v, want %+v", got, v)
				}
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRepeatsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		tickets := join(t, q, "a")
		for range maxFollowers {
			tickets = append(tickets, join(t, q, "a")...)
		}
		if _, err := q.Join(claimOf("a"), false); !errors.Is(err, sale.ErrQueueFull) {
			t.Errorf("one repeat too many: %v", err)
		}
		d.mustNext(t, "a").all(sale.SoldOut)
		for _, ticket := range tickets {
			wantVerdict(t, ticket, sale.SoldOut)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestIdleLanesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		lanes := func() int {
			s := q.shard("s")
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.lanes)
		}
		join(t, q, "a")
		batch := d.mustNext(t, "a")
		pass(10 * time.Second)
		if lanes() != 1 {
			t.Error("the lane ended while a batch was in flight")
		}
		batch.all(sale.Reserved)
		pass(999 * time.Millisecond)
		join(t, q, "b")
		d.mustNext(t, "b").all(sale.Reserved)
		if r := q.Rate("s"); r <= 0 {
			t.Errorf("two verdicts make a rate of %f", r)
		}
		pass(999 * time.Millisecond)
		if _, quiet := d.told(); lanes() != 1 || len(quiet) != 0 {
			t.Error("the lane did not linger")
		}
		pass(time.Millisecond)
		if _, quiet := d.told(); lanes() != 0 || len(quiet) != 1 || quiet[0] != "s" {
			t.Errorf("%d lanes after lingering, quiet: %v", lanes(), quiet)
		}
		if q.Rate("s") != 0 || q.Depth("s") != 0 {
			t.Error("a lane that ended has a rate or a depth")
		}
		// And it comes back.
		c := join(t, q, "c")
		d.mustNext(t, "c").all(sale.Reserved)
		wantVerdict(t, c[0], sale.Reserved)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if _, quiet := d.told(); len(quiet) != 2 {
			t.Errorf("the shield was told %d times that the SKU went quiet, want 2", len(quiet))
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		idle, err := q.Join(claimAt("idle", "i"), false)
		if err != nil {
			t.Fatal(err)
		}
		d.mustNext(t, "i").all(sale.Reserved)
		wantVerdict(t, idle, sale.Reserved)
		tickets := join(t, q, "a")
		batch := d.mustNext(t, "a")
		tickets = append(tickets, join(t, q, "bcdef")...)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- stop() }()
		synctest.Wait()
		if _, err := q.Join(claimOf("z"), false); !errors.Is(err, sale.ErrShuttingDown) {
			t.Errorf("joining a queue that drains: %v", err)
		}
		if _, err := q.Join(claimAt("new", "z"), false); !errors.Is(err, sale.ErrShuttingDown) {
			t.Errorf("joining a new SKU's queue that drains: %v", err)
		}
		pass(time.Second)
		batch.all(sale.Reserved)
		d.mustNext(t, "bcde").all(sale.Reserved)
		d.mustNext(t, "f").all(sale.Reserved)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("draining took %s, want 1s: it waits for verdicts only", took)
		}
		for _, ticket := range tickets {
			wantVerdict(t, ticket, sale.Reserved)
		}
		if _, quiet := d.told(); len(quiet) != 2 {
			t.Errorf("quiet: %v, want both SKUs", quiet)
		}
	})
}

func TestDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		tickets := join(t, q, "abcdefg") // the desk answers none of them
		synctest.Wait()
		began := time.Now()
		if err := stop(); err == nil {
			t.Error("a drain that timed out must say so")
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("draining took %s, want the timeout of 5s", took)
		}
		for _, ticket := range tickets {
			wantErr(t, ticket, sale.ErrShuttingDown)
		}
	})
}

func TestRunWithoutClaimsEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, stop := started(t, config(), newDesk())
		began := time.Now()
		if err := stop(); err != nil || time.Since(began) != 0 {
			t.Errorf("an idle queue took %s to end: %v", time.Since(began), err)
		}
	})
}

func TestVerdictsNobodyReadsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		for _, u := range "0" {
			join(t, q, string(u))
		}
		gate := d.mustNext(t, "0")
		join(t, q, "a") // waits for its verdict
		if _, err := q.Join(claimOf("b"), true); err != nil {
			t.Fatal(err)
		}
		left := join(t, q, "c")[0]
		left.Detach() // the waiter went away
		join(t, q, "d")
		if _, err := q.Join(claimOf("d"), true); err != nil { // a repeat nobody waits for
			t.Fatal(err)
		}
		gate.all(sale.Reserved)
		d.mustNext(t, "abcd").reply <- []sale.Verdict{
			{Outcome: sale.SoldOut}, {Outcome: sale.SoldOut}, {Outcome: sale.LimitReached}, {Outcome: sale.Closed},
		}
		synctest.Wait()
		if got, _ := d.told(); got != "b:sold_out c:limit_reached d:closed" {
			t.Errorf("remembered: %s", got)
		}
		// Only refusals are: an order stands in the ledger, an error decided nothing.
		for _, u := range "efg" {
			if _, err := q.Join(claimOf(string(u)), true); err != nil {
				t.Fatal(err)
			}
			batch := d.next()
			batch.reply <- []sale.Verdict{map[rune]sale.Verdict{
				'e': {Outcome: sale.Reserved}, 'f': {Err: sale.ErrUnavailable}, 'g': {Outcome: sale.Duplicate},
			}[u]}
		}
		synctest.Wait()
		if got, _ := d.told(); got != "" {
			t.Errorf("remembered: %s", got)
		}
		// A claim that timed out is one as well.
		join(t, q, "h")
		gate = d.mustNext(t, "h")
		if _, err := q.Join(claimOf("i"), true); err != nil {
			t.Fatal(err)
		}
		pass(8 * time.Second)
		if got, _ := d.told(); got != "i:timeout" {
			t.Errorf("remembered: %s", got)
		}
		gate.all(sale.Reserved)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
