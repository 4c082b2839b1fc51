package testenv

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// shared holds what outlives single tests: the servers and directories that the
// tests of one binary have in common. Main takes it down in reverse order.
var shared struct {
	sync.Mutex
	closers []func()
}

func atExit(f func()) {
	shared.Lock()
	defer shared.Unlock()
	shared.closers = append(shared.closers, f)
}

// Main runs the tests, stops the shared servers, and fails the binary when goroutines
// are left over. It does not return.
func Main(m *testing.M, opts ...goleak.Option) {
	code := m.Run()
	shared.Lock()
	closers := shared.closers
	shared.closers = nil
	shared.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	if code == 0 {
		if err := goleak.Find(append(Leaks(), opts...)...); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left over: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Leaks is what a goroutine check inside a test has to overlook: the goroutines that
// wait for this package's own servers.
func Leaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("flashgate/internal/testenv.(*run).reap"),
		goleak.IgnoreAnyFunction("database/sql.(*DB).connectionOpener"),
	}
}
