package faults

import (
	"encoding/base32"
	"fmt"
	"strings"
	"testing"

	"flashgate/internal/testenv"
)

const paymentSecret = "whsec-0123456789abcdef"

// pay has the payment provider report that an order of one unit was paid.
func (c *cluster) pay(g *gate, event, orderID string) {
	c.t.Helper()
	if code, doc := c.webhook(g, event, orderID); code != 200 {
		c.t.Fatalf("pay %s: %d %v", orderID, code, doc)
	}
}

// cancel has the buyer cancel.
func (c *cluster) cancel(g *gate, a answer) {
	c.t.Helper()
	if code, doc := c.delete(g, a); code != 200 || doc["status"] != "cancelled" {
		c.t.Fatalf("cancel %s: %d %v", a.orderID, code, doc)
	}
}

// tables are all of the ledger's.
var tables = []string{"skus", "stock", "orders", "buyers", "stock_moves", "outbox", "due", "payments", "job_leases", "change_counter", "buyer_work", "installation"}

func (c *cluster) exec(queries ...string) {
	c.t.Helper()
	for _, q := range queries {
		if _, err := c.db.Exec(q); err != nil {
			c.t.Fatalf("%s: %v", q, err)
		}
	}
}

// copyLedger keeps the ledger as it is now: what an asynchronous replica has received.
func (c *cluster) copyLedger() (old string) {
	c.t.Helper()
	old = c.maria.Database + "_old"
	c.exec("CREATE DATABASE " + old)
	c.t.Cleanup(func() { c.exec("DROP DATABASE " + old) })
	for _, table := range tables {
		c.exec("CREATE TABLE "+old+"."+table+" LIKE "+table, "INSERT INTO "+old+"."+table+" SELECT * FROM "+table)
	}
	return old
}

// promote puts the copy in the ledger's place.
func (c *cluster) promote(old string) {
	c.t.Helper()
	for _, table := range tables {
		c.exec("DELETE FROM "+table, "INSERT INTO "+table+" SELECT * FROM "+old+"."+table)
	}
}

// drained waits until everything is published and acknowledged.
func (c *cluster) drained() {
	c.t.Helper()
	testenv.Eventually(c.t, func() bool { return c.query("SELECT COUNT(*) FROM outbox") == 0 }, "the outbox is empty")
}

// sell has n new buyers buy one each.
func (c *cluster) sell(sku, prefix string, n int) []answer {
	c.t.Helper()
	answers := rush(n, 50, nil, func(i int) answer {
		return c.insist(i, sku, fmt.Sprintf("%s-%d", prefix, i), "the-key")
	})
	for _, a := range answers {
		if !a.yes() {
			c.t.Fatalf("%+v", a)
		}
	}
	return answers
}

