package results

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashgate/internal/testenv"
)

// What a server does with what it acknowledges is read from it and said; where it has to
// sync and does not, nothing begins.
func TestServersAreAskedWhetherTheySync(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	conf := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(conf, []byte("jetstream { sync_interval: always }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synced, lazy := testenv.NATS(t, "-c", conf), testenv.NATS(t)
	at := func(url string, require bool, monitors ...string) *Conn {
		return connecting(t, Config{URL: url, Monitors: monitors, RequireSync: require})
	}
	sure := at(synced.URL, true, synced.Monitor)
	during(t, sure.Run)
	testenv.Eventually(t, func() bool { return sure.syncing.Load() != nil && sure.ready() }, "the server is asked")
	if d := sure.Details(); len(d) != 0 {
		t.Errorf("of a server that syncs: %q", d)
	}
	unsure := at(lazy.URL, false, synced.Monitor, lazy.Monitor, strings.Replace(nowhere, "nats:", "http:", 1))
	during(t, unsure.Run)
	testenv.Eventually(t, func() bool { return unsure.syncing.Load() != nil && unsure.ready() }, "the servers are asked")
	if d := unsure.Details(); len(d) != 2 || !strings.Contains(d[0], "sync_interval is 2m0s, not always") || !strings.Contains(d[1], "is unknown") {
		t.Errorf("of one that does not, and one that does not answer: %q", d)
	}
	if err := at(lazy.URL, true, synced.Monitor, lazy.Monitor).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not always") {
		t.Errorf("where it has to: %v", err)
	}
}

func TestWhatNoMonitoringPortSays(t *testing.T) {
	for _, answer := range []string{"", "hello", "{}", `{"server_id":"A","disabled":true}`, `{"server_id":"A","config":[]}`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/jsz" || answer == "" {
				w.WriteHeader(http.StatusNotFound)
			}
			_, _ = w.Write([]byte(answer))
		}))
		if _, _, err := askServer(t.Context(), s.URL+"/"); err == nil {
			t.Errorf("%q says something of JetStream", answer)
		}
		s.Close()
	}
}
