package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

func TestGetOrder(t *testing.T) {
	id := sale.DeriveOrderID("phone", "ann", "k")
	claim := &sale.Claim{ID: id, SKU: "phone", User: "ann", Quantity: 1}
	order := sale.NewOrder(claim, testSKU("phone"), 0, testNow)
	waits := func(w *world) { _, _ = w.queue.Join(claim, true) }
	mark := func(status sale.Status, reason string) func(*world) {
		return func(w *world) {
			o := sale.QueuedOrder(claim)
			o.Status, o.Reason = status, reason
			w.shield.kept[id] = o
		}
	}
	row := func(w *world) { w.ledger.orders[id] = order }
	ledgerAway := func(w *world) { w.ledger.err = sale.ErrUnavailable }
	shieldAway := func(w *world) { w.shield.err = errElse }
	for name, x := range map[string]struct {
		world  []func(*world)
		user   string
		status int
		want   string // code or status
	}{
		"row":                           {[]func(*world){row}, "ann", 200, "reserved"},
		"row of another":                {[]func(*world){row}, "bob", 404, "unknown_order"},
		"row and ticket of a repeat":    {[]func(*world){row, waits}, "ann", 200, "reserved"},
		"waits here":                    {[]func(*world){waits}, "ann", 200, "queued"},
		"waits here for another":        {[]func(*world){waits}, "bob", 404, "unknown_order"},
		"waits elsewhere":               {[]func(*world){mark(sale.StatusQueued, "")}, "ann", 200, "queued"},
		"waits elsewhere for another":   {[]func(*world){mark(sale.StatusQueued, "")}, "bob", 404, "unknown_order"},
		"rejected":                      {[]func(*world){mark(sale.StatusRejected, "sold_out")}, "ann", 200, "rejected"},
		"rejected, of another":          {[]func(*world){mark(sale.StatusRejected, "sold_out")}, "bob", 404, "unknown_order"},
		"rejected, then ordered":        {[]func(*world){mark(sale.StatusRejected, "sold_out"), row}, "ann", 200, "reserved"},
		"nothing known":                 {nil, "ann", 404, "unknown_order"},
		"nothing known, shield away":    {[]func(*world){shieldAway}, "ann", 404, "unknown_order"},
		"ledger away":                   {[]func(*world){ledgerAway}, "ann", 503, "unavailable"},
		"ledger away, waits here":       {[]func(*world){waits, ledgerAway}, "ann", 200, "queued"},
		"ledger away, waits elsewhere":  {[]func(*world){mark(sale.StatusQueued, ""), ledgerAway}, "ann", 200, "queued"},
		"ledger away, rejected earlier": {[]func(*world){mark(sale.StatusRejected, "sold_out"), ledgerAway}, "ann", 503, "unavailable"},
		"both away":                     {[]func(*world){ledgerAway, shieldAway}, "ann", 503, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			for _, f := range x.world {
				f(w)
			}
			r := w.buyer(t, call{method: "GET", path: "/v1/orders/" + id.String(), header: []string{"X-User-ID", x.user}})
			if x.status != 200 {
				r.check(t, x.status, x.want)
				return
			}
			if r.status != 200 || r.json["status"] != x.want || r.json["order_id"] != id.String() || r.header("Cache-Control") != "no-store" {
				t.Fatalf("%d %s", r.status, r.body)
			}
			if x.want == "queued" && r.header("Retry-After") == "" {
				t.Error("queued, and no Retry-After")
			}
			if x.want == "rejected" && r.json["reason"] != "sold_out" {
				t.Error("rejected, and no reason")
			}
			if here := strings.HasSuffix(name, "waits here"); (r.json["position"] == 0.0) != here {
				t.Errorf("position is %v", r.json["position"])
			}
		})
	}
}

// stuckLedger answers nothing until the caller gives up.
type stuckLedger struct{ *fakeLedger }

func (stuckLedger) Order(ctx context.Context, _ sale.OrderID) (sale.Order, error) {
	<-ctx.Done()
	return sale.Order{}, fmt.Errorf("%w: %w", sale.ErrUnavailable, ctx.Err())
}

func (stuckLedger) Cancel(ctx context.Context, _ sale.OrderID, _ string) (sale.Order, error) {
	<-ctx.Done()
	return sale.Order{}, fmt.Errorf("%w: %w", sale.ErrUnavailable, ctx.Err())
}

// pickyShield does not answer who has no time left.
type pickyShield struct{ *fakeShield }

func (s pickyShield) Recall(ctx context.Context, id sale.OrderID) (sale.Order, bool, error) {
	if ctx.Err() != nil {
		return sale.Order{}, false, ctx.Err()
	}
	return s.fakeShield.Recall(ctx, id)
}

