//go:build bench

package bench

import (
	"fmt"
	"testing"

	"flashgate/internal/testenv"
)

// oldSKU is how many orders each SKU of former sales has.
const oldSKU = 5000

// fillHistory adds paid orders of former sales, n in all, whose rows the ledger's buffer
// pool is far too small for.
func (r *rig) fillHistory(n int) {
	r.t.Helper()
	const chunk = 250_000
	for from := r.orders(); from < int64(n); from += chunk {
		_, err := r.db.Exec(fmt.Sprintf(`INSERT INTO orders (order_id, sku, segment, user_id, quantity, amount, currency, coupon, status, request_hash, reserved_at, pay_by, version)
			SELECT CONCAT(UNHEX(LEFT(SHA2(CONCAT('old-', seq DIV %[1]d), 256), 10)), LEFT(UNHEX(MD5(seq)), 11)), CONCAT('old-', seq DIV %[1]d), 0, CONCAT('buyer-', seq), 1, 4999, 'EUR', '',
			'paid', LEFT(UNHEX(MD5(seq)), 8), 1700000000000 + seq, 1700000900000 + seq, 2 FROM seq_%[2]d_to_%[3]d`, oldSKU, from, from+chunk-1))
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestBenchHistory measures a sale beside the orders of former ones, with a buffer pool that
// holds a small part of them, and a sale in an empty ledger.
func TestBenchHistory(t *testing.T) {
	small := func() *rig {
		return newRigOn(t, testenv.OwnMariaDB(t, "--innodb-buffer-pool-size=128M"), testenv.NATS(t))
	}
	empty, full := small(), small()
	series := map[string][]load{}
	for _, millions := range []int{1, 5} {
		full.fillHistory(millions * 1_000_000)
		name := fmt.Sprintf("%d million", millions)
		for round := range *rounds {
			sku := fmt.Sprintf("sale-%d-%d", millions, round)
			for _, r := range []*rig{empty, full} {
				r.put(sku, 1_000_000_000)
				r.warm("SKU=" + sku)
			}
			run(t, "empty beside "+name, func() load { return empty.reserve("SKU=" + sku) }, series)
			run(t, name, func() load { return full.reserve("SKU=" + sku) }, series)
		}
		report(t, "history", "empty beside "+name, []string{"empty beside " + name, name}, series)
	}
}
