package faults

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

// serveInVain starts a gateway that must not come up, and returns what it says.
func (c *cluster) serveInVain(env ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), testenv.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, testenv.Binary(c.t), "serve")
	cmd.Env = append(append(os.Environ(), c.env...), "FLASHGATE_SERVER__LISTEN=127.0.0.1:0", "FLASHGATE_ADMIN__LISTEN=127.0.0.1:0")
	cmd.Env = append(cmd.Env, env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil {
		c.t.Errorf("it ends by itself: %v, %v\n%s", err, ctx.Err(), out)
	}
	return string(out)
}

// TestTwoInstallations: two that share Redis or NATS without knowing do not mix: the second
// does not begin. With a namespace each sells its own, under the same names.
func TestTwoInstallations(t *testing.T) {
	first := newCluster(t, 1, parts{})
	first.putSKU("shoe", map[string]any{"total": 30, "heat": "hot"})
	second := newCluster(t, 0, parts{})
	redis, nats := "FLASHGATE_REDIS__ADDRS="+first.redis.Addr, "FLASHGATE_NATS__URL="+first.nats.URL
	testenv.Eventually(t, func() bool { return first.redis.MustDo(t, "EXISTS", "fg:installation") == "1" }, "the first one's mark is in Redis")
	for what, env := range map[string]string{"Redis": redis, "NATS": nats} {
		out := second.serveInVain(env)
		lines := 0
		for line := range strings.Lines(out) {
			if strings.Contains(line, "belongs to another installation") && !strings.Contains(line, `"level"`) {
				lines++
			}
		}
		if lines != 1 {
			t.Errorf("a shared %s: %d lines say so:\n%s", what, lines, out)
		}
	}
	second.startGate(0, redis, nats, "FLASHGATE_NAMESPACE=two")
	second.awaitReady(second.gates[0])
	second.putSKU("shoe", map[string]any{"total": 20, "heat": "hot"})
	var answers [2][]answer
	for i, c := range []*cluster{first, second} {
		answers[i] = c.sellOut("shoe", 60)
	}
	first.checkSoldOut("shoe", 30)
	second.checkSoldOut("shoe", 20)
	for i, c := range []*cluster{first, second} {
		c.checkYes("shoe", answers[i])
	}
	testenv.Eventually(t, func() bool {
		return len(strings.Fields(first.redis.MustDo(t, "KEYS", "fg:*{shoe:0}:gen"))) == 2
	}, "each has a copy in Redis")
	first.checkPublished("shoe", first.orderIDs("shoe"))
	// What a flush takes away is no sign of somebody else.
	first.redis.FlushAll(t)
	testenv.Eventually(t, func() bool {
		return first.redis.MustDo(t, "EXISTS", "fg:installation", "fg:two:installation") == "2"
	}, "both are marked again")
	for _, c := range []*cluster{first, second} {
		c.putSKU("sock", map[string]any{"total": 5, "heat": "hot"})
		testenv.Eventually(t, c.sells(c.gates[0], "sock", "after"), "it sells after the flush")
	}
}

// TestALedgerMadeAnew: what another installation published is put into a ledger only when
// it is said to be that one's.
func TestALedgerMadeAnew(t *testing.T) {
	for what, flushed := range map[string]bool{"Redis as it was": false, "Redis empty": true} {
		t.Run(what, func(t *testing.T) { madeAnew(t, flushed) })
	}
}

func madeAnew(t *testing.T, flushed bool) {
	old := newCluster(t, 1, parts{})
	old.putSKU("shoe", map[string]any{"total": 30, "heat": "hot"})
	old.sellOut("shoe", 40)
	old.drained()
	old.gates[0].Kill()
	if flushed {
		old.redis.FlushAll(t)
	}
	anew := newCluster(t, 0, parts{redis: old.redis})
	anew.env = append(anew.env, "FLASHGATE_NATS__URL="+old.nats.URL)
	if out, ok := anew.command("sku", "put", "shoe", "--total", "30", "--unit-price", "1", "--currency", "EUR"); !ok {
		t.Fatal(out)
	}
	if out, ok := anew.command("restore"); ok || !strings.Contains(out, "restore --adopt") || anew.query("SELECT COUNT(*) FROM orders") != 0 {
		t.Errorf("without being asked to: %s", out)
	}
	// A gateway that is started too soon leaves nothing behind that is in the way.
	if out := anew.serveInVain(); !strings.Contains(out, "another installation") {
		t.Errorf("a gateway begins: %s", out)
	}
	if out, ok := anew.command("restore", "--adopt", "--dry-run"); !ok || strings.Count(out, "would restore") != 30 {
		t.Errorf("as it would be: %s", out)
	}
	if out, ok := anew.command("restore", "--adopt"); !ok || anew.query("SELECT COUNT(*) FROM orders") != 30 {
		t.Errorf("adopted: %s", out)
	}
	anew.startGate(0)
	anew.awaitReady(anew.gates[0])
	testenv.Eventually(t, func() bool { return anew.buy(anew.gates[0], "shoe", "late", "").code == 409 }, "it goes on with the same Redis and NATS")
	anew.checkSoldOut("shoe", 30)
}
