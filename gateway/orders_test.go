package gateway

import (
	"strings"
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
