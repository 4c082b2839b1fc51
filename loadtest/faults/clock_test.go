package faults

import (
	"fmt"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// TestLedgerClockSet has the ledger's clock go ahead by an hour in the middle of a sale, and
// back again: a server that took over with another clock. The sale sells out, all of it is
// published, and whatever runs by that clock goes on: leases, the outbox, expiry, loads,
// changes by operators, and the end of a sale.
func TestLedgerClockSet(t *testing.T) {
	maria, set := testenv.ClockedMariaDB(t)
	c := newCluster(t, 2, parts{maria: maria})
	for _, step := range []struct {
		name  string
		ahead time.Duration
	}{{"ahead", time.Hour}, {"back", 0}, {"behind", -time.Hour}} {
		sku := "shoe-" + step.name
		c.putSKU(sku, map[string]any{"total": 600, "pay_within": "100h"})
		answers := rush(400, 50, nil, func(i int) answer {
			if i == 150 {
				set(step.ahead)
			}
			return c.insist(i, sku, fmt.Sprintf("buyer-%d", i), "k")
		})
		noErrors(t, answers)
		if n := tally(answers)["201 reserved"] + tally(answers)["200 reserved"]; n != 400 {
			t.Errorf("%s: answers %v", step.name, tally(answers))
		}
		live := c.checkYes(sku, answers)
		c.checkPublished(sku, live)
		// A lease is free after ten seconds at most, and then whatever runs under one does.
		began := time.Now()
		brief := "brief-" + step.name
		c.putSKU(brief, map[string]any{"total": 1, "pay_within": "1s"})
		first := c.insist(0, brief, "ann", "k")
		again := c.insist(1, brief, "bob", "k")
		for n := 2; again.code != 201; n++ {
			if time.Since(began) > testenv.Patience {
				t.Fatalf("%s: what expires is not sold again: %+v", step.name, again)
			}
			again = c.insist(n, brief, "bob", fmt.Sprintf("k-%d", n))
		}
		testenv.Took(t, 20*time.Second, time.Since(began), "%s: an order expires and its unit is sold again", step.name)
		if code, doc := c.delete(c.gates[0], answers[0]); code != 200 {
			t.Errorf("%s: %d %v", step.name, code, doc)
		}
		if code, _, _ := c.order(c.gates[1], "ann", first.orderID); code != 200 {
			t.Errorf("%s: the order that expired: %d", step.name, code)
		}
		// A change by an operator is heard, and a sale that is over stays over.
		if code, _ := c.operate("PATCH", "/v1/skus/"+sku, map[string]any{"state": "closed"}); code != 200 {
			t.Errorf("%s: %d", step.name, code)
		}
		testenv.Within(t, 5*time.Second, func() bool {
			return c.buy(c.gates[0], sku, "late", "").problem == "sale_closed" && c.buy(c.gates[1], sku, "late", "").problem == "sale_closed"
		}, "%s: both gateways have heard that it is closed", step.name)
		testenv.Eventually(t, func() bool { return c.query("SELECT COUNT(*) FROM outbox") == 0 }, "%s: everything is published", step.name)
	}
	c.checkAudit()
}
