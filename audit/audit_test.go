package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"flashgate/sale"
)

func TestNothingIsFoundWhereNothingIsWrong(t *testing.T) {
	w := newWorld()
	w.fill(60)
	w.publish(40)
	w.ack(20)
	for _, most := range []int{2, 7, 1000} {
		f, r := found(t, w.auditor(t, func(a *Auditor) { a.cfg.MaxOrders = most }))
		if len(f) != 0 || !r.OK() || r.Orders != 60 || r.SKUs != 1 {
			t.Errorf("%d orders in memory: %v, %+v", most, f, r)
		}
		if want := int64(len(w.stream) + len(w.outbox)); r.Events != want {
			t.Errorf("%d events, want %d", r.Events, want)
		}
	}
}

// counted counts how often the stream is read.
type counted struct {
	streamed
	passes *int
}

func (c counted) EachEvent(ctx context.Context, first, last uint64, fn func(sale.Kind, []sale.Order, uint64) error) error {
	*c.passes++
	return c.streamed.EachEvent(ctx, first, last, fn)
}

// Orders of one SKU, whose ids begin alike, are read in few passes however few are in
// memory at once.
func TestPassesFollowTheOrders(t *testing.T) {
	w := newWorld()
	w.fill(200)
	w.publishAll()
	passes := 0
	f, r := found(t, w.auditor(t, func(a *Auditor) { a.cfg.MaxOrders, a.results = 20, counted{streamed{w}, &passes} }))
	if len(f) != 0 || r.Orders != 200 {
		t.Errorf("%v, %+v", f, r)
	}
	if passes < 200/20 || passes > 2*200/20+1 {
		t.Errorf("%d passes over the stream", passes)
	}
}

