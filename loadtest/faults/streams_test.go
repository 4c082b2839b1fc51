package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"flashgate/internal/testenv"
)

// TestStreamsThatCannotBeUpdated: gateways that ask for three replicas of a server that is
// alone find streams which have one. Claims are parked and drained all the same, buyers
// afterwards hear a verdict at once, and operators are told.
func TestStreamsThatCannotBeUpdated(t *testing.T) {
	c := newCluster(t, 1, parts{maria: testenv.OwnMariaDB(t)})
	c.putSKU("shoe", map[string]any{"total": 200, "heat": "hot"})
	all := c.warm("shoe", 10)
	c.gates[0].Kill()
	for i := range 2 {
		c.awaitReady(c.startGate(1+i, "FLASHGATE_NATS__REPLICAS=3"))
	}
	all = append(all, c.sell("shoe", "loads", 10)...)
	c.away()
	queued := c.queue("shoe", 100, nil)
	c.maria.Restart(t)
	if ends := c.verdicts(queued); ends["200 reserved "] != len(queued) {
		t.Errorf("verdicts of the queued: %v", ends)
	}
	for i := range 10 {
		a := c.insist(i, "shoe", fmt.Sprintf("afterwards-%d", i), "k")
		if !a.yes() {
			t.Errorf("a buyer afterwards: %+v", a)
		}
		all = append(all, a)
	}
	live := c.checkYes("shoe", append(all, queued...))
	c.checkPublished("shoe", live)
	for _, g := range c.running() {
		res, err := c.http.Get(g.admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Status  string   `json:"status"`
			Details []string `json:"details"`
		}
		err = json.NewDecoder(res.Body).Decode(&doc)
		drain(res)
		if err != nil || res.StatusCode != http.StatusOK || doc.Status != "ready" || len(doc.Details) != 2 || !strings.Contains(doc.Details[0], "1 replicas, not 3") {
			t.Errorf("readyz of %s: %d %+v, %v", g.Name, res.StatusCode, doc, err)
		}
	}
	out, ok := c.commandWith([]string{"FLASHGATE_NATS__REPLICAS=3", "FLASHGATE_REDIS__READ_TIMEOUT=5s"}, "audit")
	if !ok || strings.Count(out, "warning: results_streams: ") != 2 {
		t.Errorf("the audit says:\n%s", out)
	}
}
