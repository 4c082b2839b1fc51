package faults

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"flashgate/internal/testenv"
)

// TestOrdersAreArchived closes a sale that sold out, has it be over for long, and asks for its
// orders while they are moved, while a gateway dies, and afterwards; another sale goes on
// beside. Then one buyer is erased.
func TestOrdersAreArchived(t *testing.T) {
	c := newCluster(t, 2, parts{env: []string{"FLASHGATE_PAYMENTS__WEBHOOK_SECRETS=" + paymentSecret, "FLASHGATE_RETENTION__ORDERS=24h", "FLASHGATE_NATS__RESULTS_MAX_AGE=24h", "FLASHGATE_RETENTION__RATE=1000"}})
	const old, each = 1500, 40
	c.putSKU("old", map[string]any{"total": old, "per_user_limit": 1})
	c.putSKU("new", map[string]any{"total": stock})
	answers := rush(old, 100, nil, func(i int) answer { return c.insist(i, "old", fmt.Sprintf("buyer-%d", i), "k") })
	sold := c.orderIDs("old")
	if len(sold) != old {
		t.Fatalf("%d orders", len(sold))
	}
	var paid []answer
	for _, a := range answers {
		if sold[a.orderID] && len(paid) < each {
			c.pay(c.gates[0], "evt-"+a.orderID, a.orderID)
			paid = append(paid, a)
		}
	}
	out, ok := c.audit()
	position := positionLine.FindStringSubmatch(out)
	if !ok || position == nil {
		t.Fatalf("%s", out)
	}
	c.timeIsUp("old")
	testenv.Eventually(t, func() bool {
		return c.query("SELECT COUNT(*) FROM orders WHERE sku = 'old' AND status = 'reserved'") == 0
	}, "what was not paid has expired")
	if code, doc := c.operate("PATCH", "/v1/skus/old", map[string]any{"state": "closed"}); code != 200 {
		t.Fatalf("%d %v", code, doc)
	}
	c.exec("UPDATE skus SET changed_at = changed_at - 25 * 3600000 WHERE sku = 'old'")
	testenv.Eventually(t, func() bool { return c.query("SELECT COUNT(*) FROM orders_archive") > 0 }, "archiving begins")
	c.gates[0].Kill()
	gate := c.running()[0]
	c.buy(gate, "new", "ann", "k")
	for _, a := range paid {
		if code, status, _ := c.order(gate, a.buyer, a.orderID); code != 200 || status != "paid" {
			t.Errorf("order %s: %d %s", a.orderID, code, status)
		}
	}
	testenv.Eventually(t, func() bool {
		_, doc := c.operate("GET", "/v1/skus/old", nil)
		return doc["archive"] == "archived"
	}, "all orders are archived")
	if n, sum := c.query("SELECT COUNT(*) FROM orders_archive"), c.query("SELECT SUM(archived) FROM stock WHERE sku = 'old' AND sold = archived"); n != old || sum != each {
		t.Errorf("%d orders and %d units are archived", n, sum)
	}
	a := paid[0]
	if code, status, _ := c.order(gate, a.buyer, a.orderID); code != 200 || status != "paid" {
		t.Errorf("%d %s", code, status)
	}
	if code, doc := c.delete(gate, a); code != 409 || doc["code"] != "already_paid" {
		t.Errorf("%d %v", code, doc)
	}
	if code, doc := c.webhook(gate, "evt-"+a.orderID, a.orderID); code != 200 {
		t.Errorf("%d %v", code, doc)
	}
	if again := c.buy(gate, "old", a.buyer, a.key); again.code != http.StatusConflict {
		t.Errorf("a repeat hears %+v", again)
	}
	if code, doc := c.operate("PATCH", "/v1/skus/old", map[string]any{"state": "open"}); code != 409 || doc["code"] != "sale_closed" {
		t.Errorf("opened again: %d %v", code, doc)
	}
	_, doc := c.operate("GET", "/v1/audit-log?target=old", nil)
	var did []string
	entries, _ := doc["entries"].([]any)
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		did = append(did, fmt.Sprint(entry["by"], " ", entry["action"]))
	}
	if got := strings.Join(did, ", "); got != "flashgate archive.archived, flashgate archive.archiving, admin sku.patch, admin sku.put" {
		t.Errorf("the operators' log says %s", got)
	}
	c.checkAudit()
	if out, ok := c.audit("--since", position[1]); !ok {
		t.Errorf("since %s:\n%s", position[1], out)
	}
	if out, ok := c.command("restore", "--dry-run"); !ok || !strings.Contains(out, " 0 orders lacked") {
		t.Errorf("%s", out)
	}
	if out, ok := c.command("erase", a.buyer); !ok || !strings.Contains(out, "1 orders no longer name the user") {
		t.Errorf("%s", out)
	}
	if out, ok := c.command("erase", "ann"); ok || !strings.Contains(out, "left: sku new: ") {
		t.Errorf("%s", out)
	}
	if code, _, _ := c.order(gate, a.buyer, a.orderID); code != 404 {
		t.Errorf("whose user id was erased is shown their order: %d", code)
	}
	c.checkAudit()
	if out, ok := c.command("restore", "--dry-run"); !ok || !strings.Contains(out, " 0 orders lacked") {
		t.Errorf("%s", out)
	}
}
