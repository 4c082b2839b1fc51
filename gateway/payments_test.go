package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

const testSecret = "webhook-secret"

func withPayments(c *Config) { c.Payments.WebhookSecrets = []string{testSecret, "the old one"} }

// event is a payment event of the provider, signed now.
func event(body string) call {
	return call{method: "POST", path: "/v1/payments", body: body, from: "203.0.113.7", header: []string{signatureHeader, sign(testSecret, time.Now(), body)}}
}

func eventBody(id string, order sale.OrderID, amount int64, currency, status string) string {
	return fmt.Sprintf(`{"event_id":%q,"order_id":%q,"amount":%d,"currency":%q,"status":%q}`, id, order, amount, currency, status)
}

// sold puts a reserved order of the buyer "ann" for two phones into the ledger.
func (w *world) sold() sale.Order {
	id := sale.DeriveOrderID("phone", "ann", "k")
	o := sale.NewOrder(&sale.Claim{ID: id, SKU: "phone", User: "ann", Quantity: 2}, testSKU("phone"), 0, testNow)
	return w.ledger.put(o, sale.StatusReserved)
}

func (w *world) standing(id sale.OrderID) sale.Status {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	return w.ledger.orders[id].Status
}

func TestPayment(t *testing.T) {
	w := newWorld(t, withPayments)
	o := w.sold()
	body := eventBody("e-1", o.ID, 3998, "EUR", "succeeded")
	r := w.buyer(t, event(body))
	if r.status != 200 || r.json["outcome"] != "paid" || r.json["order_status"] != "paid" || r.json["event_id"] != "e-1" ||
		r.json["order_id"] != o.ID.String() || r.header("Idempotent-Replayed") != "" || r.json["user_id"] != nil {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if w.standing(o.ID) != sale.StatusPaid {
		t.Error("the order is not paid")
	}
	// The provider's repeat is recorded already, also when it is signed anew.
	for range 3 {
		r = w.buyer(t, event(body))
		if r.status != 200 || r.header("Idempotent-Replayed") != "true" || r.json["outcome"] != "paid" {
			t.Errorf("repeat: %d %s", r.status, r.body)
		}
	}
	if r = w.buyer(t, event(eventBody("e-2", o.ID, 3998, "EUR", "succeeded"))); r.status != 200 || r.json["outcome"] != "refund" {
		t.Errorf("second payment: %d %s", r.status, r.body)
	}
	if r = w.buyer(t, event(eventBody("e-3", o.ID, 3998, "EUR", "failed"))); r.status != 200 || r.json["outcome"] != "failed" || r.json["order_status"] != "paid" {
		t.Errorf("failed payment: %d %s", r.status, r.body)
	}
	// The old secret signs as well, whatever the media type, and without a buyer.
	c := event(eventBody("e-4", o.ID, 3998, "EUR", "failed"))
	c.header = []string{signatureHeader, sign("the old one", time.Now(), c.body), "Content-Type", "text/plain"}
	if r = w.buyer(t, c); r.status != 200 {
		t.Errorf("old secret: %d %s", r.status, r.body)
	}
}

// A provider may add members at any time: they are told of once, and mean nothing.
func TestPaymentEventsGrow(t *testing.T) {
	var log strings.Builder
	w := newWorld(t, func(c *Config) { withPayments(c); c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	o := w.sold()
	for i := range 3 {
		body := strings.Replace(eventBody("e", o.ID, 3998, "EUR", "succeeded"), "{", `{"livemode":true,"`+strings.Repeat("x", 500)+`":{"a":[1]},`, 1)
		if r := w.buyer(t, event(body)); r.status != 200 || r.json["order_status"] != "paid" {
			t.Errorf("%d: %d %s", i, r.status, r.body)
		}
	}
	if n := strings.Count(log.String(), "livemode"); n != 1 || strings.Contains(log.String(), strings.Repeat("x", 100)) {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}

func TestPaymentRefused(t *testing.T) {
	id := sale.DeriveOrderID("phone", "ann", "k")
	good := eventBody("e", id, 3998, "EUR", "succeeded")
	for name, x := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"unknown order":       {eventBody("e", sale.DeriveOrderID("a", "b", "c"), 3998, "EUR", "succeeded"), 404, "unknown_order"},
		"impossible order":    {strings.Replace(good, id.String(), "order-1", 1), 404, "unknown_order"},
		"wrong amount":        {eventBody("e", id, 3997, "EUR", "succeeded"), 422, "invalid_request"},
		"negative amount":     {eventBody("e", id, -3998, "EUR", "succeeded"), 422, "invalid_request"},
		"wrong currency":      {eventBody("e", id, 3998, "USD", "succeeded"), 422, "invalid_request"},
		"wrong, and failed":   {eventBody("e", id, 1, "EUR", "failed"), 422, "invalid_request"},
		"odd status":          {eventBody("e", id, 3998, "EUR", "pending"), 422, "invalid_request"},
		"status's case":       {eventBody("e", id, 3998, "EUR", "Succeeded"), 422, "invalid_request"},
		"empty event":         {eventBody("", id, 3998, "EUR", "succeeded"), 422, "invalid_request"},
		"event with a space":  {eventBody("e 1", id, 3998, "EUR", "succeeded"), 422, "invalid_request"},
		"long event":          {eventBody(strings.Repeat("e", 256), id, 3998, "EUR", "succeeded"), 422, "invalid_request"},
		"no amount":           {strings.Replace(good, `"amount":3998,`, "", 1), 422, "invalid_request"},
		"amount is null":      {strings.Replace(good, `3998`, "null", 1), 422, "invalid_request"},
		"amount is text":      {strings.Replace(good, `3998`, `"3998"`, 1), 422, "invalid_request"},
		"amount is a float":   {strings.Replace(good, `3998`, `3998.0`, 1), 422, "invalid_request"},
		"amount is enormous":  {strings.Replace(good, `3998`, `99999999999999999999`, 1), 422, "invalid_request"},
		"event is a number":   {strings.Replace(good, `"e"`, `1`, 1), 422, "invalid_request"},
		"another spelling":    {strings.Replace(good, `"amount"`, `"Amount"`, 1), 422, "invalid_request"},
		"a member twice":      {strings.Replace(good, `{`, `{"amount":1,`, 1), 400, "malformed"},
		"no object":           {`[1]`, 422, "invalid_request"},
		"no JSON":             {`event_id=e`, 400, "malformed"},
		"two objects":         {good + good, 400, "malformed"},
		"nothing":             {"", 400, "malformed"},
		"half of it":          {good[:40], 400, "malformed"},
		"a byte order mark":   {"\xef\xbb\xbf" + good, 400, "malformed"},
		"event's name reused": {eventBody("used", id, 3998, "EUR", "succeeded"), 422, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, withPayments)
			o := w.sold()
			if r := w.buyer(t, event(eventBody("used", o.ID, 3998, "EUR", "failed"))); r.status != 200 {
				t.Fatal(r.body)
			}
			w.buyer(t, event(x.body)).check(t, x.status, x.code)
			if len(w.ledger.paid) != 1 || w.standing(o.ID) != sale.StatusReserved {
				t.Error("something was recorded")
			}
		})
	}
}

func TestPaymentUnsigned(t *testing.T) {
	w := newWorld(t, withPayments)
	o := w.sold()
	c := event(eventBody("e", o.ID, 3998, "EUR", "succeeded"))
	for name, header := range map[string][]string{
		"no signature":      nil,
		"another's":         {signatureHeader, sign("guess", time.Now(), c.body)},
		"of another body":   {signatureHeader, sign(testSecret, time.Now(), c.body+" ")},
		"too old":           {signatureHeader, sign(testSecret, time.Now().Add(-6*time.Minute), c.body)},
		"too early":         {signatureHeader, sign(testSecret, time.Now().Add(6*time.Minute), c.body)},
		"a buyer":           {"X-User-ID", "ann"},
		"the operators key": {"Authorization", "Bearer " + testAdminKey},
	} {
		c.header = header
		r := w.buyer(t, c)
		r.check(t, 401, "unauthenticated")
		if r.header("WWW-Authenticate") != signatureHeader {
			t.Errorf("%s: WWW-Authenticate is %q", name, r.header("WWW-Authenticate"))
		}
	}
	// What is not signed is not read: nothing of a body can be learnt without the secret.
	c.body, c.header = "no JSON", nil
	w.buyer(t, c).check(t, 401, "unauthenticated")
	if len(w.ledger.paid) != 0 {
		t.Error("something was recorded")
	}
}

// What was recorded on its way can be sent again for as long as the tolerance, which
// does nothing, and not at all afterwards.
func TestPaymentReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withPayments)
		o := w.sold()
		c := event(eventBody("e", o.ID, 3998, "EUR", "succeeded"))
		if r := w.buyer(t, c); r.status != 200 || r.json["outcome"] != "paid" {
			t.Fatal(r.body)
		}
		w.ledger.put(o, sale.StatusCancelled) // so that a second effect would be seen
		time.Sleep(5 * time.Minute)
		if r := w.buyer(t, c); r.status != 200 || r.header("Idempotent-Replayed") != "true" || w.standing(o.ID) != sale.StatusCancelled {
			t.Errorf("within the tolerance: %d %s", r.status, r.body)
		}
		time.Sleep(time.Second)
		w.buyer(t, c).check(t, 401, "unauthenticated")
	})
}