// TestEachCheckFindsItsOwn breaks one thing at a time, with everything else in order.
func TestEachCheckFindsItsOwn(t *testing.T) {
	drop := func(w *world, kind sale.Kind, id sale.OrderID) {
		for i, m := range w.stream {
			if m.kind == kind && m.orders[0].ID == id {
				w.stream = append(w.stream[:i:i], w.stream[i+1:]...)
				return
			}
		}
		t.Fatalf("%s of %s is not on the stream", kind, id)
	}
	tests := []struct {
		name, check string
		how         func(w *world, all []sale.Order)
		none        bool // there is nothing to find
	}{
		{"an order that was not published", "results_published", func(w *world, all []sale.Order) { drop(w, sale.KindReserved, all[0].ID) }, false},
		{"a payment that was not", "results_published", func(w *world, all []sale.Order) { drop(w, sale.KindPaid, all[1].ID) }, false},
		{"the inventory that was not told", "results_published", func(w *world, all []sale.Order) { drop(w, sale.KindInventoryDeduct, all[1].ID) }, false},
		{"a coupon that was not redeemed", "results_published", func(w *world, all []sale.Order) { drop(w, sale.KindCouponRedeem, all[1].ID) }, false},
		{"a coupon that was not released", "results_published", func(w *world, all []sale.Order) { drop(w, sale.KindCouponRelease, all[3].ID) }, true},
		{"a coupon that was not released of an order that ended", "results_published", func(w *world, _ []sale.Order) {
			o := w.change(w.reserve("TEN"), sale.StatusExpired)
			w.publishAll()
			drop(w, sale.KindCouponRelease, o.ID)
		}, false},
		{"a cancellation that was not published", "results_published", func(w *world, all []sale.Order) { drop(w, sale.KindCancelled, all[2].ID) }, false},
		{"an end before a late payment that was not", "results_published", func(w *world, all []sale.Order) { drop(w, sale.KindExpired, all[3].ID) }, false},
		{"an order the ledger lost", "results_known", func(w *world, all []sale.Order) { delete(w.orders, all[0].ID); w.sold--; w.copies[0].Left++ }, false},
		{"a payment the ledger lost", "results_known", func(w *world, all []sale.Order) {
			o := all[1]
			o.Status, o.Version = sale.StatusReserved, 1
			w.orders[o.ID] = o
		}, false},
		{"an outbox row of no order", "results_known", func(w *world, _ []sale.Order) {
			o := w.reserve("")
			delete(w.orders, o.ID)
			w.sold--
			w.copies[0].Left++
		}, false},
		{"events in the wrong order", "results_order", func(w *world, all []sale.Order) {
			drop(w, sale.KindReserved, all[1].ID)
			o := all[1]
			o.Status, o.Version = sale.StatusReserved, 1
			w.stream = append(w.stream, message{sale.KindReserved, []sale.Order{o}})
		}, false},
		{"an end behind a payment", "results_order", func(w *world, all []sale.Order) {
			drop(w, sale.KindExpired, all[3].ID)
			o := all[3]
			o.Status, o.Version = sale.StatusExpired, 2
			w.stream = append(w.stream, message{sale.KindExpired, []sale.Order{o}})
		}, false},
		{"events that come again", "", func(w *world, _ []sale.Order) { w.stream = append(w.stream, w.stream...) }, true},
		{"a message that is none", "results_messages", func(w *world, _ []sale.Order) { w.stream = append(w.stream, message{}) }, false},
		{"an outbox row that is none", "results_messages", func(w *world, _ []sale.Order) { w.outbox = append(w.outbox, message{}) }, false},
		{"a shield that is too high", "shield_units", func(w *world, _ []sale.Order) { w.copies[0].Left += 3 }, false},
		{"a shield that is too low", "shield_units", func(w *world, _ []sale.Order) { w.copies[0].Left -= 3 }, false},
		{"a cold SKU's copy", "", func(w *world, _ []sale.Order) { w.copies[0].Left += 3; w.heat = sale.HeatCold }, true},
		{"units promised to the backlog", "", func(w *world, _ []sale.Order) { w.copies[0].Left -= 3; w.parked = 3 }, true},
		{"a copy being loaded", "", func(w *world, _ []sale.Order) { w.copies = nil }, true},
		{"units on their way", "", func(w *world, _ []sale.Order) {
			w.copies[0].Left--
			w.copies[0].Tentative = append(w.copies[0].Tentative, sale.Tentative{ID: sale.OrderID{1}, Quantity: 1, Age: time.Second})
		}, true},
		{"an order that is still tentative", "", func(w *world, all []sale.Order) {
			w.copies[0].Tentative = append(w.copies[0].Tentative, sale.Tentative{ID: all[0].ID, Quantity: 1, Age: time.Second})
		}, true},
		{"units forgotten by a gateway that died", "shield_tentative", func(w *world, _ []sale.Order) {
			w.copies[0].Left--
			w.copies[0].Tentative = append(w.copies[0].Tentative, sale.Tentative{ID: sale.OrderID{1}, Quantity: 1, Age: 17 * time.Second})
		}, false},
		{"a refund that nobody was told of", "results_refunds", func(w *world, all []sale.Order) {
			w.refunds = append(w.refunds, sale.Refund{OrderID: all[0].ID, EventID: "payment", At: all[0].ReservedAt})
		}, false},
		{"a stream that is not as configured", "results_streams", func(w *world, _ []sale.Order) { w.differs = []string{"it has 1 replicas"} }, false},
		{"what the ledger finds itself", "stock_sold", func(w *world, _ []sale.Order) {
			w.checks = append(w.checks, sale.Checked{Check: "stock_sold", Promise: "p", Findings: []sale.Finding{{Check: "stock_sold", SKU: "shoe", Detail: "d"}}})
		}, false},
	}
	covered := map[string]bool{"stock_sold": true}
	for _, tc := range tests {
		for _, most := range []int{3, 1000} {
			w := newWorld()
			all := w.fill(24)
			w.publishAll()
			tc.how(w, all)
			f, r := found(t, w.auditor(t, func(a *Auditor) { a.cfg.MaxOrders = most }))
			if tc.none && len(f) != 0 || !tc.none && (len(f) != 1 || f[tc.check] != 1) {
				t.Errorf("%s (%d in memory): found %v", tc.name, most, f)
			}
			covered[tc.check] = true
			if warns := strings.HasPrefix(tc.check, "shield_") || tc.check == "results_streams"; r.OK() != (warns || tc.none) || r.Warned() != warns {
				t.Errorf("%s: ok %v, warned %v", tc.name, r.OK(), r.Warned())
			}
			for _, c := range r.Checks {
				if c.Promise == "" {
					t.Errorf("%s promises nothing", c.Check)
				}
			}
		}
	}
	_, r := found(t, newWorld().auditor(t))
	for _, c := range r.Checks {
		if !covered[c.Check] {
			t.Errorf("no test breaks %s", c.Check)
		}
	}
}