// TestRestoreAfterALostTail loses the ledger's last transactions, as a replica does that
// is promoted without them, and puts back every published order.
func TestRestoreAfterALostTail(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_PAYMENTS__WEBHOOK_SECRETS=" + paymentSecret}})
	const total = 600
	c.putSKU("shoe", map[string]any{"total": total, "per_user_limit": 1, "segments": 2})
	c.putSKU("hat", map[string]any{"total": total, "heat": "cold"})
	status := map[string]string{} // what each order has become
	ends := func(answers []answer, event string) {
		for i, a := range answers {
			status[a.orderID] = "reserved"
			switch i % 5 {
			case 0:
				c.pay(c.gates[0], event+a.orderID, a.orderID)
				status[a.orderID] = "paid"
			case 1:
				c.cancel(c.gates[1], a)
				status[a.orderID] = "cancelled"
			case 2:
				c.cancel(c.gates[0], a)
				c.pay(c.gates[1], event+a.orderID, a.orderID)
				status[a.orderID] = "paid"
			}
		}
	}
	early := append(c.sell("shoe", "early", 100), c.sell("hat", "early", 50)...)
	ends(early[:40], "e1/")
	old := c.copyLedger()
	late := append(c.sell("shoe", "late", 150), c.sell("hat", "late", 50)...)
	ends(late, "l/")
	ends(early[40:], "e2/")
	c.drained()
	for _, g := range c.gates {
		g.Kill()
	}
	c.promote(old)
	lost := c.query("SELECT COUNT(*) FROM orders")
	if out, ok := c.command("audit"); ok || !strings.Contains(out, "results_known: ") || !strings.Contains(out, "the ledger has no such order") {
		t.Errorf("the audit of a ledger that lost orders: ok %v\n%s", ok, out)
	}
	out, ok := c.command("restore", "--dry-run")
	if !ok || strings.Count(out, "would restore: ") < 200 || c.query("SELECT COUNT(*) FROM orders") != lost {
		t.Errorf("dry run: ok %v\n%s", ok, out)
	}
	// The sale goes on while it is put back, with gateways that know nothing of it.
	c.startGate(2)
	c.startGate(3)
	for _, g := range c.running() {
		c.awaitReady(g)
	}
	more := make(chan []answer, 1)
	go func() { more <- c.sell("shoe", "more", 50) }() // joined by <-more below
	out, ok = c.command("restore")
	if !ok || strings.Contains(out, "NOT RESTORED") {
		t.Errorf("restore: ok %v\n%s", ok, out)
	}
	all := append(append(early, late...), <-more...)
	for _, a := range all {
		want := status[a.orderID]
		if want == "" {
			want = "reserved"
		}
		var got string
		if err := c.db.QueryRow("SELECT status FROM orders WHERE order_id = ?", rawID(t, a.orderID)).Scan(&got); err != nil || got != want {
			t.Errorf("order %s of %s is %q, want %q: %v", a.orderID, a.buyer, got, want, err)
		}
	}
	for i, a := range all {
		if i%7 != 0 {
			continue
		}
		sku := "shoe"
		if c.query("SELECT COUNT(*) FROM orders WHERE order_id = ? AND sku = 'hat'", rawID(t, a.orderID)) == 1 {
			sku = "hat"
		}
		if b := c.insist(i, sku, a.buyer, "the-key"); b.code != 200 || b.orderID != a.orderID {
			t.Errorf("the repeat of %+v heard %+v", a, b)
		}
	}
	c.drained()
	c.checkAudit()
	if out, ok := c.command("restore"); !ok || !strings.Contains(out, " 0 orders lacked") {
		t.Errorf("restore again: ok %v\n%s", ok, out)
	}
	// To the last unit, and not one more.
	live := c.query("SELECT SUM(quantity) FROM orders WHERE sku = 'shoe' AND status IN ('reserved','paid')")
	rest := rush(int(total-live)+100, 50, nil, func(i int) answer {
		return c.insist(i, "shoe", fmt.Sprintf("rest-%d", i), "k")
	})
	if got := tally(rest); got["201 reserved"]+got["200 reserved"] != int(total-live) {
		t.Errorf("of %d units left: %v", total-live, got)
	}
	c.drained()
	c.checkAudit()
}

// TestRestoreWhatWasSoldAgain: the ledger lost orders, and sold their units to others
// before anybody noticed. What cannot be put back is listed, and nothing is oversold.
func TestRestoreWhatWasSoldAgain(t *testing.T) {
	c := newCluster(t, 1, parts{})
	const total = 100
	c.putSKU("shoe", map[string]any{"total": total})
	c.sell("shoe", "early", 20)
	c.drained()
	old := c.copyLedger()
	late := c.sell("shoe", "late", 60)
	c.drained()
	c.gates[0].Kill()
	c.promote(old)
	c.redis.FlushAll(t)
	c.startGate(1)
	c.awaitReady(c.gates[1])
	c.sell("shoe", "again", 50) // 30 are left
	out, ok := c.command("restore")
	if ok || strings.Count(out, "NOT RESTORED (no_stock)") != 30 || strings.Count(out, "restored: order") != 30 {
		t.Errorf("restore: ok %v\n%s", ok, out)
	}
	c.checkStock("shoe")
	if sold := c.query("SELECT SUM(sold) FROM stock"); sold != total {
		t.Errorf("%d of %d sold", sold, total)
	}
	back := 0
	for i, a := range late {
		if c.query("SELECT COUNT(*) FROM orders WHERE order_id = ?", rawID(t, a.orderID)) == 1 {
			back++
		}
		if i%10 == 0 && !strings.Contains(out, a.orderID) {
			t.Errorf("nothing is said of %s", a.orderID)
		}
	}
	if back != 30 {
		t.Errorf("%d are back", back)
	}
	// The audit goes on saying it, until somebody has decided what is to become of them.
	c.drained()
	if out, ok := c.command("audit"); ok || strings.Count(out, "results_known: ") != 30 {
		t.Errorf("audit: ok %v\n%s", ok, out)
	}
}

// rawID is an order id as the ledger keeps it.
func rawID(t testing.TB, id string) []byte {
	t.Helper()
	b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(id))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
