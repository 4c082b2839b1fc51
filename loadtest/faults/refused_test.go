package faults

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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
	c.putSKU("shoe", map[string]any{"total": 100_000, "heat": "hot"})
	c.warm("shoe", 10)
	ended := make(chan error, 1)
	var progress atomic.Int64
	go func() { // joined by <-ended below
		testenv.Eventually(t, func() bool { return progress.Load() > 500 }, "some have bought")
		c.maria.Stop()
		<-time.After(1500 * time.Millisecond)
		c.gates[0].Signal(syscall.SIGTERM)
		<-time.After(500 * time.Millisecond)
		ended <- c.gates[0].Terminate(20 * time.Second)
	}()
	answers := rush(20_000, 100, &progress, func(i int) answer {
		return c.buy(c.gates[0], "shoe", fmt.Sprintf("buyer-%d", i), fmt.Sprintf("key-%d", i))
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
	if ends := c.verdicts(queued, 60*time.Second); ends["200 reserved "] != len(queued) || len(queued) == 0 {
		t.Errorf("of %d queued: %v; answers %v", len(queued), ends, tally(answers))
	}
	c.checkYes("shoe", answers)
}
