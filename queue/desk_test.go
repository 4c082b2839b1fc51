package queue

import (
	"context"
	"errors"
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
		Capacity: 8, MaxBatch: 4, Inflight: 2,
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

// started is a queue that runs, of 16 claims in all; its end drains it and checks that
// nothing is left.
func started(t *testing.T, cfg Config, s Settler, change ...func(*Queue)) (*Queue, func() error) {
	t.Helper()
	q, err := New(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	q.maxWaiting = 16
	for _, fn := range change {
		fn(q)
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

// wantVerdict reads the verdict that must be there already.
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