// TestWhatIsOnItsWayIsNotFound has the world move on at every read: orders are made,
// changed, published and forgotten by the outbox, and the shield hears late.
func TestWhatIsOnItsWayIsNotFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		w.total = 100_000
		w.copies[0].Left = w.total
		made := w.fill(rapid.IntRange(0, 30).Draw(rt, "orders"))
		w.publish(len(w.outbox) / 2)
		// One look is enough as long as nobody gives units back.
		ends := rapid.IntRange(1, 2).Draw(rt, "ends")
		looks := []int{1, 5}[ends-1]
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		sent := len(w.stream)
		var open []sale.Order // made, and not yet told to the shield
		pick := func() sale.Order {
			if len(made) == 0 {
				return sale.Order{}
			}
			return w.orders[made[rng.IntN(len(made))].ID]
		}
		w.step = func() {
			switch rng.IntN(6) {
			case 0:
				// A claim: tentative in the shield, then committed, then settled.
				o := w.reserve("")
				open, made = append(open, o), append(made, o)
				w.copies[0].Tentative = append(w.copies[0].Tentative, sale.Tentative{ID: o.ID, Quantity: 1})
			case 1:
				if o := pick(); o.Status == sale.StatusReserved {
					w.change(o, []sale.Status{sale.StatusPaid, sale.StatusCancelled}[rng.IntN(ends)])
				}
			case 2:
				if sent < len(w.outbox) {
					n := 1 + rng.IntN(len(w.outbox)-sent)
					w.stream = append(w.stream, w.outbox[sent:sent+n]...)
					sent += n
				}
			case 3:
				if sent > 0 {
					n := 1 + rng.IntN(sent)
					w.ack(n)
					sent -= n
				}
			case 4:
				if len(open) > 0 {
					open = open[1:]
					w.copies[0].Tentative = w.copies[0].Tentative[1:]
				}
			}
		}
		most := rapid.SampledFrom([]int{2, 10, 1000}).Draw(rt, "most")
		f, _ := found(t, w.auditor(t, func(a *Auditor) { a.cfg.MaxOrders, a.looks = most, looks }))
		if len(f) != 0 {
			rt.Fatalf("found %v", f)
		}
	})
}

// TestADroppedBeginning: what aged out of the stream is not missed, what came later is.
func TestADroppedBeginning(t *testing.T) {
	w := newWorld()
	all := w.fill(24)
	w.publishAll()
	// The stream begins behind the first twelve orders' events.
	for i, m := range w.stream {
		if m.orders[0].ID == all[12].ID {
			w.dropped = i
			break
		}
	}
	w.since = all[12].ReservedAt - clockSlack
	if f, _ := found(t, w.auditor(t)); len(f) != 0 {
		t.Errorf("found %v", f)
	}
	w.stream = append(w.stream[:w.dropped:w.dropped], w.stream[w.dropped+1:]...)
	if f, _ := found(t, w.auditor(t)); len(f) != 1 || f["results_published"] == 0 {
		t.Errorf("found %v", f)
	}
}

