package queue

import (
	"runtime"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func procs() int { return runtime.GOMAXPROCS(0) }
