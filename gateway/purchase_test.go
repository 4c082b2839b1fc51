package gateway

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

func TestPurchaseReserved(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = reserved
	r := w.buyer(t, purchase(`{"quantity":2,"coupon":"SPRING"}`, "Idempotency-Key", "k-1"))
	id := sale.DeriveOrderID("phone", "ann", "k-1").String()
	if r.status != 201 || r.header("Location") != "/v1/orders/"+id || r.header("Content-Type") != "application/json" {
		t.Fatalf("%d %s %s", r.status, r.header("Location"), r.body)
	}
	for name, want := range map[string]any{
		"order_id": id, "sku": "phone", "user_id": "ann", "quantity": 2.0, "unit_price": 1999.0, "amount": 3998.0,
		"currency": "EUR", "coupon": "SPRING", "status": "reserved", "reserved_at": sale.FormatTime(testNow),
	} {
		if r.json[name] != want {
			t.Errorf("%s is %v, want %v", name, r.json[name], want)
		}
	}
	if r.header("Idempotent-Replayed") != "" || r.header("Idempotency-Key") != "" || r.header("Preference-Applied") != "" {
		t.Error("a plain 201 says too much")
	}
	c := w.queue.last()
	if c.Hash != sale.HashRequest(2, "SPRING") || !c.Keyed || c.QueuedAt == 0 || w.queue.lastWasAsync() {
		t.Errorf("the claim is %+v", c)
	}
}

// The quoted and the bare spelling of a key are one key.
func TestPurchaseKeySpellings(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = reserved
	want := sale.DeriveOrderID("phone", "ann", `a"b\c`).String()
	for _, key := range []string{`a"b\c`, `"a\"b\\c"`} {
		if r := w.buyer(t, purchase("", "Idempotency-Key", key)); r.json["order_id"] != want {
			t.Errorf("key %s: %d %s", key, r.status, r.body)
		}
	}
}

func TestPurchaseDefaults(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = reserved
	for _, c := range []call{
		purchase(""), purchase("{}"), purchase(" {} "), purchase(`{"quantity":null,"coupon":null}`),
		purchase("", "Content-Type", "application/x-www-form-urlencoded"),
	} {
		if r := w.buyer(t, c); r.status != 201 || w.queue.last().Quantity != 1 || w.queue.last().Coupon != "" {
			t.Errorf("body %q: %d %s", c.body, r.status, r.body)
		}
	}
	a, b := w.queue.joined[0], w.queue.joined[1]
	if a.ID == b.ID || a.Keyed {
		t.Error("purchases without a key must be orders of their own")
	}
}

func TestPurchaseReplay(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = func(c *sale.Claim) (sale.Verdict, bool) {
		v, _ := reserved(c)
		v.Outcome, v.Order.Status = sale.Duplicate, sale.StatusCancelled
		return v, true
	}
	r := w.buyer(t, purchase("", "Idempotency-Key", "k"))
	if r.status != 200 || r.header("Idempotent-Replayed") != "true" || r.json["status"] != "cancelled" || r.header("Location") == "" {
		t.Fatalf("%d %s", r.status, r.body)
	}
}

