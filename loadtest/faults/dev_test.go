package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"flashgate/internal/testenv"
)

// dev is the development mode as a newcomer meets it: started as a process, and known
// by what it prints.
type dev struct {
	*testenv.Process
	base, key, curl string
}

func startDev(t *testing.T, p *testenv.Process) *dev {
	t.Helper()
	d := &dev{Process: p}
	from := len(p.Output())
	if !p.Running() {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, func() bool {
		out := p.Output()[from:]
		for line := range strings.Lines(out) {
			line = strings.TrimRight(line, "\n")
			if strings.HasPrefix(line, "curl ") {
				d.curl = line
			}
		}
		if m := regexp.MustCompile(`(?i)admin key\W+(\S+)`).FindStringSubmatch(out); m != nil {
			d.key = m[1]
		}
		return d.curl != "" && d.key != ""
	}, "dev prints a curl line and its admin key:\n%s", p.Output())
	m := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(d.curl)
	if m == "" {
		t.Fatalf("no address in %q", d.curl)
	}
	d.base = m
	return d
}

func TestDevAsANewcomerMeetsIt(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a process; run without -short")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("the printed line needs curl")
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
	if !strings.Contains(p.Output(), "one machine") {
		t.Error("dev does not say that it is for one machine")
	}
	// Nobody else of this machine reads what is sold, and no page from elsewhere sells it.
	for _, name := range []string{"ledger.db", "nats", "admin.key"} {
		info, err := os.Stat(filepath.Join(data, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", name, info.Mode())
		}
	}
	if out := sh(t, d.curl+` -s -H 'Host: evil.example'`); !strings.Contains(out, `"misdirected"`) {
		t.Errorf("another machine's name: %s", out)
	}
	var placed []string
	tries := 0
	for range 3 {
		var order struct {
			ID   string `json:"order_id"`
			User string `json:"user_id"`
			SKU  string `json:"sku"`
		}
		testenv.Eventually(t, func() bool {
			tries++
			out := sh(t, d.curl+` -s -w '\n%{http_code}'`)
			// -i or other flags in the line may print more than the body.
			from, to := strings.IndexByte(out, '{'), strings.LastIndexByte(out, '}')+1
			code := strings.TrimSpace(out[to:])
			if code == "503" || code == "202" {
				return false // too busy
			}
			if err := json.Unmarshal([]byte(out[max(0, from):to]), &order); err != nil || code != "201" {
				t.Fatalf("%s\nprinted %s", d.curl, out)
			}
			return true
		}, "the printed line buys")
		placed = append(placed, order.User+" "+order.ID+" "+order.SKU)
	}
	p.Kill() // -9
	_ = p.Wait()
	d = startDev(t, p)
	sku := ""
	for _, o := range placed {
		f := strings.Fields(o)
		sku = f[2]
		req, _ := http.NewRequest("GET", d.base+"/v1/orders/"+f[1], nil)
		req.Header.Set("X-User-ID", f[0])
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 200 || !strings.Contains(string(body), `"reserved"`) {
			t.Errorf("after kill -9, GET %s: %d %s", f[1], res.StatusCode, body)
		}
	}
	req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/v1/skus/%s", admin, sku), nil)
	req.Header.Set("Authorization", "Bearer "+d.key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	var view struct{ Sold, Total, Reserved, Available int64 }
	_ = json.NewDecoder(res.Body).Decode(&view)
	_ = res.Body.Close()
	if view.Sold < int64(len(placed)) || view.Sold > int64(tries) || view.Available != view.Total-view.Reserved-view.Sold {
		t.Errorf("after kill -9 the stock is %+v for %d orders of %d tries", view, len(placed), tries)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := p.Terminate(); err != nil {
		t.Errorf("dev ended with %v", err)
	}
	if _, err := os.Stat(data); err != nil {
		t.Error(err)
	}
}

func sh(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