func TestPaymentLedgerAway(t *testing.T) {
	w := newWorld(t, withPayments)
	o := w.sold()
	for _, err := range []error{sale.ErrUnavailable, sale.ErrUnknown, errElse} {
		w.ledger.fail(fmt.Errorf("wrapped: %w", err))
		r := w.buyer(t, event(eventBody("e", o.ID, 3998, "EUR", "succeeded")))
		r.check(t, 503, "unavailable")
		if !strings.Contains(r.body, "Send it again") {
			t.Error(r.body)
		}
	}
	w.ledger.fail(nil)
	if r := w.buyer(t, event(eventBody("e", o.ID, 3998, "EUR", "succeeded"))); r.status != 200 || r.json["outcome"] != "paid" {
		t.Errorf("afterwards: %d %s", r.status, r.body)
	}
}

func TestPaymentWithoutSecrets(t *testing.T) {
	w := newWorld(t, nil)
	o := w.sold()
	w.buyer(t, event(eventBody("e", o.ID, 3998, "EUR", "succeeded"))).check(t, 404, "not_found")
	if _, err := New(func() Config { c := testConfig(); c.Payments.WebhookSecrets = []string{"a", ""}; return c }(), w.deps()); err == nil {
		t.Error("an empty secret was accepted")
	}
	if _, err := New(func() Config { c := testConfig(); c.Payments.Tolerance = time.Millisecond; return c }(), w.deps()); err == nil {
		t.Error("a tolerance of nothing was accepted")
	}
}

