package gateway

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// Marks reach the shield for claims that still wait, and never for decided ones.
func TestMarks(t *testing.T) {
	r := serve(t, nil)
	for _, user := range []string{"ann", "bob"} {
		raw := strings.Replace(post, "ann", user, 1) + "Idempotency-Key: k\r\nPrefer: respond-async\r\n\r\n"
		if status, body, _ := r.send(t, raw); status != 202 {
			t.Fatalf("%d %s", status, body)
		}
		id := sale.DeriveOrderID("phone", user, "k")
		testenv.Eventually(t, func() bool { return r.shield.has(id) }, "%s's mark", user)
	}
	r.queue.answer(sale.Verdict{Outcome: sale.SoldOut}) // decided at once: in no line
	decided := sale.DeriveOrderID("phone", "cat", "k")
	raw := strings.Replace(post, "ann", "cat", 1) + "Idempotency-Key: k\r\nPrefer: respond-async\r\n\r\n"
	if status, _, _ := r.send(t, raw); status != 202 {
		t.Fatal("not queued")
	}
	testenv.Eventually(t, func() bool { return len(r.g.marks.pending) == 0 }, "the writer has looked")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if r.shield.has(decided) {
		t.Error("a decided claim was marked as queued")
	}
}

// slowShield decides claims while their marks are on the way, and remembers the refusal
// first: the mark must not hide it.
type slowShield struct {
	fakeShield
	decide func()
}

func (s *slowShield) Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error {
	if decide := s.decide; decide != nil {
		s.decide = nil
		decide()
	}
	return s.fakeShield.Remember(ctx, orders, ttl)
}

func TestMarkDoesNotHideARefusal(t *testing.T) {
	claim := &sale.Claim{ID: sale.OrderID{1}, SKU: "phone", User: "ann", Quantity: 1}
	ticket := sale.NewTicket(claim, 1, new(atomic.Int64))
	shield := &slowShield{fakeShield: fakeShield{kept: map[sale.OrderID]sale.Order{}}}
	shield.decide = func() {
		ticket.Resolve(sale.Verdict{Outcome: sale.LimitReached})
		_ = shield.fakeShield.Remember(t.Context(), []sale.Order{sale.Rejected(claim, sale.LimitReached)}, time.Minute)
	}
	w := newWorld(t, nil)
	m := w.g.marks
	m.shield = shield
	m.write(t.Context(), m.collect(nil, ticket))
	if o := shield.kept[claim.ID]; o.Status != sale.StatusRejected || o.Reason != "limit_reached" {
		t.Errorf("remembered: %v %q", o.Status, o.Reason)
	}
}

func TestMarksNeverBlock(t *testing.T) {
	w := newWorld(t, nil)
	for range maxMarks + 100 { // nobody writes them: the gateway does not run
		if r := w.buyer(t, purchase("", "Prefer", "respond-async")); r.status != 202 {
			t.Fatal(r.status)
		}
	}
	if len(w.g.marks.pending) != maxMarks {
		t.Errorf("%d marks are pending", len(w.g.marks.pending))
	}
}
