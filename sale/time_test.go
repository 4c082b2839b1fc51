package sale

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The written-out form is the one that the time package writes.
func TestAppendTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.OneOf(rapid.Int64Range(-1<<40, 1<<43), rapid.Int64Range(-1<<55, 1<<55)).Draw(t, "ms")
		want := time.UnixMilli(ms).UTC().Format(timeFormat)
		if got := FormatTime(ms); got != want {
			t.Fatalf("%d: %s, want %s", ms, got, want)
		}
	})
}
