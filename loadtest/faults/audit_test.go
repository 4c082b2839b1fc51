package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flashgate/internal/testenv"
)

var positionLine = regexp.MustCompile(`(?m)^position: (\S+)$`)

// TestAuditBesideASale audits all the time while a SKU sells out, gateways are killed
// and Redis forgets: nothing that is on its way is taken for broken. Each second audit goes
// on where the one before ended.
func TestAuditBesideASale(t *testing.T) {
	c := newCluster(t, 3, parts{})
	c.putSKU("shoe", map[string]any{"total": stock, "per_user_limit": 2})
	done := make(chan struct{})
	audits, since, position := 0, 0, ""
	ended := make(chan struct{})
	go func() { // joined by <-ended below
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			args := []string{"audit"}
			if audits%2 == 1 && position != "" {
				args = append(args, "--since", position)
				since++
			}
			out, ok := c.command(args...)
			if !ok && brokenPromises(out) != "" {
				t.Errorf("%v found:\n%s", args, out)
			}
			if m := positionLine.FindStringSubmatch(out); m != nil {
				position = m[1]
			}
			audits++
		}
	}()
	answers := c.during("shoe", stock/3, func() {
		c.redis.FlushAll(t)
		c.gates[1].Kill()
	})
	testenv.Eventually(t, func() bool {
		answers = append(answers, c.buy(c.running()[0], "shoe", fmt.Sprintf("late-%d", len(answers)), "late"))
		return c.query("SELECT SUM(sold) FROM stock WHERE sku = 'shoe'") == stock
	}, "sold to the last unit")
	c.checkSale("shoe", answers)
	close(done)
	<-ended
	t.Logf("%d audits, %d of them of what was done since the one before", audits, since)
	c.checkAudit()
	// The operators' listener says the same.
	testenv.Eventually(t, func() bool {
		code, doc := c.operate("GET", "/v1/audit", nil)
		checks, _ := doc["checks"].([]any)
		orders, _ := doc["orders"].(float64)
		return code == 200 && doc["ok"] == true && len(checks) >= 15 && orders >= stock
	}, "the operators' listener audits, and finds nothing")
}

// jetstream connects to the streams past the gateways.
func (c *cluster) jetstream() (jetstream.JetStream, func()) {
	c.t.Helper()
	nc, err := nats.Connect(c.nats.URL, nats.Timeout(testenv.Patience))
	if err != nil {
		c.t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatal(err)
	}
	return js, nc.Close
}

