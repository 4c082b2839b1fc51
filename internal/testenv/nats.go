package testenv

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// NATSServer is a nats-server with JetStream on disk. Stop, Cont, Kill and the like
// are those of its process.
type NATSServer struct {
	*Process
	URL     string
	Monitor string // http address of its monitoring port
	Port    int
	health  string
}

// NATS starts a nats-server for this test, of the version that go.mod names; extra
// are further arguments ("-c", "file").
func NATS(t testing.TB, extra ...string) *NATSServer {
	t.Helper()
	needsServers(t)
	path, err := natsBinary()
	if err != nil {
		t.Fatal(err)
	}
	port, monitor := Port(t), Port(t)
	args := append([]string{
		"-a", "127.0.0.1", "-p", strconv.Itoa(port), "-m", strconv.Itoa(monitor),
		"-js", "-sd", filepath.Join(tempDir(t), "js"),
	}, extra...)
	n := &NATSServer{
		URL: "nats://" + loopback(port), Port: port, Monitor: "http://" + loopback(monitor),
		health: "http://" + loopback(monitor) + "/healthz",
	}
	n.Process = StartProcess(t, "nats-"+strconv.Itoa(port), Spec{Path: path, Args: args})
	if err := n.awaitReady(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Restart kills the server, if it runs, and starts it again on the same port and
// store.
func (n *NATSServer) Restart(t testing.TB) {
	t.Helper()
	n.Kill()
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.awaitReady(); err != nil {
		t.Fatal(err)
	}
}

// awaitReady waits until JetStream has recovered its streams.
func (n *NATSServer) awaitReady() error {
	client := http.Client{Timeout: Patience / 4, Transport: &http.Transport{DisableKeepAlives: true}}
	return n.await(func() error {
		res, err := client.Get(n.health)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("health check answers %s", res.Status)
		}
		return nil
	})
}

const natsModule = "github.com/nats-io/nats-server/v2"

// natsBinary builds the server from its module once per version.
func natsBinary() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", natsModule).Output()
	if err != nil {
		return "", fmt.Errorf("which %s: %w", natsModule, err)
	}
	return cached("nats-server-"+strings.TrimSpace(string(out)), func(path string) error {
		if out, err := exec.Command("go", "build", "-o", path, natsModule).CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
}