// A parked claim is known as queued also where the ledger does not even refuse.
func TestQueuedWhileTheLedgerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.g.deps.Ledger, w.g.deps.Orders, w.g.deps.Shield = stuckLedger{w.ledger}, stuckLedger{w.ledger}, pickyShield{w.shield}
		ctx, cancel := context.WithCancel(t.Context())
		var ticking sync.WaitGroup
		ticking.Go(func() { w.g.deadlines.run(ctx) })
		defer ticking.Wait()
		defer cancel()
		synctest.Wait()
		claim := &sale.Claim{ID: sale.DeriveOrderID("phone", "ann", "k"), SKU: "phone", User: "ann", Quantity: 1}
		w.shield.kept[claim.ID] = sale.QueuedOrder(claim)
		c := call{method: "GET", path: "/v1/orders/" + claim.ID.String(), header: []string{"X-User-ID", "ann"}}
		if r := w.buyer(t, c); r.status != 200 || r.json["status"] != "queued" || r.header("Retry-After") != "3" {
			t.Errorf("GET: %d %s", r.status, r.body)
		}
		c.method = "DELETE"
		w.buyer(t, c).check(t, 409, "order_queued")
	})
}

func TestCancel(t *testing.T) {
	id := sale.DeriveOrderID("phone", "ann", "k")
	claim := &sale.Claim{ID: id, SKU: "phone", User: "ann", Quantity: 2}
	row := func(status sale.Status) func(*world) {
		return func(w *world) {
			if o := w.sold(); status != o.Status {
				w.ledger.put(o, status)
			}
		}
	}
	waits := func(w *world) { _, _ = w.queue.Join(claim, true) }
	mark := func(status sale.Status) func(*world) {
		return func(w *world) {
			o := sale.QueuedOrder(claim)
			o.Status = status
			w.shield.kept[id] = o
		}
	}
	ledgerAway := func(w *world) { w.ledger.err = sale.ErrUnavailable }
	shieldAway := func(w *world) { w.shield.err = errElse }
	for name, x := range map[string]struct {
		world  []func(*world)
		user   string
		status int
		want   string // code or status
	}{
		"reserved":                       {[]func(*world){row(sale.StatusReserved)}, "ann", 200, "cancelled"},
		"again":                          {[]func(*world){row(sale.StatusCancelled)}, "ann", 200, "cancelled"},
		"of another":                     {[]func(*world){row(sale.StatusReserved)}, "bob", 404, "unknown_order"},
		"paid":                           {[]func(*world){row(sale.StatusPaid)}, "ann", 409, "already_paid"},
		"paid, of another":               {[]func(*world){row(sale.StatusPaid)}, "bob", 404, "unknown_order"},
		"expired":                        {[]func(*world){row(sale.StatusExpired)}, "ann", 409, "order_expired"},
		"reserved, and a repeat waits":   {[]func(*world){row(sale.StatusReserved), waits}, "ann", 200, "cancelled"},
		"reserved, and marked":           {[]func(*world){row(sale.StatusReserved), mark(sale.StatusQueued)}, "ann", 200, "cancelled"},
		"waits here":                     {[]func(*world){waits}, "ann", 409, "order_queued"},
		"waits here for another":         {[]func(*world){waits}, "bob", 404, "unknown_order"},
		"waits elsewhere":                {[]func(*world){mark(sale.StatusQueued)}, "ann", 409, "order_queued"},
		"waits elsewhere for another":    {[]func(*world){mark(sale.StatusQueued)}, "bob", 404, "unknown_order"},
		"parked, the ledger away":        {[]func(*world){mark(sale.StatusQueued), ledgerAway}, "ann", 409, "order_queued"},
		"waits here, the ledger away":    {[]func(*world){waits, ledgerAway}, "ann", 409, "order_queued"},
		"of another, the ledger away":    {[]func(*world){mark(sale.StatusQueued), ledgerAway}, "bob", 503, "unavailable"},
		"rejected":                       {[]func(*world){mark(sale.StatusRejected)}, "ann", 404, "unknown_order"},
		"nothing known":                  {nil, "ann", 404, "unknown_order"},
		"nothing known, shield away":     {[]func(*world){shieldAway}, "ann", 404, "unknown_order"},
		"reserved, the ledger away":      {[]func(*world){row(sale.StatusReserved), ledgerAway}, "ann", 503, "unavailable"},
		"reserved, both away":            {[]func(*world){row(sale.StatusReserved), ledgerAway, shieldAway}, "ann", 503, "unavailable"},
		"nobody":                         {[]func(*world){row(sale.StatusReserved)}, "", 401, "unauthenticated"},
		"rejected, then ordered at last": {[]func(*world){mark(sale.StatusRejected), row(sale.StatusReserved)}, "ann", 200, "cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			for _, f := range x.world {
				f(w)
			}
			before := w.ledger.orders[id].Status
			c := call{method: "DELETE", path: "/v1/orders/" + id.String(), header: []string{"X-User-ID", x.user}}
			r := w.buyer(t, c)
			if x.status != 200 {
				r.check(t, x.status, x.want)
				if w.ledger.orders[id].Status != before || (x.status == 503 && r.json["order_id"] != id.String()) {
					t.Errorf("%v %s", w.ledger.orders[id].Status, r.body)
				}
				return
			}
			for range 2 {
				if r.status != 200 || r.json["status"] != "cancelled" || r.json["order_id"] != id.String() || r.json["amount"] != 3998.0 || r.header("Cache-Control") != "no-store" {
					t.Fatalf("%d %s", r.status, r.body)
				}
				r = w.buyer(t, c)
			}
			if v := w.ledger.orders[id].Version; v != 2 {
				t.Errorf("the order's version is %d", v)
			}
		})
	}
	w := newWorld(t, nil)
	w.buyer(t, call{method: "DELETE", path: "/v1/orders/nonsense", header: []string{"X-User-ID", "ann"}}).check(t, 404, "unknown_order")
}