// TestAuditFindsWhatIsBroken breaks one promise at a time behind everybody's back.
func TestAuditFindsWhatIsBroken(t *testing.T) {
	c := newCluster(t, 1, parts{})
	js, closeNATS := c.jetstream()
	defer closeNATS()
	ctx, cancel := context.WithTimeout(context.Background(), 10*testenv.Patience)
	defer cancel()
	sql := func(queries ...string) func() {
		return func() {
			t.Helper()
			conn, err := c.db.Conn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			for _, q := range queries {
				if _, err := conn.ExecContext(ctx, q); err != nil {
					t.Fatalf("%s: %v", q, err)
				}
			}
		}
	}
	stream := func() jetstream.Stream {
		s, err := js.Stream(ctx, "FLASHGATE")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// reserved returns the sequence and the payload of the SKU's first message.
	reserved := func(sku string) (uint64, []byte) {
		cons, err := js.CreateConsumer(ctx, "FLASHGATE", jetstream.ConsumerConfig{
			FilterSubject: "flashgate.results." + sku + ".reserved", AckPolicy: jetstream.AckNonePolicy,
		})
		if err != nil {
			t.Fatal(err)
		}
		msg, err := cons.Next(jetstream.FetchMaxWait(testenv.Patience))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		return meta.Sequence.Stream, msg.Data()
	}
	publish := func(subject string, data []byte) {
		if _, err := js.Publish(ctx, subject, data); err != nil {
			t.Fatal(err)
		}
	}
	lose := func(sku string) string { return "DELETE FROM orders WHERE sku = '" + sku + "'" }
	tests := []struct {
		check   string
		warning bool
		do      func(sku string)
	}{
		// These two first: what is done for others shows in them too.
		{"shield_units", true, func(sku string) {
			gen := c.redis.MustDo(t, "GET", "fg:{"+sku+":0}:gen")
			c.redis.MustDo(t, "HSET", "fg:{"+sku+":0}:"+gen+":h", "l", "3")
		}},
		{"results_messages", false, func(sku string) { publish("flashgate.results."+sku+".reserved", []byte("[]")) }},
		{"stock_sold", false, func(sku string) { sql("UPDATE stock SET sold = sold + 1 WHERE sku = '" + sku + "'")() }},
		{"stock_bounds", false, func(sku string) {
			sql("SET check_constraint_checks=OFF", "UPDATE stock SET total = 0 WHERE sku = '"+sku+"'", "SET check_constraint_checks=ON")()
		}},
		{"buyer_units", false, func(sku string) { sql("UPDATE buyers SET units = 2 WHERE sku = '" + sku + "'")() }},
		{"order_log", false, func(sku string) {
			sql("INSERT INTO stock_moves (order_id, reason, sku, segment, delta, at) SELECT order_id, 'cancelled', sku, 0, 1, 1 FROM orders WHERE sku = '" + sku + "'")()
		}},
		{"due_list", false, func(sku string) {
			sql("DELETE d FROM due d JOIN orders o ON o.order_id = d.ids WHERE o.sku = '" + sku + "'")()
		}},
		{"outbox_age", false, func(sku string) {
			// A row that nobody can publish: its SKU is no subject.
			sql("INSERT INTO outbox (msg_id, sku, kind, payload, at) SELECT RANDOM_BYTES(16), 'no subject', 'results.reserved', '[', 1")()
		}},
		{"results_published", false, func(sku string) {
			seq, _ := reserved(sku)
			if err := stream().DeleteMsg(ctx, seq); err != nil {
				t.Fatal(err)
			}
		}},
		{"results_refunds", false, func(sku string) {
			sql("INSERT INTO payments (event_id, order_id, outcome, status, amount, currency, at) SELECT 'refund-" + sku + "', order_id, 'refund', 'succeeded', amount, currency, reserved_at FROM orders WHERE sku = '" + sku + "'")()
		}},
		{"results_known", false, func(sku string) {
			sql(lose(sku), "UPDATE stock SET sold = 0 WHERE sku = '"+sku+"'", "DELETE FROM buyers WHERE sku = '"+sku+"'")()
		}},
		{"results_order", false, func(sku string) {
			seq, data := reserved(sku)
			sql("UPDATE orders SET status = 'paid', version = 2 WHERE sku = '"+sku+"'",
				"INSERT INTO payments (event_id, order_id, outcome, status, amount, currency, at) SELECT '"+sku+"', order_id, 'paid', 'succeeded', amount, currency, 1 FROM orders WHERE sku = '"+sku+"'")()
			paid := strings.NewReplacer("flashgate.order.reserved", "flashgate.order.paid", "/reserved", "/paid", `"status":"reserved"`, `"status":"paid"`, `"version":1`, `"version":2`).Replace(string(data))
			deduct := strings.NewReplacer("flashgate.order.paid", "flashgate.inventory.deduct", "/paid", "/inventory_deduct").Replace(paid)
			if err := stream().DeleteMsg(ctx, seq); err != nil {
				t.Fatal(err)
			}
			publish("flashgate.results."+sku+".paid", []byte(paid))
			publish("flashgate.inventory.deduct", []byte(deduct))
			publish("flashgate.results."+sku+".reserved", data)
		}},
	}
	// Something has to be wrong in only one place, so each SKU is sold one unit of.
	for i, tc := range tests {
		sku := fmt.Sprintf("sku-%d", i)
		c.putSKU(sku, map[string]any{"total": 10, "per_user_limit": 3, "heat": "hot"})
		a := c.insist(0, sku, "ann", "k")
		if !a.yes() {
			t.Fatalf("%s: %+v", tc.check, a)
		}
		c.checkPublished(sku, map[string]bool{a.orderID: true})
	}
	// What was sold while a shield was being loaded may be missing from it.
	var out string
	testenv.Eventually(t, func() bool {
		var ok bool
		if out, ok = c.command("reconcile", "--rebuild"); ok {
			out, ok = c.audit("--strict")
		}
		return ok
	}, "nothing is broken before something is")
	// A gateway would repair what can be.
	if err := c.gates[0].Terminate(); err != nil {
		t.Error(err)
	}
	broken := map[string]bool{}
	for i, tc := range tests {
		tc.do(fmt.Sprintf("sku-%d", i))
		broken[tc.check] = true
		out, ok := c.audit()
		prefix := tc.check + ": "
		if tc.warning {
			prefix = "warning: " + prefix
		}
		lines := 0
		for line := range strings.Lines(out) {
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "warning: "), ":")
			if strings.HasPrefix(line, prefix) {
				lines++
			} else if !broken[name] && brokenPromises(line) != "" {
				t.Errorf("%s: and found %s", tc.check, line)
			}
		}
		if lines == 0 || ok != tc.warning {
			t.Errorf("%s: ok %v\n%s", tc.check, ok, out)
		}
		if tc.warning {
			if out, ok := c.audit("--strict"); ok {
				t.Errorf("%s: --strict says\n%s", tc.check, out)
			}
		}
	}
	out, _ = c.audit("--json")
	var doc struct {
		OK     bool
		Checks []struct{ OK bool }
	}
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):strings.LastIndex(out, "}")+1]), &doc); err != nil || doc.OK {
		t.Errorf("%v\n%s", err, out)
	}
}
