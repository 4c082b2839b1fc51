package testenv

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// childMain is the test binary's other life: it starts a sleeper, says its pid, and
// waits to be killed.
func childMain() int {
	dir, err := newDir()
	if err != nil {
		return 1
	}
	p, err := startProcess(dir, "sleeper", Spec{Path: "/bin/sleep", Args: []string{"60"}})
	if err != nil {
		return 1
	}
	fmt.Fprintln(os.Stdout, p.Pid())
	_ = p.Wait()
	return 0
}

// shouter is a server that answers everything in capitals; got returns what it has
// been sent.
func shouter(t *testing.T) (addr string, got func() string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 1024)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					mu.Lock()
					all.Write(buf[:n])
					mu.Unlock()
					_, _ = c.Write(bytes.ToUpper(buf[:n]))
				}
			})
		}
	})
	t.Cleanup(func() { _ = lis.Close(); wg.Wait() })
	return lis.Addr().String(), func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

// say sends one message and returns the one reply, "" when the connection is cut.
func say(t *testing.T, addr, what string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(Patience))
	if _, err := c.Write([]byte(what)); err != nil {
		return ""
	}
	buf := make([]byte, 1024)
	n, _ := c.Read(buf)
	return string(buf[:n])
}
