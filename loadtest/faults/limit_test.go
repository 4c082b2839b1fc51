package faults

import (
	"fmt"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// TestFirstLimitOnManyOrders: a limit is set on a SKU that has sold a lot. The operator is
// answered at once, buyers hear of a pause until the orders are counted, and then the
// limit holds for whoever bought before, through every gateway.
func TestFirstLimitOnManyOrders(t *testing.T) {
	c := newCluster(t, 2, parts{})
	c.putSKU("shoe", map[string]any{"total": 100_000})
	if a := c.insist(0, "shoe", "ann", "first"); a.code != 201 {
		t.Fatalf("%+v", a)
	}
	// Two units of everybody else, as sales of long ago.
	const many = 50_000
	c.exec(fmt.Sprintf(`INSERT INTO orders (order_id, sku, segment, user_id, quantity, amount, currency, coupon, status, request_hash, reserved_at, pay_by)
		SELECT CONCAT(UNHEX(LEFT(SHA2('shoe', 256), 10)), LEFT(UNHEX(MD5(seq)), 11)), 'shoe', 0, CONCAT('buyer-', seq %% %d), 1, 4999, 'EUR', '', 'paid', REPEAT('x', 8), 1 + seq DIV 500, 1 FROM seq_1_to_%d`, many/2, many),
		fmt.Sprintf("UPDATE stock SET sold = sold + %d WHERE sku = 'shoe'", many))
	code, doc := c.operate("PATCH", "/v1/skus/shoe", map[string]any{"per_user_limit": 2})
	if code != 200 || doc["state"] != "paused" || doc["pending"] == nil || doc["per_user_limit"] != 2.0 {
		t.Fatalf("%d %v", code, doc)
	}
	testenv.Within(t, 10*time.Second, func() bool {
		code, doc := c.operate("GET", "/v1/skus/shoe", nil)
		return code == 200 && doc["state"] == "open" && doc["pending"] == nil
	}, "%d orders are counted", many)
	if n := c.query("SELECT COUNT(*) FROM buyers WHERE sku = 'shoe' AND units = 2"); n != many/2 {
		t.Errorf("%d buyers of two units, want %d", n, many/2)
	}
	for i := range c.gates {
		// The other gateway may hear of the end of the pause a little later.
		var a answer
		user := fmt.Sprint("buyer-", 7+i)
		testenv.Eventually(t, func() bool {
			a = c.insist(i, "shoe", user, "more")
			return a.problem != "sale_paused"
		}, "the pause is over")
		if a.problem != "purchase_limit" {
			t.Errorf("%s bought before, and hears %+v", user, a)
		}
	}
	if a := c.insist(0, "shoe", "ann", "second"); a.code != 201 {
		t.Errorf("ann may buy one more, and hears %+v", a)
	}
	if a := c.insist(1, "shoe", "ann", "third"); a.problem != "purchase_limit" {
		t.Errorf("ann may not buy a third, and hears %+v", a)
	}
}
