package ledger

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
)

// answers is a database's clock that is ahead of ours; half of each trip passes before
// it looks at its clock.
func answers(ahead *time.Duration, trip time.Duration) func(context.Context) (int64, error) {
	return func(context.Context) (int64, error) {
		time.Sleep(trip / 2)
		t := time.Now().Add(*ahead).UnixMicro()
		time.Sleep(trip - trip/2)
		return t, nil
	}
}

func TestClockFollowsTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		ahead := 1500 * time.Millisecond
		off := func() time.Duration {
			return time.Duration(c.Now()-time.Now().Add(ahead).UnixMilli()) * time.Millisecond
		}
		measure := func(trip time.Duration) {
			t.Helper()
			if err := c.measure(t.Context(), answers(&ahead, trip)); err != nil {
				t.Fatal(err)
			}
		}
		if c.Now() != time.Now().UnixMilli() {
			t.Error("unmeasured, it is not this machine's clock")
		}
		measure(2 * time.Millisecond)
		if d := off(); d != 0 {
			t.Errorf("off by %v", d)
		}
		// A trip that is slow on the way back only must not move it.
		slow := func(context.Context) (int64, error) {
			at := time.Now().Add(ahead).UnixMicro()
			time.Sleep(800 * time.Millisecond)
			return at, nil
		}
		if err := c.measure(t.Context(), slow); err != nil {
			t.Fatal(err)
		}
		if d := off(); d != 0 {
			t.Errorf("a slow answer moved it by %v", d)
		}
		// Another server, whose clock is ahead of the first one's.
		ahead += 3 * time.Second
		measure(5 * time.Millisecond)
		if d := off(); d != 0 {
			t.Errorf("after a failover off by %v", d)
		}
		// And one behind: time stands still until it is reached.
		ahead -= 2 * time.Second
		before := c.Now()
		measure(0)
		if c.Now() != before {
			t.Errorf("time went from %d to %d", before, c.Now())
		}
		time.Sleep(1500 * time.Millisecond)
		if c.Now() != before {
			t.Errorf("time went on too early, by %d ms", c.Now()-before)
		}
		time.Sleep(time.Second)
		if d := off(); d != 0 {
			t.Errorf("after standing still off by %v", d)
		}
		// Set back by far: nobody waits that long.
		ahead -= time.Hour
		measure(0)
		if d := off(); d != 0 {
			t.Errorf("set back by an hour, off by %v", d)
		}
		broken := errors.New("away")
		if err := c.measure(t.Context(), func(context.Context) (int64, error) { return 0, broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
		if d := off(); d != 0 {
			t.Errorf("a failure moved it by %v", d)
		}
	})
}

func TestClockForgetsOldMeasurements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		ahead := time.Duration(0)
		if err := c.measure(t.Context(), answers(&ahead, 0)); err != nil {
			t.Fatal(err)
		}
		// Our clock drifts: too slowly to look like a jump, and past the best measurement.
		for range 4 * clockSamples {
			time.Sleep(clockPeriod)
			ahead += time.Millisecond / 2
			if err := c.measure(t.Context(), answers(&ahead, time.Millisecond)); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Duration(c.Now()-time.Now().Add(ahead).UnixMilli()) * time.Millisecond; d < -clockDrift || d > clockDrift {
			t.Errorf("off by %v", d)
		}
		if len(c.samples) > clockSamples {
			t.Errorf("%d measurements kept", len(c.samples))
		}
	})
}

func TestClockOfEachDatabase(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		// Whatever else is wrong with a time, a zone or a unit makes it differ by more.
		if d := db.Now() - time.Now().UnixMilli(); d < -testenv.Patience.Milliseconds() || d > testenv.Patience.Milliseconds() {
			t.Errorf("%d ms off on the same machine", d)
		}
		c := newClock()
		if err := c.measure(t.Context(), db.askTime); err != nil {
			t.Fatal(err)
		}
		if s := c.samples[0]; max(s.offset, -s.offset) > s.trip/2+1000 {
			t.Errorf("on the same machine %d µs off, after a trip of %d µs", s.offset, s.trip)
		}
	})
}

func BenchmarkNow(b *testing.B) {
	c := newClock()
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			c.Now()
		}
	})
}