func TestPurchaseVerdicts(t *testing.T) {
	for _, x := range []struct {
		verdict sale.Verdict
		status  int
		code    string
	}{
		{sale.Verdict{Outcome: sale.Conflict}, 422, "idempotency_key_reused"},
		{sale.Verdict{Outcome: sale.NotOpen}, 409, "sale_not_open"},
		{sale.Verdict{Outcome: sale.Paused}, 409, "sale_paused"},
		{sale.Verdict{Outcome: sale.Closed}, 409, "sale_closed"},
		{sale.Verdict{Outcome: sale.LimitReached}, 409, "purchase_limit"},
		{sale.Verdict{Outcome: sale.SoldOut}, 409, "sold_out"},
		{sale.Verdict{Outcome: sale.TimedOut}, 503, "timeout"},
		{sale.Verdict{Err: sale.ErrUnavailable}, 503, "unavailable"},
		{sale.Verdict{Err: sale.ErrUnknown}, 503, "unavailable"},
		{sale.Verdict{Err: sale.ErrDegraded}, 503, "degraded"},
		{sale.Verdict{Err: sale.ErrShuttingDown}, 503, "shutting_down"},
		{sale.Verdict{Err: sale.ErrUnknownSKU}, 404, "unknown_sku"},
		{sale.Verdict{Err: errElse}, 503, "unavailable"},
		{sale.Verdict{}, 503, "unavailable"},
	} {
		w := newWorld(t, nil)
		w.queue.answer(x.verdict)
		r := w.buyer(t, purchase("", "Idempotency-Key", "k"))
		r.check(t, x.status, x.code)
		if named := r.json["order_id"] == sale.DeriveOrderID("phone", "ann", "k").String(); named != (x.status == 503) {
			t.Errorf("%s: order_id is %v", x.code, r.json["order_id"])
		}
		if x.status == 503 && !strings.Contains(r.body, "same Idempotency-Key") {
			t.Errorf("%s does not say to repeat with the same key", x.code)
		}
	}
}

// Without a key there is one to repeat with wherever repeating makes sense.
func TestPurchaseMadeKey(t *testing.T) {
	w := newWorld(t, nil)
	check := func(what string, r reply, status int) {
		t.Helper()
		key := r.header("Idempotency-Key")
		if r.status != status || len(key) != 26 || sale.DeriveOrderID("phone", "ann", key).String() != r.json["order_id"] {
			t.Errorf("%s: %d, key %q, %s", what, r.status, key, r.body)
		}
	}
	check("async", w.buyer(t, purchase("", "Prefer", "respond-async")), 202)
	w.queue.answer(sale.Verdict{Err: sale.ErrUnavailable})
	check("unavailable", w.buyer(t, purchase("")), 503)
	w.queue.answer(sale.Verdict{Outcome: sale.TimedOut})
	check("timeout", w.buyer(t, purchase("")), 503)
	w.queue.refuse = sale.ErrQueueFull
	check("queue full", w.buyer(t, purchase("")), 503)
}

func TestPurchaseQueueFull(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.refuse = sale.ErrQueueFull
	w.buyer(t, purchase("")).check(t, 503, "queue_full")
	w.queue.depth, w.queue.rate = 999, 100
	if r := w.buyer(t, purchase("")); r.header("Retry-After") != "10" {
		t.Errorf("a full queue that drains in ten seconds says %q", r.header("Retry-After"))
	}
	w.queue.refuse = sale.ErrShuttingDown
	w.buyer(t, purchase("")).check(t, 503, "shutting_down")
}

func TestPurchaseFromMemory(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = reserved
	w.soldOut.all.Store(true)
	w.buyer(t, purchase("")).check(t, 409, "sold_out")
	if r := w.buyer(t, purchase("", "Idempotency-Key", "k")); r.status != 201 {
		t.Errorf("a request with a key may be a repeat and must not be refused from memory: %d", r.status)
	}
	for sku, code := range map[string]string{"early": "sale_not_open", "paused": "sale_paused", "closed": "sale_closed"} {
		c := purchase("")
		c.path = "/v1/skus/" + sku + "/orders"
		r := w.buyer(t, c)
		r.check(t, 409, code)
		if opens := r.json["opens_at"]; (sku == "early") != (opens == sale.FormatTime(testNow+60_000)) {
			t.Errorf("%s: opens_at is %v", sku, opens)
		}
		c.header = append(c.header, "Idempotency-Key", "k")
		if r := w.buyer(t, c); r.status != 201 {
			t.Errorf("%s with a key: %d", sku, r.status)
		}
	}
}

