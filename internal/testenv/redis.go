package testenv

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// RedisServer is a redis-server without persistence: what it forgets when killed is
// gone. Stop, Cont, Kill and the like are those of its process.
type RedisServer struct {
	*Process
	Addr string
	Port int
}

// Redis starts a redis-server for this test; extra are further configuration
// arguments ("--maxmemory", "10mb").
func Redis(t testing.TB, extra ...string) *RedisServer {
	t.Helper()
	needsServers(t)
	path, err := program("redis-server", "redis-server")
	if err != nil {
		t.Fatal(err)
	}
	port := Port(t)
	args := append([]string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", tempDir(t),
		"--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
	}, extra...)
	r := &RedisServer{Addr: loopback(port), Port: port}
	r.Process = StartProcess(t, "redis-"+strconv.Itoa(port), Spec{Path: path, Args: args})
	if err := r.awaitReady(); err != nil {
		t.Fatal(err)
	}
	return r
}

// RedisReplica starts a redis-server that replicates another, and waits until it has
// caught up.
func RedisReplica(t testing.TB, of *RedisServer) *RedisServer {
	t.Helper()
	r := Redis(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(of.Port))
	Eventually(t, func() bool {
		info, err := r.Do("INFO", "replication")
		return err == nil && strings.Contains(info, "master_link_status:up")
	}, "the replica catches up")
	return r
}

func (r *RedisServer) awaitReady() error {
	return r.await(func() error {
		_, err := r.Do("PING")
		return err
	})
}

// Restart kills the server, if it runs, and starts it again on the same port, empty.
func (r *RedisServer) Restart(t testing.TB) {
	t.Helper()
	r.Kill()
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if err := r.awaitReady(); err != nil {
		t.Fatal(err)
	}
}

// FlushAll empties the server.
func (r *RedisServer) FlushAll(t testing.TB) {
	t.Helper()
	r.MustDo(t, "FLUSHALL")
}

// Promote makes a replica a master that no longer follows anybody.
func (r *RedisServer) Promote(t testing.TB) {
	t.Helper()
	r.MustDo(t, "REPLICAOF", "NO", "ONE")
}

// MustDo is Do for commands that must succeed.
func (r *RedisServer) MustDo(t testing.TB, args ...string) string {
	t.Helper()
	out, err := r.Do(args...)
	if err != nil {
		t.Fatalf("redis %v: %v", args, err)
	}
	return out
}

// Do sends one command over a connection of its own and returns the reply as text;
// the elements of an array stand one per line. It needs no client library, so that
// tests may look at the server past the code under test.
func (r *RedisServer) Do(args ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", r.Addr, Patience/4)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(Patience / 4))
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return "", err
	}
	return readReply(bufio.NewReader(conn))
}

func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, rest := line[0], strings.TrimRight(line[1:], "\r\n")
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", fmt.Errorf("redis: %s", rest)
	case '$', '*':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 {
			return "", err
		}
		if kind == '$' {
			b := make([]byte, n+2)
			_, err := io.ReadFull(r, b)
			return string(b[:n]), err
		}
		items := make([]string, n)
		for i := range items {
			if items[i], err = readReply(r); err != nil {
				return "", err
			}
		}
		return strings.Join(items, "\n"), nil
	}
	return "", fmt.Errorf("redis: reply of unknown kind %q", kind)
}
