package gateway

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"flashgate/internal/testenv"
)

// An audit reads everything there is, and ends when whoever asked for it goes.
func TestAnAuditEndsWithItsCaller(t *testing.T) {
	t.Run("plain", func(t *testing.T) {
		r := serve(t, nil)
		conn, err := net.Dial("tcp", r.g.OperatorsAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		leaveAudit(t, r, conn)
	})
	t.Run("TLS", func(t *testing.T) {
		ca := newAuthority(t)
		r := serve(t, func(c *Config) { c.AdminTLS = ca.files(t, t.TempDir(), "gateway") })
		conn, err := tls.Dial("tcp", r.g.OperatorsAddr().String(), ca.client(nil))
		if err != nil {
			t.Fatal(err)
		}
		leaveAudit(t, r, conn)
	})
}

func leaveAudit(t *testing.T, r *running, conn net.Conn) {
	r.auditor.endless = make(chan string)
	if _, err := fmt.Fprintf(conn, "GET /v1/audit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", testAdminKey); err != nil {
		t.Fatal(err)
	}
	if got := <-r.auditor.endless; got != "begins" {
		t.Fatal(got)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-r.auditor.endless; got != "ends" {
		t.Fatal(got)
	}
}

func TestHasLeft(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	there, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = here.Close() }()
	if hasLeft(here) {
		t.Error("somebody who is there has left")
	}
	if _, err := there.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	testenv.Eventually(t, func() bool { return !hasLeft(here) }, "who has sent something is there")
	if n, err := here.Read(got); n != 5 || err != nil || string(got) != "hello" {
		t.Errorf("%q was taken from it, %v", got[:n], err)
	}
	_ = there.Close()
	testenv.Eventually(t, func() bool { return hasLeft(here) }, "who closes the connection has left")
	pipe, other := net.Pipe()
	defer func() { _, _ = pipe.Close(), other.Close() }()
	if hasLeft(pipe) {
		t.Error("what cannot be found out is taken for a yes")
	}
}
