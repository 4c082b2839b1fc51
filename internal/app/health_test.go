package app

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

func TestLocalAddr(t *testing.T) {
	for listen, want := range map[string]string{
		":8080": "127.0.0.1:8080", "0.0.0.0:8080": "127.0.0.1:8080", "[::]:8080": "127.0.0.1:8080",
		"10.1.2.3:8080": "10.1.2.3:8080", "127.0.0.1:1": "127.0.0.1:1", "edge.internal:80": "edge.internal:80",
	} {
		if got := localAddr(listen); got != want {
			t.Errorf("a listener of %s is reached at %s, want %s", listen, got, want)
		}
	}
}

func TestHealth(t *testing.T) {
	alive := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/livez" && (r.URL.Path != "/readyz" || !alive) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Setenv("FLASHGATE_ADMIN__LISTEN", strings.TrimPrefix(server.URL, "http://"))
	live, ready := healthCmd{Timeout: testenv.Patience}, healthCmd{Timeout: testenv.Patience, Ready: true}
	for _, h := range []healthCmd{live, ready} {
		if err := h.Run(t.Context()); err != nil {
			t.Errorf("%+v: %v", h, err)
		}
	}
	alive = false
	if err := live.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if err := ready.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("not ready: %v", err)
	}
	server.Close()
	if err := live.Run(t.Context()); err == nil {
		t.Error("nobody listens, and all is well")
	}
}

// A listener with TLS is asked by TLS, whatever name its certificate is for.
func TestHealthByTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Setenv("FLASHGATE_ADMIN__LISTEN", strings.TrimPrefix(server.URL, "https://"))
	h := healthCmd{Timeout: testenv.Patience}
	if err := h.Run(t.Context()); err == nil {
		t.Error("TLS is spoken to by HTTP")
	}
	t.Setenv("FLASHGATE_ADMIN__TLS__CERT", "cert.pem")
	t.Setenv("FLASHGATE_ADMIN__TLS__KEY", "key.pem")
	if err := h.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// A gateway that accepts and does not answer is not healthy.
func TestHealthGivesUp(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	t.Setenv("FLASHGATE_ADMIN__LISTEN", silent.Addr().String())
	if err := (healthCmd{Timeout: 20 * time.Millisecond}).Run(context.Background()); err == nil {
		t.Error("nobody answers, and all is well")
	}
}