func TestFindingsAreBounded(t *testing.T) {
	w := newWorld()
	w.fill(30)
	w.publishAll()
	w.stream = nil
	for bound, more := range map[int]bool{5: true, 29: true, 30: false} {
		f, r := found(t, w.auditor(t, func(a *Auditor) { a.findings = bound }))
		if f["results_published"] != bound {
			t.Errorf("%v", f)
		}
		for _, c := range r.Checks {
			if c.More != (more && c.Check == "results_published") {
				t.Errorf("%s, bound %d: more %v", c.Check, bound, c.More)
			}
		}
	}
}

// TestPartsThatAreAway: an audit that could not look does not say that all is well.
func TestPartsThatAreAway(t *testing.T) {
	gone := fmt.Errorf("%w: gone", sale.ErrUnavailable)
	for part, want := range map[string]struct {
		notMade int
		ok      bool
	}{"nats": {8, false}, "redis": {2, true}} {
		w := newWorld()
		w.fill(6)
		w.away[part] = gone
		f, r := found(t, w.auditor(t))
		notMade := 0
		for _, c := range r.Checks {
			if c.notMade != "" {
				notMade++
			}
		}
		if r.OK() != want.ok || notMade != want.notMade || len(f) != want.notMade {
			t.Errorf("%s: ok %v, %v", part, r.OK(), f)
		}
	}
	w := newWorld()
	w.away["ledger"] = gone
	if _, err := w.auditor(t).Audit(context.Background(), sale.AuditPosition{}); !errors.Is(err, sale.ErrUnavailable) {
		t.Error(err)
	}
	a, err := New(Config{MaxOrders: 2}, newWorld(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f, r := found(t, a); len(f) != 8 || !r.OK() || !r.Warned() {
		t.Errorf("%v", f)
	}
	if _, err := New(Config{MaxOrders: 2}, nil, nil, nil); err == nil {
		t.Error("no ledger, no error")
	}
	if _, err := New(Config{}, newWorld(), nil, nil); err == nil {
		t.Error("no room for orders, no error")
	}
}

func TestAnEndedContextEndsTheAudit(t *testing.T) {
	w := newWorld()
	w.fill(6)
	ctx, cancel := context.WithCancel(context.Background())
	w.step = cancel
	r, err := w.auditor(t).Audit(ctx, sale.AuditPosition{})
	if err != nil || r.OK() {
		t.Errorf("%+v, %v", r, err)
	}
	a := w.auditor(t)
	a.turn <- struct{}{} // another one is under way
	if _, err := a.Audit(ctx, sale.AuditPosition{}); !errors.Is(err, sale.ErrUnavailable) {
		t.Error(err)
	}
}

func TestReport(t *testing.T) {
	id := sale.DeriveOrderID("shoe", "ann", "k")
	r := Report{At: began, Orders: 7, Checks: []Check{
		{Checked: sale.Checked{Check: "fine", Promise: "p"}},
		{Checked: sale.Checked{Check: "one", Promise: "p", More: true, Findings: []sale.Finding{
			{SKU: "shoe", Detail: "a"}, {OrderID: id, Detail: "b"}, {SKU: "shoe", OrderID: id, Detail: `c "x"`}, {Detail: "d"},
		}}},
		{Checked: sale.Checked{Check: "two", Promise: "p"}, notMade: "nats is away"},
		{Checked: sale.Checked{Check: "three", Promise: "p", Findings: []sale.Finding{{SKU: "shoe", Detail: "e"}}}, warning: true},
	}}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := "one: sku shoe: a\none: order " + id.String() + ": b\none: sku shoe, order " + id.String() + ": c \"x\"\none: d\none: and more\n" +
		"two: not checked: nats is away\nwarning: three: sku shoe: e\n" +
		"NOT OK: 4 checks, 1 broken, 1 not made, 1 with warnings; 7 orders, 0 events, 0 SKUs in the shield\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	var doc struct {
		OK     bool   `json:"ok"`
		At     string `json:"at"`
		Checks []struct {
			Name, Level string
			OK          bool
			More        bool
			NotMade     string `json:"not_made"`
			Findings    []struct {
				SKU     string `json:"sku"`
				OrderID string `json:"order_id"`
				Detail  string
			}
		}
	}
	if err := json.Unmarshal(r.AppendJSON(nil), &doc); err != nil {
		t.Fatal(err)
	}
	one := doc.Checks[1]
	if doc.OK || doc.At != "2023-11-14T22:13:20.000Z" || len(doc.Checks) != 4 || !doc.Checks[0].OK || doc.Checks[0].Findings == nil ||
		one.Name != "one" || one.OK || !one.More || one.Findings[2].OrderID != id.String() || one.Findings[2].SKU != "shoe" || one.Findings[2].Detail != `c "x"` ||
		doc.Checks[2].NotMade == "" || doc.Checks[2].OK || doc.Checks[3].Level != "warning" || doc.Checks[3].OK {
		t.Errorf("%s", r.AppendJSON(nil))
	}
	r.Checks = r.Checks[:1]
	if !r.OK() || r.Warned() {
		t.Error("not ok")
	}
}

// The stream is at its age limit, so that its beginning goes while it is read in several
// passes: what was told and has gone is no finding, and what was never told still is one.
func TestTheStreamAgesAwayMeanwhile(t *testing.T) {
	w := newWorld()
	orders := w.fill(400)
	w.publishAll()
	lost := orders[len(orders)-1]
	for i, m := range w.stream {
		if m.kind == sale.KindReserved && m.orders[0].ID == lost.ID {
			w.stream = append(w.stream[:i:i], w.stream[i+1:]...)
			break
		}
	}
	for w.stream[w.dropped].orders[0].ReservedAt < began+10_000 {
		w.dropped++
	}
	w.since = w.stream[w.dropped].orders[0].ReservedAt
	at := w.since
	w.step = func() {
		at += 100
		for w.dropped < len(w.stream)-1 && w.stream[w.dropped].orders[0].ReservedAt < at {
			w.dropped++
		}
	}
	got, r := found(t, w.auditor(t, func(a *Auditor) { a.cfg.MaxOrders = 40 }))
	for i := range r.Checks {
		for _, f := range r.Checks[i].Findings {
			if f.OrderID != lost.ID {
				t.Errorf("%s: %+v", r.Checks[i].Check, f)
			}
		}
	}
	t.Logf("%v", got)
}

// A refund that nobody was told of is found; one that waits in the outbox, is on the stream,
// or may have aged away is not.
func TestRefundsAreTold(t *testing.T) {
	w := newWorld()
	o := w.change(w.reserve(""), sale.StatusPaid)
	refund := func(payment string, at int64, tell bool) {
		w.refunds = append(w.refunds, sale.Refund{OrderID: o.ID, EventID: payment, At: at})
		if tell {
			told := o
			told.Payment = payment
			w.outbox = append(w.outbox, message{sale.KindPaymentRefund, []sale.Order{told}})
		}
	}
	refund("one", began, true)
	w.publishAll()
	refund("two", began, true)
	if got, _ := found(t, w.auditor(t)); len(got) != 0 {
		t.Errorf("all are told: %v", got)
	}
	refund("three", began, false)
	got, r := found(t, w.auditor(t))
	if len(got) != 1 || got["results_refunds"] != 1 {
		t.Errorf("one is not: %v, %+v", got, r)
	}
	w.since = began
	if got, _ := found(t, w.auditor(t)); got["results_refunds"] != 0 {
		t.Errorf("what may have aged away: %v", got)
	}
}
