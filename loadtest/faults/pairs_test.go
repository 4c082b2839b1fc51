package faults

import (
	"testing"

	"flashgate/internal/testenv"
)

// TestRedisAndNATSDown: the sale goes on around the shield, and what it has to tell the
// world waits in the outbox.
func TestRedisAndNATSDown(t *testing.T) {
	c := newCluster(t, 3, parts{redis: testenv.Redis(t)})
	c.putSKU("shoe", map[string]any{"total": stock, "per_user_limit": 1})
	answers := c.during("shoe", stock/4, func() {
		c.redis.Kill()
		c.nats.Kill()
		c.sellsOn(100)
		c.nats.Restart(t)
		c.redis.Restart(t)
	})
	c.checkSale("shoe", answers)
	c.drained()
	c.checkAudit()
}
