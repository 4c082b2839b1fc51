package fallback

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets time go by, inside a synctest bubble only.
func pass(d time.Duration) { <-time.After(d) }
