package deduct

import (
	"errors"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// A gateway that reaches one master has a link to Redis, whatever became of the others.
func TestClusterAnswersWhileAnyMasterDoes(t *testing.T) {
	testenv.ClusterTier(t)
	c := testenv.Cluster(t, 3)
	sku := testSKU(0, 1)
	s := newShield(t, c.Masters[0].Addr, newFakeLedger(sku, 1), func(cfg *Config) {
		cfg.Addrs, cfg.DialTimeout, cfg.ReadTimeout = c.Addrs(), time.Second, time.Second
	})
	answers := func() bool { return s.Answers(t.Context()) == nil }
	testenv.Eventually(t, answers, "all are there")
	c.Masters[0].Kill()
	testenv.Eventually(t, func() bool { return s.Ping(t.Context()) != nil }, "one is missed")
	testenv.Eventually(t, answers, "two are there")
	c.Masters[1].Stop()
	testenv.Eventually(t, answers, "one is there, and one hangs")
	c.Masters[2].Kill()
	testenv.Eventually(t, func() bool { return errors.Is(s.Answers(t.Context()), sale.ErrUnavailable) }, "none is there")
	c.Masters[1].Cont()
	testenv.Eventually(t, answers, "one is back")
}