// The buyers' limits are not the provider's; only those who guess meet one.
func TestPaymentLimits(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		withPayments(c)
		once := Limit{Rate: 0.001, Burst: 1}
		c.Limits.User, c.Limits.IP, c.Limits.SKU, c.Limits.Global = once, once, once, once
	})
	w.g.refusing.Store(true) // purchases only
	o := w.sold()
	for i := range 20 {
		if r := w.buyer(t, event(eventBody(fmt.Sprint(i), o.ID, 3998, "EUR", "failed"))); r.status != 200 {
			t.Fatalf("event %d: %d %s", i, r.status, r.body)
		}
	}
	guess := event("{}")
	guess.header = nil
	w.buyer(t, guess).check(t, 401, "unauthenticated")
	w.buyer(t, guess).check(t, 429, "rate_limited")
	if r := w.buyer(t, event(eventBody("last", o.ID, 3998, "EUR", "failed"))); r.status != 200 {
		t.Errorf("from an address without a token: %d %s", r.status, r.body)
	}
}

func TestPaymentBodyLimit(t *testing.T) {
	r := serve(t, func(c *Config) { withPayments(c); c.BodyLimit = 1024 })
	status, body, _ := r.send(t, "POST /v1/payments HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n"+strings.Repeat(" ", 1025))
	if status != 413 || !strings.Contains(body, "content_too_large") {
		t.Errorf("%d %s", status, body)
	}
}

// FuzzPayment holds the decoder against encoding/json: whatever it takes is what that
// reads in it, and nothing is taken that could not be recorded.
func FuzzPayment(f *testing.F) {
	id := sale.DeriveOrderID("phone", "ann", "k")
	good := eventBody("e-1", id, 3998, "EUR", "succeeded")
	for _, s := range []string{
		good, eventBody("e", id, -1, "", "failed"), "", "{}", "null", "[]", good + " ", good + "x", good[:30],
		strings.Replace(good, "3998", "1e3", 1), strings.Replace(good, "3998", "null", 1), strings.Replace(good, "3998", "-0", 1),
		strings.Replace(good, `"e-1"`, `"\u0065"`, 1), strings.Replace(good, `"e-1"`, "\"e\x00\"", 1), strings.Replace(good, "event_id", "Event_id", 1),
		strings.Replace(good, "{", `{"amount":1,`, 1), strings.Replace(good, "{", `{"x":{"amount":1},`, 1), strings.Replace(good, id.String(), strings.ToUpper(id.String()), 1),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, _, err := parsePayment(body)
		if err != nil {
			return
		}
		if p.Validate() != nil {
			t.Fatalf("%q: %+v cannot be recorded", body, p)
		}
		var oracle struct {
			EventID, OrderID, Currency, Status string
			Amount                             int64
		}
		// By exact names: into a struct it would take other spellings too.
		var members map[string]json.RawMessage
		dec := json.NewDecoder(bytes.NewReader(body))
		err = dec.Decode(&members)
		for name, into := range map[string]any{"event_id": &oracle.EventID, "order_id": &oracle.OrderID, "amount": &oracle.Amount, "currency": &oracle.Currency, "status": &oracle.Status} {
			err = errors.Join(err, json.Unmarshal(members[name], into))
		}
		if err != nil {
			t.Fatalf("%q was taken, and encoding/json says %v", body, err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			t.Fatalf("%q was taken, and something follows it", body)
		}
		if oracle.EventID != p.EventID || oracle.OrderID != p.OrderID.String() || oracle.Amount != p.Amount || oracle.Currency != p.Currency ||
			(oracle.Status == "succeeded") != p.Succeeded || (oracle.Status == "failed") == p.Succeeded {
			t.Fatalf("%q: %+v, and encoding/json says %+v", body, p, oracle)
		}
	})
}
