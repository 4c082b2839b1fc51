package faults

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"flashgate/internal/testenv"
)

// TestAuditOfDev audits the development mode, from inside while it runs and from outside
// when it does not, before and after something is broken in its ledger.
func TestAuditOfDev(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process; run without -short")
	}
	data := t.TempDir()
	port, admin := testenv.Port(t), testenv.Port(t)
	p := testenv.StartProcess(t, "dev", testenv.Spec{
		Path: testenv.Binary(t), Args: []string{"dev", "--data", data},
		Env: []string{
			fmt.Sprintf("FLASHGATE_SERVER__LISTEN=127.0.0.1:%d", port),
			fmt.Sprintf("FLASHGATE_ADMIN__LISTEN=127.0.0.1:%d", admin),
		},
	})
	d := startDev(t, p)
	orders := 0
	for range 3 {
		if strings.Contains(sh(t, d.curl+" -s"), `"order_id"`) {
			orders++
		}
	}
	if orders == 0 {
		t.Fatal("dev sold nothing")
	}
	testenv.Eventually(t, func() bool {
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/v1/audit", admin), nil)
		req.Header.Set("Authorization", "Bearer "+d.key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer drain(res)
		var doc struct {
			OK     bool `json:"ok"`
			Orders int  `json:"orders"`
			Events int  `json:"events"`
			SKUs   int  `json:"skus_in_shield"`
		}
		if err := json.NewDecoder(res.Body).Decode(&doc); err != nil {
			t.Fatal(err)
		}
		// The events are on the stream, and no longer in the outbox.
		return doc.OK && doc.Orders >= orders && doc.SKUs == 1 && doc.Events == doc.Orders
	}, "the audit is clean, and everything is published")
	http.DefaultClient.CloseIdleConnections()
	if err := p.Terminate(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(data, "ledger.db")
	audit := func() (string, error) {
		cmd := exec.Command(testenv.Binary(t), "audit")
		cmd.Env = append(os.Environ(), "FLASHGATE_LEDGER__DRIVER=sqlite", "FLASHGATE_LEDGER__DSN="+file)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := audit(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec("UPDATE stock SET sold = sold + 1"); err != nil {
		t.Fatal(err)
	}
	if out, err := audit(); err == nil || !strings.Contains(out, "stock_sold: sku demo-sneaker: ") {
		t.Errorf("%v\n%s", err, out)
	}
}
