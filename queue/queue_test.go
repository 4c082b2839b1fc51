package queue

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

func TestQueueRefusesImpossibleKnobs(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no capacity":             func(c *Config) { c.Capacity = 0 },
		"no batch":                func(c *Config) { c.MaxBatch = 0 },
		"a batch beyond capacity": func(c *Config) { c.MaxBatch = c.Capacity + 1 },
		"nothing in flight":       func(c *Config) { c.Inflight = 0 },
		"no age":                  func(c *Config) { c.MaxAge = 0 },
		"no linger":               func(c *Config) { c.Linger = 0 },
		"no drain":                func(c *Config) { c.DrainTimeout = -1 },
	} {
		cfg := config()
		spoil(&cfg)
		if _, err := New(cfg, newDesk()); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := New(config(), nil); err == nil {
		t.Error("a queue without a settler was accepted")
	}
}

func TestBatchesFormWhileOneIsBeingAdmitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		a := join(t, q, "a")
		first := d.mustNext(t, "a")
		waiting := join(t, q, "bcdefg")
		d.noNext(t) // the first is still being admitted
		if n := q.Depth("s"); n != 6 {
			t.Errorf("%d claims wait, want 6", n)
		}
		for i, ticket := range waiting {
			if p := ticket.Position(); p != int64(i) {
				t.Errorf("%s stands at position %d, want %d", ticket.Claim.User, p, i)
			}
		}
		first.admit()
		first.admit() // again: no effect
		second := d.mustNext(t, "bcde")
		d.noNext(t)
		first.admit() // nor when it is another batch's turn
		d.noNext(t)
		second.admit()
		d.noNext(t) // two are in flight
		first.all(sale.SoldOut)
		wantVerdict(t, a[0], sale.SoldOut)
		third := d.mustNext(t, "fg")
		first.admit()
		third.all(sale.Reserved) // without ever calling admitted
		for _, ticket := range waiting[4:] {
			wantVerdict(t, ticket, sale.Reserved)
		}
		second.all(sale.Reserved)
		for _, ticket := range waiting[:4] {
			wantVerdict(t, ticket, sale.Reserved)
		}
		if n := q.Waiting() + int64(q.Depth("s")); n != 0 {
			t.Errorf("%d claims wait, want none", n)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestOneSKUDoesNotHoldUpAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		join(t, q, "a")
		stuck := d.mustNext(t, "a")
		join(t, q, "b")
		other, err := q.Join(claimAt("other", "x"), false)
		if err != nil {
			t.Fatal(err)
		}
		d.mustNext(t, "x").all(sale.Reserved)
		wantVerdict(t, other, sale.Reserved)
		stuck.all(sale.Reserved)
		d.mustNext(t, "b").all(sale.Reserved)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestFullQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		q, stop := started(t, config(), d)
		join(t, q, "0")
		batch := d.mustNext(t, "0")
		join(t, q, "12345678")
		if _, err := q.Join(claimOf("9"), false); !errors.Is(err, sale.ErrQueueFull) {
			t.Errorf("the ninth to wait: %v", err)
		}
		// A repeat of a claim that waits needs no room.
		again, err := q.Join(claimOf("8"), false)
		if err != nil {
			t.Errorf("a repeat of one that waits: %v", err)
		}
		// 9 wait or are in flight; 7 more make 16 in all SKUs.
		for i := range 7 {
			if _, err := q.Join(claimAt(fmt.Sprint("sku", i), "x"), false); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := q.Join(claimAt("sku8", "x"), false); !errors.Is(err, sale.ErrQueueFull) {
			t.Errorf("the seventeenth of all: %v", err)
		}
		for range 7 {
			d.next().all(sale.Reserved)
		}
		batch.all(sale.SoldOut)
		d.mustNext(t, "1234").all(sale.SoldOut)
		d.mustNext(t, "5678").all(sale.SoldOut)
		wantVerdict(t, again, sale.SoldOut)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestClaimsTimeOut(t *testing.T) {
	const age = 8 * time.Second
	late := func(t *testing.T, tickets ...*sale.Ticket) {
		t.Helper()
		pass(age - time.Millisecond)
		for _, ticket := range tickets {
			wantNothing(t, ticket)
		}
		pass(time.Millisecond)
		for _, ticket := range tickets {
			wantVerdict(t, ticket, sale.TimedOut)
		}
	}
	for name, story := range map[string]func(t *testing.T, q *Queue, d *desk){
		"while batches are in flight": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			one.admit()
			join(t, q, "b")
			two := d.mustNext(t, "b")
			two.admit()
			late(t, join(t, q, "cd")...)
			one.all(sale.Reserved)
			two.all(sale.Reserved)
			d.noNext(t)
		},
		"while a batch is being admitted, joined before it began": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "0")
			zero := d.mustNext(t, "0")
			tickets := join(t, q, "abcdef")
			zero.all(sale.Reserved)
			one := d.mustNext(t, "abcd")
			late(t, tickets[4:]...)
			one.all(sale.Reserved)
			d.noNext(t)
		},
		"while a batch is being admitted, joined after it began": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			pass(time.Second)
			late(t, join(t, q, "b")...)
			one.all(sale.Reserved)
			d.noNext(t)
		},
		"one after the other": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			b := join(t, q, "b")
			pass(time.Second)
			c := join(t, q, "c")
			pass(age - time.Second)
			wantVerdict(t, b[0], sale.TimedOut)
			wantNothing(t, c[0])
			one.admit()
			d.mustNext(t, "c").all(sale.Reserved)
			wantVerdict(t, c[0], sale.Reserved)
			one.all(sale.Reserved)
		},
		"already when it joins": func(t *testing.T, q *Queue, d *desk) {
			c := claimOf("a")
			c.QueuedAt -= age.Milliseconds()
			ticket, err := q.Join(c, false)
			if err != nil {
				t.Fatal(err)
			}
			wantVerdict(t, ticket, sale.TimedOut)
			d.noNext(t)
		},
		"and their repeats with them": func(t *testing.T, q *Queue, d *desk) {
			join(t, q, "a")
			one := d.mustNext(t, "a")
			b := join(t, q, "b")
			pass(time.Second)
			again := join(t, q, "b")
			pass(age - time.Second)
			wantVerdict(t, b[0], sale.TimedOut)
			wantVerdict(t, again[0], sale.TimedOut)
			one.all(sale.Reserved)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk()
				q, stop := started(t, config(), d)
				story(t, q, d)
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
