package queue

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

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

func TestVerdictsNobodyReadsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		join(t, q, "0")
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