func TestPurchaseRefusedAtTheEdge(t *testing.T) {
	long := strings.Repeat("k", 256)
	for name, x := range map[string]struct {
		call   call
		status int
		code   string
	}{
		"unknown SKU":      {call{method: "POST", path: "/v1/skus/none/orders", header: []string{"X-User-ID", "ann"}}, 404, "unknown_sku"},
		"impossible SKU":   {call{method: "POST", path: "/v1/skus/a%20b/orders", header: []string{"X-User-ID", "ann"}}, 404, "unknown_sku"},
		"no user":          {call{method: "POST", path: "/v1/skus/phone/orders"}, 401, "unauthenticated"},
		"untrusted peer":   {call{method: "POST", path: "/v1/skus/phone/orders", header: []string{"X-User-ID", "ann"}, from: "203.0.113.9"}, 401, "unauthenticated"},
		"impossible user":  {call{method: "POST", path: "/v1/skus/phone/orders", header: []string{"X-User-ID", "a b"}}, 401, "unauthenticated"},
		"two users":        {purchase("", "X-User-ID", "bob"), 400, "malformed"},
		"two keys":         {purchase("", "Idempotency-Key", "a", "Idempotency-Key", "b"), 400, "malformed"},
		"empty key":        {purchase("", "Idempotency-Key", ""), 400, "malformed"},
		"empty quoted key": {purchase("", "Idempotency-Key", `""`), 400, "malformed"},
		"half quoted key":  {purchase("", "Idempotency-Key", `"abc`), 400, "malformed"},
		"long key":         {purchase("", "Idempotency-Key", long), 400, "malformed"},
		"spaced key":       {purchase("", "Idempotency-Key", "a b"), 400, "malformed"},
		"no JSON":          {purchase("quantity=1"), 400, "malformed"},
		"half a JSON":      {purchase(`{"quantity":1`), 400, "malformed"},
		"trailing data":    {purchase(`{"quantity":1}{"quantity":2}`), 400, "malformed"},
		"trailing garbage": {purchase(`{"quantity":1} x`), 400, "malformed"},
		"member twice":     {purchase(`{"quantity":1,"quantity":2}`), 400, "malformed"},
		"array":            {purchase(`[1]`), 422, "invalid_request"},
		"null":             {purchase(`null`), 422, "invalid_request"},
		"unknown field":    {purchase(`{"quantity":1,"user_id":"bob"}`), 422, "invalid_request"},
		"other spelling":   {purchase(`{"Quantity":1}`), 422, "invalid_request"},
		"quantity zero":    {purchase(`{"quantity":0}`), 422, "invalid_request"},
		"negative":         {purchase(`{"quantity":-1}`), 422, "invalid_request"},
		"too many":         {purchase(`{"quantity":1001}`), 422, "invalid_request"},
		"enormous":         {purchase(`{"quantity":99999999999999999999}`), 422, "invalid_request"},
		"fraction":         {purchase(`{"quantity":1.5}`), 422, "invalid_request"},
		"text quantity":    {purchase(`{"quantity":"1"}`), 422, "invalid_request"},
		"long coupon":      {purchase(`{"coupon":"` + strings.Repeat("c", 129) + `"}`), 422, "invalid_request"},
		"odd coupon":       {purchase(`{"coupon":"\u00e9"}`), 422, "invalid_request"},
		"form":             {purchase("quantity=1", "Content-Type", "application/x-www-form-urlencoded"), 415, "unsupported_media_type"},
		"no media type":    {purchase(`{}`, "Content-Type", ""), 415, "unsupported_media_type"},
		"Latin 1":          {purchase(`{}`, "Content-Type", "application/json; charset=iso-8859-1"), 415, "unsupported_media_type"},
		"compressed":       {purchase(`{}`, "Content-Encoding", "gzip"), 415, "unsupported_media_type"},
		"other method":     {call{method: "PUT", path: "/v1/skus/phone/orders"}, 405, "method_not_allowed"},
		"no such path":     {call{method: "GET", path: "/v2"}, 404, "not_found"},
		"slash at the end": {call{method: "POST", path: "/v1/skus/phone/orders/"}, 404, "not_found"},
		"no such method":   {call{method: "BREW", path: "/v1/skus/phone/orders"}, 400, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.queue.rule = reserved
			r := w.buyer(t, x.call)
			r.check(t, x.status, x.code)
			if len(w.queue.joined) != 0 {
				t.Error("it reached the queue")
			}
			if x.status == 401 && r.header("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
			if x.status == 405 && r.header("Allow") != "POST" {
				t.Errorf("Allow is %q", r.header("Allow"))
			}
		})
	}
}

