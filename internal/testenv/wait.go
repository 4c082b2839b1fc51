package testenv

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"
)

// Patience is how long a test waits for what has to come. It exists only to end a test
// that hangs: however busy the machine is, nothing that comes at all comes later.
const Patience = raceSlowdown * time.Minute

// Eventually calls fn until it returns true. A test that waits in vain for Patience
// fails.
func Eventually(t testing.TB, fn func() bool, msg string, args ...any) {
	t.Helper()
	if !poll(fn) {
		t.Fatalf("not within %v: %s", Patience, fmt.Sprintf(msg, args...))
	}
}

// Patiently is Eventually for the many clients of a load, who may not end the test: it
// asks more and more seldom, and returns whether fn has.
func Patiently(fn func() bool) bool {
	return pollEvery(20*time.Millisecond, 500*time.Millisecond, fn)
}

// Within is Eventually for what the documents promise within a time. How long it took
// is logged, and appended to the file that TEST_TIMINGS names, a JSON object a line. A
// busy machine proves nothing about a promise, so that being late fails the test only
// where TEST_LONG is set.
func Within(t testing.TB, promise time.Duration, fn func() bool, msg string, args ...any) {
	t.Helper()
	began := time.Now()
	Eventually(t, fn, msg, args...)
	Took(t, promise, time.Since(began), msg, args...)
}

// Took holds a time that was measured against the one that the documents promise, as
// Within does.
func Took(t testing.TB, promise, took time.Duration, msg string, args ...any) {
	t.Helper()
	what := fmt.Sprintf(msg, args...)
	t.Logf("%s: took %v, promised within %v", what, took.Round(time.Millisecond), promise)
	note(t, what, map[string]any{"promised_ms": promise.Milliseconds(), "took_ms": took.Milliseconds()})
	if took > promise && Long() {
		t.Errorf("%s: took %v, more than %v", what, took, promise)
	}
}

// AtLeast holds a ratio that was measured against the least that the documents promise.
// It is logged and kept like a time; but in the long run, a fifth of it is enough.
func AtLeast(t testing.TB, promise, got float64, msg string, args ...any) {
	t.Helper()
	what := fmt.Sprintf(msg, args...)
	t.Logf("%s: %.2f, promised at least %.2f", what, got, promise)
	note(t, what, map[string]any{"promised_ratio": promise, "ratio": got})
	if !Long() {
		promise /= 5
	}
	if got < promise {
		t.Errorf("%s: %.2f, less than %.2f", what, got, promise)
	}
}

// note appends a measurement to the file that TEST_TIMINGS names.
func note(t testing.TB, what string, measured map[string]any) {
	t.Helper()
	path := os.Getenv("TEST_TIMINGS")
	if path == "" {
		return
	}
	measured["at"], measured["test"], measured["what"] = time.Now().UTC().Format(time.RFC3339), t.Name(), what
	line, err := json.Marshal(measured)
	if err != nil {
		t.Error(err)
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Error(err)
		return
	}
	_, err = file.Write(append(line, '\n'))
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Error(err)
	}
}

// poll starts eagerly and slows down to a look every 20 ms.
func poll(fn func() bool) bool { return pollEvery(time.Millisecond, 20*time.Millisecond, fn) }

func pollEvery(pause, longest time.Duration, fn func() bool) bool {
	for deadline := time.Now().Add(Patience); ; pause = min(2*pause, longest) {
		if fn() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
}
