package ledger

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// clockPeriod is how often the offset is measured; clockSamples is how many
	// measurements the best one is taken from.
	clockPeriod  = 2 * time.Second
	clockSamples = 8
	// clockDrift is how far two clocks may drift apart within those measurements.
	clockDrift = 5 * time.Millisecond
	// clockStandstill is the longest that time stands still because the database's clock
	// was set back; beyond it this clock is set back too.
	clockStandstill = 10 * time.Second
)

// clock follows the database's clock: this machine's monotonic clock plus an offset
// that is measured again and again. Now may be called from any goroutine; one
// goroutine at a time adjusts it.
type clock struct {
	start  time.Time
	wall   int64        // Unix µs at start
	offset atomic.Int64 // µs between the database's clock and ours
	last   atomic.Int64 // the latest Unix ms that anybody was told

	samples []clockSample // the last few, oldest first
	wake    chan struct{} // capacity 1: the offset has been found to be wrong
}

// clockSample is one measurement: the offset is right to within half the round trip.
type clockSample struct{ offset, trip int64 } // µs

func newClock() *clock {
	now := time.Now()
	return &clock{start: now, wall: now.UnixMicro(), wake: make(chan struct{}, 1)}
}

// local is this machine's idea of Unix µs, undisturbed by whoever sets its clock.
func (c *clock) local() int64 { return c.wall + time.Since(c.start).Microseconds() }

// Now is Unix ms on the database's clock. It does not go back, except when the
// database's clock was set back by more than clockStandstill.
func (c *clock) Now() int64 {
	now := (c.local() + c.offset.Load()) / 1000
	for {
		last := c.last.Load()
		if now <= last {
			return last
		}
		if c.last.CompareAndSwap(last, now) {
			return now
		}
	}
}

// measure asks the database for its time in Unix µs, once.
func (c *clock) measure(ctx context.Context, ask func(context.Context) (int64, error)) error {
	before := c.local()
	theirs, err := ask(ctx)
	if err != nil {
		return err
	}
	after := c.local()
	c.adjust(clockSample{offset: theirs - (before+after)/2, trip: after - before})
	return nil
}

// askAnew has the offset measured soon.
func (c *clock) askAnew() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// adjust takes the offset of the measurement with the shortest round trip. A new one
// that cannot be true together with an older one says that the clock was set, or that
// another server answers: the older ones are void.
func (c *clock) adjust(s clockSample) {
	for _, old := range c.samples {
		if apart := s.offset - old.offset; max(apart, -apart) > (s.trip+old.trip)/2+clockDrift.Microseconds() {
			c.samples = c.samples[:0]
			break
		}
	}
	if len(c.samples) == clockSamples {
		c.samples = append(c.samples[:0], c.samples[1:]...)
	}
	c.samples = append(c.samples, s)
	best := c.samples[0]
	for _, other := range c.samples[1:] {
		if other.trip <= best.trip {
			best = other
		}
	}
	c.offset.Store(best.offset)
	if now := (c.local() + best.offset) / 1000; c.last.Load()-now > clockStandstill.Milliseconds() {
		c.last.Store(now)
	}
}

// Now is Unix ms on the ledger's clock; before Run has reached the database, on this
// machine's.
func (db *DB) Now() int64 { return db.clock.Now() }

// syncClock measures often enough that one slow round trip does not matter.
func (db *DB) syncClock(ctx context.Context) {
	for range clockSamples / 2 {
		if err := db.clock.measure(ctx, db.askTime); err != nil {
			return // the loop tries again; until then the last offset stands
		}
	}
}

// runClock keeps the offset true until ctx ends.
func (db *DB) runClock(ctx context.Context) {
	ticker := time.NewTicker(clockPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-db.clock.wake:
		}
		if err := db.clock.measure(ctx, db.askTime); err != nil && ctx.Err() == nil {
			db.log.Debug("the ledger's clock cannot be read", "error", err)
		}
	}
}

// askTime is Unix µs on the database's clock. SQLite's is this machine's, read anew so
// that it is followed when it is set. UTC, because local time is ambiguous for an hour
// every autumn.
func (db *DB) askTime(ctx context.Context) (int64, error) {
	clock := db.dialect.Clock()
	if clock == "" {
		return time.Now().UnixMicro(), nil
	}
	var micros int64
	err := db.pools.leases.QueryRowContext(ctx, clock).Scan(&micros)
	return micros, err
}
