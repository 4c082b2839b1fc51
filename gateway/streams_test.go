package gateway

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// join opens a stream without a connection.
func (w *world) join(s *standing) (*stream, answer) {
	e := &stream{g: w.g, at: nowhere - 1}
	return e, w.g.streams.join(e, s, s.order.User)
}

// follow has n orders followed, each of a buyer of its own.
func (w *world) follow(t testing.TB, n int) (streams []*stream) {
	t.Helper()
	for i := range n {
		user := fmt.Sprint("u", i)
		c := &sale.Claim{ID: sale.DeriveOrderID("phone", user, "k"), SKU: "phone", User: user, Quantity: 1}
		o := w.ledger.put(sale.NewOrder(c, testSKU("phone"), 0, testNow), sale.StatusReserved)
		e, a := w.join(&standing{order: o})
		if a != answerOK {
			t.Fatal(a)
		}
		streams = append(streams, e)
	}
	return streams
}

// However many orders are followed, one read in a period asks for so many of them and
// no more, and all have their turn.
func TestWatchIsBounded(t *testing.T) {
	const followed = 3*readMost + 17
	w := newWorld(t, nil)
	w.follow(t, followed)
	asked := map[sale.OrderID]int{}
	for range 4 {
		for tick := 1; tick <= watchPeriod; tick++ {
			w.g.streams.look(time.Now(), tick == watchPeriod)
		}
	}
	if len(w.ledger.finds) != 4 {
		t.Errorf("%d reads in four periods", len(w.ledger.finds))
	}
	for _, ids := range w.ledger.finds {
		if len(ids) > readMost {
			t.Errorf("a read of %d orders", len(ids))
		}
		for _, id := range ids {
			asked[id]++
		}
	}
	if len(asked) != followed {
		t.Errorf("%d of %d orders were asked for", len(asked), followed)
	}
}

func (w *world) finds() int {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	return len(w.ledger.finds)
}

// Claims that wait here cost no read; one that left the line is asked for at once, and
// with every tick until its verdict is there.
func TestWatchOfALine(t *testing.T) {
	w := newWorld(t, nil)
	claim := annsClaim()
	ticket, _ := w.queue.Join(claim, true)
	e, _ := w.join(&standing{sale.QueuedOrder(claim), ticket})
	now := time.Unix(0, 0)
	for range 10 {
		w.g.streams.look(now, true)
	}
	if w.finds() != 0 {
		t.Errorf("%d reads for a claim that waits here", w.finds())
	}
	w.queue.forget(claim.ID)
	for i := range 3 {
		now = now.Add(watchTick)
		if w.g.streams.look(now, false); w.finds() != i+1 {
			t.Errorf("%d reads after %d ticks", w.finds(), i+1)
		}
	}
	o := w.sold()
	w.g.streams.look(now, false)
	if n := w.g.streams.news(e); n.order.Status != sale.StatusReserved || n.order.ID != o.ID || len(e.wake) != 1 {
		t.Errorf("%+v", n.order)
	}
	if w.g.streams.look(now, false); w.finds() != 4 {
		t.Error("an order with its verdict is asked for with every tick")
	}
}

// A claim that nobody knows counts as lost after a while, unless the shield is away,
// which could know it. Who is told so and asks again is told what is known then.
func TestWatchOfALostClaim(t *testing.T) {
	w := newWorld(t, nil)
	claim := annsClaim()
	ticket, _ := w.queue.Join(claim, true)
	found := standing{sale.QueuedOrder(claim), ticket}
	e, _ := w.join(&found)
	w.queue.forget(claim.ID)
	now := time.Unix(0, 0)
	lost := func(d time.Duration) bool {
		for end := now.Add(d); now.Before(end); now = now.Add(watchTick) {
			w.g.streams.look(now, true)
		}
		return w.g.streams.news(e).lost
	}
	w.shield.err = errElse
	if lost(time.Minute) {
		t.Error("lost, while the shield is away")
	}
	w.shield.err = nil
	w.ledger.fail(sale.ErrUnavailable)
	if lost(time.Minute) {
		t.Error("lost, while the ledger is away")
	}
	w.ledger.fail(nil)
	if lost(lostAfter) {
		t.Error("lost too soon")
	}
	w.shield.keep(sale.QueuedOrder(claim)) // it has reached the backlog
	if lost(lostAfter) {
		t.Error("lost, though it is queued elsewhere")
	}
	delete(w.shield.kept, claim.ID)
	if lost(lostAfter); !lost(2 * watchTick) {
		t.Error("not lost, though nobody knows it")
	}
	if b := string(e.appendNews(nil, &news{order: &found.order, lost: true})); b != "event: problem\ndata: "+string(w.g.problems[unknownOrder])+"\n\n" {
		t.Error(b)
	}
	found.ticket = nil
	if other, _ := w.join(&found); w.g.streams.news(other).lost {
		t.Error("lost, though it was found just now")
	}
}

