package faults

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// holdRows is an operator's transaction that holds the stock rows of some SKUs until the
// function that it returns is called.
func (c *cluster) holdRows(like string) (release func()) {
	c.t.Helper()
	// At a higher level it would lock the row behind them too.
	tx, err := c.db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := tx.Exec("SELECT * FROM stock WHERE sku LIKE '" + like + "' FOR UPDATE"); err != nil {
		c.t.Fatal(err)
	}
	return sync.OnceFunc(func() { _ = tx.Rollback() })
}

// TestHeldRowsHoldUpNoOtherSKU holds the stock rows of some SKUs, hot and cold ones, for as
// long as it takes to sell out all others, to cancel some of that, and to have the rest
// expire. Nothing of it has to wait, and no breaker opens; then the held ones are sold.
func TestHeldRowsHoldUpNoOtherSKU(t *testing.T) {
	c := newCluster(t, 2, parts{})
	const total = 60
	var held, others []string
	for i, heat := range []string{"hot", "cold"} {
		for n := range 2 {
			held = append(held, fmt.Sprintf("m-held-%d%d", i, n))
			others = append(others, fmt.Sprintf("%c-other-%d", "az"[n], i))
			for _, sku := range []string{held[len(held)-1], others[len(others)-1]} {
				c.putSKU(sku, map[string]any{"total": total, "heat": heat, "per_user_limit": 2})
			}
		}
	}
	for _, sku := range slices.Concat(held, others) {
		for i := range 2 { // so that something of each falls due
			if a := c.insist(i, sku, fmt.Sprintf("early-%d", i), "k"); !a.yes() {
				t.Fatalf("%s: %+v", sku, a)
			}
		}
	}
	release := c.holdRows("m-held-%")
	defer release()

	// Buyers of the held ones keep coming, and one of them wants to cancel.
	waiting := make([][]answer, len(held))
	var wg sync.WaitGroup
	for k, sku := range held {
		wg.Go(func() {
			waiting[k] = rush(total-2, 10, nil, func(i int) answer {
				return c.insist(i, sku, fmt.Sprintf("buyer-%d", i), "k")
			})
		})
	}
	testenv.Eventually(t, func() bool {
		return c.metric("flashgate_ledger_held_skus") >= float64(len(held))
	}, "claims of all that are held wait apart")

	began := time.Now()
	sold := make([][]answer, len(others))
	var selling sync.WaitGroup
	for k, sku := range others {
		selling.Go(func() {
			sold[k] = rush(total-2, 10, nil, func(i int) answer {
				return c.insist(i, sku, fmt.Sprintf("buyer-%d", i), "k")
			})
		})
	}
	selling.Wait()
	testenv.Took(t, 8*time.Second, time.Since(began), "all others are sold out")
	for k, sku := range others {
		noErrors(t, sold[k])
		c.checkYes(sku, sold[k])
		c.checkSoldOut(sku, total)
		c.cancel(c.gates[k%2], sold[k][0])
	}
	// One time for both: the due list names the orders' own.
	now := c.query("SELECT FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000)")
	c.exec(fmt.Sprintf("UPDATE orders SET pay_by = %d WHERE status = 'reserved'", now), fmt.Sprintf("UPDATE due SET pay_by = %d", now))
	testenv.Within(t, 5*time.Second, func() bool {
		return c.query("SELECT COUNT(*) FROM orders WHERE sku LIKE '%-other-%' AND status = 'reserved'") == 0
	}, "all others expire")
	if n := c.query("SELECT SUM(sold) FROM stock WHERE sku LIKE 'm-held-%'"); n != int64(2*len(held)) {
		t.Errorf("%d units of held rows were sold", n)
	}
	// Claims of hot SKUs whose time ends are parked; the drain has to leave them too.
	testenv.Eventually(t, func() bool { return c.metric("flashgate_backlog_stuck_skus") > 0 }, "the drain leaves a held SKU")
	c.awaitBreaker("ledger", "closed")
	c.awaitBreaker("redis", "closed")

	release()
	freed := time.Now()
	testenv.Within(t, 10*time.Second, func() bool { return c.metric("flashgate_ledger_held_skus") == 0 }, "nothing waits apart any more")
	wg.Wait()
	t.Logf("all buyers of the held have their verdicts %v after it", time.Since(freed).Round(time.Millisecond))
	for k, sku := range held {
		noErrors(t, waiting[k])
		c.t.Logf("%s: %v", sku, tally(waiting[k]))
		live := c.checkYes(sku, waiting[k])
		if len(live) < total-2 {
			t.Errorf("%s: %d live orders", sku, len(live))
		}
		c.checkStock(sku)
	}
	c.checkAudit()
}
