package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"flashgate/internal/testenv"
)

// TestRedisRefusesWrites: a Redis that answers, but as somebody's replica or with its
// memory full, is gone around like one that is away.
func TestRedisRefusesWrites(t *testing.T) {
	for _, how := range []struct {
		name       string
		from, back []any
	}{
		{"replica", []any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}},
		{"full", []any{"CONFIG", "SET", "maxmemory", "1mb"}, []any{"CONFIG", "SET", "maxmemory", "0"}},
	} {
		t.Run(how.name, func(t *testing.T) {
			c := newCluster(t, 2, parts{redis: testenv.Redis(t)})
			c.putSKU("shoe", map[string]any{"total": stock, "heat": "hot", "per_user_limit": 1})
			client := redis.NewClient(&redis.Options{Addr: c.redis.Addr})
			t.Cleanup(func() { _ = client.Close() })
			tell := func(args []any) {
				if err := client.Do(context.Background(), args...).Err(); err != nil {
					t.Errorf("%v: %v", args, err)
				}
			}
			answers := c.during("shoe", stock/3, func() { tell(how.from) })
			c.checkSale("shoe", answers)
			tell(how.back)
		})
	}
}

// TestTerminatedWhileTheLedgerHangs: who waits hears something, who was queued gets the
// ledger's verdict, and the process ends without error although it is told twice.
func TestTerminatedWhileTheLedgerHangs(t *testing.T) {
	c := newCluster(t, 2, parts{maria: testenv.OwnMariaDB(t)})
	c.putSKU("shoe", map[string]any{"total": 1_000_000, "heat": "hot"})
	c.warm("shoe", 10)
	ended := make(chan error, 1)
	var progress, parked atomic.Int64
	var closed atomic.Bool
	go func() { // joined by <-ended below
		err := errors.New("the test gave up")
		defer func() { ended <- err }()
		testenv.Eventually(t, func() bool { return progress.Load() > 500 }, "some have bought")
		c.maria.Stop()
		c.awaitBreaker("ledger", "open")
		before := parked.Load()
		testenv.Eventually(t, func() bool { return parked.Load() > before }, "buyers are queued")
		c.gates[0].Signal(syscall.SIGTERM)
		testenv.Eventually(t, func() bool { return !c.ready(c.gates[0]) }, "the gateway drains")
		err = c.gates[0].Terminate()
	}()
	answers := rush(1_000_000, 100, &progress, func(i int) answer {
		if closed.Load() {
			return answer{}
		}
		a := c.buy(c.gates[0], "shoe", fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
		switch {
		case a.code == 202:
			parked.Add(1)
		case a.err != nil:
			closed.Store(true)
		}
		return a
	})
	if err := <-ended; err != nil {
		t.Errorf("the gateway ended with %v", err)
	}
	c.maria.Cont()
	var queued []answer
	for _, a := range answers {
		if a.err != nil && !refusedConnection(a.err) {
			t.Errorf("%+v", a)
		}
		if a.code == 202 {
			queued = append(queued, a)
		}
	}
	if err := c.gates[0].Start(); err != nil {
		t.Fatal(err)
	}
	c.awaitReady(c.gates[0])
	// Who was queued without being parked, because the ledger hung when the wait was over,
	// is told to repeat; the key gives one order either way.
	ends := c.verdicts(queued, http.StatusNotFound)
	t.Logf("of %d queued: %v; answers %v", len(queued), ends, tally(answers))
	if ends["200 reserved "] == 0 {
		t.Error("nobody who was queued has an order")
	}
	for _, a := range queued {
		if b := c.insist(1, "shoe", a.buyer, a.key); !b.yes() || b.orderID != a.orderID {
			t.Errorf("%+v was queued, and the repeat heard %+v", a, b)
			break
		}
	}
	c.checkYes("shoe", answers)
}
