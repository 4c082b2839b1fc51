package queue

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

func TestIdleLanesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		lanes := func() int {
			s := q.shard("s")
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.lanes)
		}
		join(t, q, "a")
		batch := d.mustNext(t, "a")
		pass(10 * time.Second)
		if lanes() != 1 {
			t.Error("the lane ended while a batch was in flight")
		}
		batch.all(sale.Reserved)
		pass(999 * time.Millisecond)
		join(t, q, "b")
		d.mustNext(t, "b").all(sale.Reserved)
		if r := q.Rate("s"); r <= 0 {
			t.Errorf("two verdicts make a rate of %f", r)
		}
		pass(999 * time.Millisecond)
		if _, quiet := d.told(); lanes() != 1 || len(quiet) != 0 {
			t.Error("the lane did not linger")
		}
		pass(time.Second/2 + 2*time.Millisecond) // it is looked for twice in that time
		if _, quiet := d.told(); lanes() != 0 || len(quiet) != 1 || quiet[0] != "s" {
			t.Errorf("%d lanes after lingering, quiet: %v", lanes(), quiet)
		}
		if q.Rate("s") != 0 || q.Depth("s") != 0 {
			t.Error("a lane that ended has a rate or a depth")
		}
		// And it comes back.
		c := join(t, q, "c")
		d.mustNext(t, "c").all(sale.Reserved)
		wantVerdict(t, c[0], sale.Reserved)
		if err := stop(); err != nil {
			t.Error(err)
		}
		if _, quiet := d.told(); len(quiet) != 2 {
			t.Errorf("the shield was told %d times that the SKU went quiet, want 2", len(quiet))
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		idle, err := q.Join(claimAt("idle", "i"), false)
		if err != nil {
			t.Fatal(err)
		}
		d.mustNext(t, "i").all(sale.Reserved)
		wantVerdict(t, idle, sale.Reserved)
		tickets := join(t, q, "a")
		batch := d.mustNext(t, "a")
		tickets = append(tickets, join(t, q, "bcdef")...)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- stop() }()
		synctest.Wait()
		if _, err := q.Join(claimOf("z"), false); !errors.Is(err, sale.ErrShuttingDown) {
			t.Errorf("joining a queue that drains: %v", err)
		}
		if _, err := q.Join(claimAt("new", "z"), false); !errors.Is(err, sale.ErrShuttingDown) {
			t.Errorf("joining a new SKU's queue that drains: %v", err)
		}
		pass(time.Second)
		batch.all(sale.Reserved)
		d.mustNext(t, "bcde").all(sale.Reserved)
		d.mustNext(t, "f").all(sale.Reserved)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("draining took %s, want 1s: it waits for verdicts only", took)
		}
		for _, ticket := range tickets {
			wantVerdict(t, ticket, sale.Reserved)
		}
		if _, quiet := d.told(); len(quiet) != 2 {
			t.Errorf("quiet: %v, want both SKUs", quiet)
		}
	})
}

func TestDrainTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		tickets := join(t, q, "abcdefg") // the desk answers none of them
		synctest.Wait()
		began := time.Now()
		if err := stop(); err == nil {
			t.Error("a drain that timed out must say so")
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("draining took %s, want the timeout of 5s", took)
		}
		for _, ticket := range tickets {
			wantErr(t, ticket, sale.ErrShuttingDown)
		}
	})
}

func TestRunWithoutClaimsEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, stop := started(t, config(), newDesk())
		began := time.Now()
		if err := stop(); err != nil || time.Since(began) != 0 {
			t.Errorf("an idle queue took %s to end: %v", time.Since(began), err)
		}
	})
}