// What is older than what a stream knows changes nothing: versions only rise, an order
// is never queued again, and a refusal does not follow it.
func TestLearn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		claim := annsClaim()
		queued := sale.QueuedOrder(claim)
		w := &watched{id: claim.ID, user: claim.User, order: &queued, position: nowhere}
		history := []sale.Status{sale.StatusReserved, sale.StatusExpired, sale.StatusPaid}
		var newest int64
		for range rapid.IntRange(1, 20).Draw(t, "news") {
			o := queued
			switch n := rapid.IntRange(-1, len(history)).Draw(t, "what"); n {
			case -1:
			case 0:
				if newest > 0 || w.order.Status == sale.StatusRejected {
					o = sale.Rejected(claim, sale.SoldOut)
				}
			default:
				o.Status, o.Version = history[n-1], int64(n)
				newest = max(newest, o.Version)
			}
			w.learn(&o)
			if w.order.Version != newest || (newest > 0 && w.order.Status != history[newest-1]) {
				t.Fatalf("knows %v %d, the newest is %d", w.order.Status, w.order.Version, newest)
			}
		}
	})
}

// Whoever joins and leaves, in whatever order, the books are right.
func TestStreamsBooks(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(outer, nil)
		w.g.streams.most, w.g.streams.mostPerUser = 12, 4
		var open []*stream
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(open) > 0 && rapid.Bool().Draw(t, "leaves") {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				w.g.streams.leave(open[i])
				w.g.streams.leave(open[i])
				open = append(open[:i:i], open[i+1:]...)
			} else {
				user := fmt.Sprint("u", rapid.IntRange(0, 4).Draw(t, "user"))
				key := fmt.Sprint("k", rapid.IntRange(0, 2).Draw(t, "key"))
				c := &sale.Claim{ID: sale.DeriveOrderID("phone", user, key), SKU: "phone", User: user, Quantity: 1}
				of := 0
				for _, e := range open {
					if e.of.user == user {
						of++
					}
				}
				want := answerOK
				switch {
				case len(open) >= 12:
					want = unavailable
				case of >= 4:
					want = rateLimited
				}
				e, a := w.join(&standing{order: sale.NewOrder(c, testSKU("phone"), 0, testNow)})
				if a != want {
					t.Fatalf("with %d streams, %d of them the user's: %d, want %d", len(open), of, a, want)
				}
				if a == answerOK {
					open = append(open, e)
				}
			}
			w.g.streams.look(time.Now(), rapid.Bool().Draw(t, "whole"))
			w.checkBooks(t, open)
		}
		for _, e := range open {
			w.g.streams.leave(e)
		}
		w.checkBooks(t, nil)
	})
}

func (w *world) checkBooks(t *rapid.T, open []*stream) {
	s := w.g.streams
	orders, users := map[sale.OrderID]int{}, map[string]int{}
	for _, e := range open {
		orders[e.of.id]++
		users[e.of.user]++
	}
	if s.open != len(open) || len(s.orders) != len(orders) || len(s.round) != len(orders) || len(s.users) != len(users) {
		t.Fatalf("%d streams of %d orders: %d %d %d %d", len(open), len(orders), s.open, len(s.orders), len(s.round), len(s.users))
	}
	for i, o := range s.round {
		if o.index != i || s.orders[o.id] != o || len(o.streams) != orders[o.id] {
			t.Fatalf("order %d of the round is at %d, with %d streams", i, o.index, len(o.streams))
		}
	}
	for user, n := range users {
		if s.users[user] != n {
			t.Fatalf("%s has %d streams, not %d", user, n, s.users[user])
		}
	}
}
