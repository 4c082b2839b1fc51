package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// claimed keeps the lock files of this process's ports open; the kernel drops the
// locks when the process ends.
var claimed struct {
	sync.Mutex
	locks []*os.File
}

// Port returns a free loopback port that no other test process will be given. It
// lies below the range of outgoing connections: a client that keeps dialling a dead
// server's port inside that range can end up connected to itself, or hold the port
// when the server wants it back.
func Port(t testing.TB) int {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func freePort() (int, error) {
	dir := filepath.Join(os.TempDir(), "flashgate-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return 0, err
	}
	claimed.Lock()
	defer claimed.Unlock()
	for range 1000 {
		port := 12000 + rand.IntN(20000)
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			_ = lock.Close()
			continue
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			_ = lock.Close()
			continue
		}
		_ = l.Close()
		claimed.locks = append(claimed.locks, lock)
		return port, nil
	}
	return 0, fmt.Errorf("no free loopback port found")
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
