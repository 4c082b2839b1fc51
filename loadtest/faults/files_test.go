package faults

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"flashgate/internal/testenv"
)

// TestFewFiles runs a gateway that may open 300 files beside 400 idle connections: it
// refuses those that are too many, keeps what it needs for its own parts, and sells when
// some have gone.
func TestFewFiles(t *testing.T) {
	c := newCluster(t, 0, parts{})
	g := c.startGateIn(0, "ulimit -n 300; exec \"$0\" \"$@\"")
	c.awaitReady(g)
	c.putSKU("shoe", map[string]any{"total": 1000})
	addr := strings.TrimPrefix(g.url, "http://")
	var idle []net.Conn
	for range 400 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		idle = append(idle, conn)
	}
	// Operators and health are answered, and the parts work, while buyers have all there is.
	for i := range 20 {
		if code, doc := c.operate("PUT", fmt.Sprintf("/v1/skus/sku-%d", i), map[string]any{"total": 1, "unit_price": 1, "currency": "EUR"}); code != 201 {
			t.Fatalf("%d %v", code, doc)
		}
	}
	for _, conn := range idle {
		_ = conn.Close()
	}
	c.http.CloseIdleConnections()
	answers := rush(200, 20, nil, func(i int) answer { return c.insist(i, "shoe", fmt.Sprintf("buyer-%d", i), "k") })
	noErrors(t, answers)
	if got := tally(answers); got["201 reserved"]+got["200 reserved"] != 200 {
		t.Errorf("answers: %v", got)
	}
	if !g.Running() {
		t.Error("the gateway has ended")
	}
	testenv.Eventually(t, func() bool { return c.ready(g) }, "it is ready")
	c.checkAudit()
}