func TestPurchaseMediaTypes(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = reserved
	for _, kind := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\"", "application/json; v=1"} {
		if r := w.buyer(t, purchase(`{}`, "Content-Type", kind)); r.status != 201 {
			t.Errorf("%s: %d", kind, r.status)
		}
	}
}

func TestPurchaseAsync(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.number, w.queue.rate = 120, 50
	r := w.buyer(t, purchase(`{"coupon":"C"}`, "Idempotency-Key", "k", "Prefer", "Respond-Async"))
	id := sale.DeriveOrderID("phone", "ann", "k")
	if r.status != 202 || r.header("Location") != "/v1/orders/"+id.String() || r.header("Preference-Applied") != "respond-async" {
		t.Fatalf("%d %s %s", r.status, r.header("Preference-Applied"), r.body)
	}
	if !w.queue.lastWasAsync() || !w.queue.Find(id).Detached() {
		t.Error("nobody waits for this claim, and the queue was not told")
	}
	if r.json["status"] != "queued" || r.json["position"] != 120.0 || r.json["eta_seconds"] != 3.0 || r.json["eta_known"] != true ||
		r.json["coupon"] != "C" || r.header("Retry-After") != "3" || r.header("Idempotency-Key") != "" {
		t.Errorf("Retry-After %s: %s", r.header("Retry-After"), r.body)
	}
	w.queue.rate = 0
	r = w.buyer(t, purchase("", "Prefer", "respond-async"))
	if r.json["eta_known"] != false || r.json["eta_seconds"] != 0.0 || r.header("Retry-After") != "1" {
		t.Errorf("unknown pace: %s %s", r.header("Retry-After"), r.body)
	}
}

// A parked claim is queued, in no line of this gateway, however its buyer waits.
func TestPurchaseParked(t *testing.T) {
	for prefer, applied := range map[string]string{"": "", "wait=1": "wait=1", "respond-async, wait=1": "respond-async, wait=1"} {
		w := newWorld(t, nil)
		w.queue.rule = func(c *sale.Claim) (sale.Verdict, bool) {
			o := sale.QueuedOrder(c)
			w.shield.kept[c.ID] = o // which is what parks it
			return sale.Verdict{Outcome: sale.Queued, Order: &o}, true
		}
		c := purchase("")
		if prefer != "" {
			c.header = append(c.header, "Prefer", prefer)
		}
		r := w.buyer(t, c)
		key := r.header("Idempotency-Key")
		id := sale.DeriveOrderID("phone", "ann", key).String()
		if r.status != 202 || r.json["status"] != "queued" || r.json["order_id"] != id || r.json["position"] != nil || r.json["eta_known"] != false ||
			r.json["eta_seconds"] != 0.0 || r.header("Retry-After") != "3" || r.header("Location") != "/v1/orders/"+id || r.header("Preference-Applied") != applied {
			t.Errorf("Prefer %q: %d %s %s", prefer, r.status, r.header("Retry-After"), r.body)
		}
		w.ledger.err = sale.ErrUnavailable
		get := w.buyer(t, call{method: "GET", path: r.header("Location"), header: []string{"X-User-ID", "ann"}})
		if get.status != 200 || get.json["status"] != "queued" || get.json["position"] != nil || get.json["eta_known"] != false || get.header("Retry-After") != "3" {
			t.Errorf("GET: %d %s", get.status, get.body)
		}
	}
}

// Who asked not to wait is told the place, parked or not; a claim parked by then gets
// no mark from here, and one parked while its mark is written keeps being queued.
func TestPurchaseParkedAsync(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = func(c *sale.Claim) (sale.Verdict, bool) {
		o := sale.QueuedOrder(c)
		return sale.Verdict{Outcome: sale.Queued, Order: &o}, true
	}
	r := w.buyer(t, purchase("", "Idempotency-Key", "k", "Prefer", "respond-async"))
	if r.status != 202 || r.json["status"] != "queued" || r.header("Retry-After") == "" || r.header("Location") == "" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if got := w.g.marks.collect(nil, <-w.g.marks.pending); len(got) != 0 {
		t.Error("a parked claim would be marked as queued here")
	}
}

