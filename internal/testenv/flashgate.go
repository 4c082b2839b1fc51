package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var flashgateBinary struct {
	sync.Once
	path string
	err  error
}

// Binary builds the flashgate binary once per test binary, with the race detector
// where the test itself has it, and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	b := &flashgateBinary
	b.Do(func() {
		dir, err := newDir()
		if err != nil {
			b.err = err
			return
		}
		atExit(func() { _ = os.RemoveAll(dir) })
		b.path = filepath.Join(dir, "flashgate")
		args := append(append([]string{"build"}, raceArgs...), "-o", b.path, "flashgate")
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build flashgate: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}