func TestGetOrderSaysHowToLearnMore(t *testing.T) {
	w := newWorld(t, nil)
	for _, id := range []string{sale.DeriveOrderID("a", "b", "c").String(), "nonsense", strings.Repeat("a", 25) + "b"} {
		r := w.buyer(t, call{method: "GET", path: "/v1/orders/" + id, header: []string{"X-User-ID", "ann"}})
		r.check(t, 404, "unknown_order")
		if !strings.Contains(r.body, "repeat the POST with the same Idempotency-Key") {
			t.Error(r.body)
		}
	}
	w.buyer(t, call{method: "GET", path: "/v1/orders/nonsense"}).check(t, 401, "unauthenticated")
}

func TestOffer(t *testing.T) {
	w := newWorld(t, nil)
	get := func(sku string) reply { return w.buyer(t, call{method: "GET", path: "/v1/skus/" + sku}) }
	r := get("phone")
	if r.status != 200 || r.json["state"] != "open" || r.json["unit_price"] != 1999.0 || r.json["currency"] != "EUR" ||
		r.json["per_user_limit"] != 0.0 || r.json["sold_out"] != false || r.json["opens_at"] != nil {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := get("early"); r.json["opens_at"] != sale.FormatTime(testNow+60_000) || r.json["state"] != "open" {
		t.Error(r.body)
	}
	if r := get("closed"); r.json["state"] != "closed" || r.json["closes_at"] == nil {
		t.Error(r.body)
	}
	if r := get("paused"); r.json["state"] != "paused" {
		t.Error(r.body)
	}
	get("none").check(t, 404, "unknown_sku")
	get("a.b").check(t, 404, "unknown_sku")
}

// However many ask, the ledger is read once per stockAge and SKU.
func TestOfferSoldOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		soldOut := func() any { return w.buyer(t, call{method: "GET", path: "/v1/skus/phone"}).json["sold_out"] }
		for range 50 {
			if soldOut() != false {
				t.Fatal("it has 50 units")
			}
		}
		if w.ledger.reads != 1 {
			t.Errorf("%d reads for 50 requests", w.ledger.reads)
		}
		w.ledger.stock["phone"] = sale.Stock{Total: 100, Reserved: 10, Sold: 90}
		time.Sleep(stockAge + time.Millisecond)
		if soldOut() != true {
			t.Error("it is sold out")
		}
		w.ledger.err = sale.ErrUnavailable
		time.Sleep(stockAge + time.Millisecond)
		if soldOut() != false {
			t.Error("the ledger is away and memory knows nothing")
		}
		w.soldOut.all.Store(true)
		if soldOut() != true {
			t.Error("the ledger is away and memory says sold out")
		}
	})
}

func TestStocksAreBounded(t *testing.T) {
	var s stocks
	l := &fakeLedger{stock: map[string]sale.Stock{}}
	for i := range 3 * stocksKnown {
		_, _ = s.empty(t.Context(), sale.FormatTime(int64(i)), l)
	}
	if len(s.known) > stocksKnown {
		t.Errorf("%d SKUs are remembered", len(s.known))
	}
}