func TestPurchaseWaits(t *testing.T) {
	for _, x := range []struct {
		name, prefer, applied string
		decide                time.Duration // 0 = never
		status                int
		waits                 time.Duration
	}{
		{"default", "", "", 0, 202, 2 * time.Second},
		{"decided", "", "", time.Second, 201, time.Second},
		{"bounded", "wait=1", "wait=1", 0, 202, time.Second},
		{"decided in the bound", "wait=3", "wait=3", 2500 * time.Millisecond, 201, 2500 * time.Millisecond},
		{"cut", "wait=100", "wait=4", 0, 202, 4 * time.Second},
		{"none", "wait=0", "wait=0", 0, 202, 0},
		{"async", "respond-async", "respond-async", 0, 202, 0},
		{"both", "respond-async, wait=1", "respond-async, wait=1", 0, 202, time.Second},
		{"nonsense", "wait=soon, handling=lenient", "", 0, 202, 2 * time.Second},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				id := sale.DeriveOrderID("phone", "ann", "k")
				if x.decide > 0 {
					decider := time.AfterFunc(x.decide, func() {
						ticket := w.queue.Find(id)
						v, _ := reserved(ticket.Claim)
						ticket.Resolve(v)
					})
					defer decider.Stop()
				}
				c := purchase("", "Idempotency-Key", "k")
				if x.prefer != "" {
					c.header = append(c.header, "Prefer", x.prefer)
				}
				began := time.Now()
				r := w.buyer(t, c)
				if took := time.Since(began); r.status != x.status || took != x.waits {
					t.Errorf("%d after %v, want %d after %v", r.status, took, x.status, x.waits)
				}
				if r.header("Preference-Applied") != x.applied {
					t.Errorf("Preference-Applied is %q, want %q", r.header("Preference-Applied"), x.applied)
				}
				if gone := w.queue.Find(id).Detached(); gone != (x.status == 202) {
					t.Errorf("detached: %v", gone)
				}
			})
		})
	}
}

// Claims outlive their requests: nothing in them may point into buffers that the next
// request overwrites.
func TestPurchaseCopies(t *testing.T) {
	w := newWorld(t, nil)
	handler := w.g.buyers.app.Server().Handler
	ctx := purchaseRequest("key-1")
	ctx.Request.Header.Set("Prefer", "respond-async")
	ctx.Request.SetBodyString(`{"coupon":"SPRING"}`)
	handler(ctx)
	claim := w.queue.last()
	scribble := func(b []byte) {
		for i := range b {
			b[i] = '#'
		}
	}
	scribble(ctx.Request.Body())
	scribble(ctx.Request.Header.RequestURI())
	scribble(ctx.Request.URI().PathOriginal())
	scribble(ctx.Request.Header.Peek("X-User-ID"))
	scribble(ctx.Request.Header.Peek("Idempotency-Key"))
	if claim.User != "buyer-4711" || claim.Coupon != "SPRING" || claim.SKU != "phone" || claim.ID != sale.DeriveOrderID("phone", "buyer-4711", "key-1") {
		t.Errorf("the claim changed with the request: %+v", claim)
	}
}

func TestPurchaseWhileShuttingDown(t *testing.T) {
	w := newWorld(t, nil)
	w.g.refusing.Store(true)
	w.buyer(t, purchase("")).check(t, 503, "shutting_down")
}

func TestPurchaseLedgerAway(t *testing.T) {
	w := newWorld(t, nil)
	w.ledger.err = sale.ErrUnavailable
	c := purchase("")
	c.path = "/v1/skus/uncached/orders"
	w.buyer(t, c).check(t, 503, "unavailable")
}

func TestFaultInAHandler(t *testing.T) {
	w := newWorld(t, nil)
	w.queue.rule = func(*sale.Claim) (sale.Verdict, bool) {
		var o *sale.Order
		return sale.Verdict{Order: &sale.Order{ID: o.ID}}, true
	}
	w.buyer(t, purchase("")).check(t, 500, "internal")
}
