package gateway

import (
	"fmt"
	"net"
	"testing"

	"flashgate/internal/testenv"
)

// An audit reads everything there is, and ends when whoever asked for it goes.
func TestAnAuditEndsWithItsCaller(t *testing.T) {
	w := newWorld(t, nil)
	w.auditor.endless = make(chan string)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.g.operators.app.Server().Serve(ln) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/audit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", testAdminKey); err != nil {
		t.Fatal(err)
	}
	if got := <-w.auditor.endless; got != "begins" {
		t.Fatal(got)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-w.auditor.endless; got != "ends" {
		t.Fatal(got)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
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
