//go:build bench

package bench

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flashgate/internal/testenv"
)

// syncs are the two ways in which a NATS server keeps what it acknowledges: on its disk, as
// production wants it, or in the system's memory for up to two minutes.
var syncs = map[string][]string{"synced": {"-c", "nats-synced.conf"}, "lazy": nil}

// stream reads one figure of a stream.
func (r *rig) stream(name string, figure func(jetstream.StreamState) uint64) func() uint64 {
	r.t.Helper()
	nc, err := nats.Connect(r.nats.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		r.t.Fatal(err)
	}
	return func() uint64 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s, err := js.Stream(ctx, name)
		if err != nil {
			r.t.Fatal(err)
		}
		return figure(s.CachedInfo().State)
	}
}

// until measures the time in which n things happen, from the first one on.
func (r *rig) until(n int64, done func() uint64) load {
	r.t.Helper()
	before, parts, from := cpuTime(r.gateway.Pid()), r.cpuTimes(), done()
	var began time.Time
	for deadline := time.Now().Add(time.Minute); ; {
		now := int64(done() - from)
		if now > 0 && began.IsZero() {
			began = time.Now()
		}
		if now >= n {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d of %d", now, n)
		}
		<-time.After(10 * time.Millisecond)
	}
	l := load{requests: n, perSecond: float64(n) / time.Since(began).Seconds(), cpu: cpuTime(r.gateway.Pid()) - before}
	for i, now := range r.cpuTimes() {
		l.parts[i] = now - parts[i]
	}
	return l
}

// TestBenchRelay measures how soon the relay publishes what the outbox holds, one event a
// row: the first states of orders of ten thousand SKUs, and all states of those of one; and
// that of ten events a row, as batches of a busy SKU make them.
func TestBenchRelay(t *testing.T) {
	series := map[string][]load{}
	for sync, args := range syncs {
		r := newRigOn(t, testenv.OwnMariaDB(t), testenv.NATS(t, args...))
		last := r.stream("FLASHGATE", func(s jetstream.StreamState) uint64 { return s.LastSeq })
		fill := func(sku, kind string, n, events int) load {
			event := `{"specversion":"1.0","source":"flashgate","type":"flashgate.order.reserved","id":"aaaaaaaaaaaaaaaaaaaaaaaaaa/reserved","data":{` + strings.Repeat("x", 440) + `}}`
			payload := "[" + strings.Repeat(event+",", events-1) + event + "]"
			// Rows of one statement are there for the relay all at once.
			go func() {
				if _, err := r.db.Exec(fmt.Sprintf("INSERT INTO outbox (msg_id, sku, kind, payload, at) SELECT UNHEX(MD5(CONCAT(UUID(), seq))), %s, %s, ?, UNIX_TIMESTAMP()*1000-60000 FROM seq_1_to_%d", sku, kind, n), payload); err != nil {
					t.Error(err)
				}
			}()
			l := r.until(int64(n), last)
			l.requests, l.perSecond = l.requests*int64(events), l.perSecond*float64(events)
			return l
		}
		for range *rounds {
			run(t, sync+" many", func() load { return fill("CONCAT('bench-', seq % 10000)", "'results.reserved'", 100_000, 1) }, series)
			run(t, sync+" one", func() load { return fill("'bench'", "IF(seq % 2, 'results.paid', 'inventory.deduct')", 100_000, 1) }, series)
			run(t, sync+" ten", func() load { return fill("'bench'", "'results.reserved'", 20_000, 10) }, series)
		}
		r.stop()
	}
	report(t, "relay", "lazy many", []string{"lazy many", "lazy one", "lazy ten", "synced many", "synced one", "synced ten"}, series)
}

// drained measures until the backlog is empty, in orders that came of it, of which there
// are no fewer than buyers were told of.
func (r *rig) drained(parked func() uint64, before, heard int64) load {
	r.t.Helper()
	var l load
	used, parts := cpuTime(r.gateway.Pid()), r.cpuTimes()
	testenv.Eventually(r.t, func() bool { return r.orders() > before }, "the drain begins")
	began, from := time.Now(), r.orders()
	testenv.Eventually(r.t, func() bool { return parked() == 0 }, "the backlog is empty")
	took, now := time.Since(began), r.orders()
	if now-before < heard {
		r.t.Errorf("%d buyers heard that they are in line, and there are %d orders more", heard, now-before)
	}
	l.requests, l.perSecond, l.cpu = now-from, float64(now-from)/took.Seconds(), cpuTime(r.gateway.Pid())-used
	for i, now := range r.cpuTimes() {
		l.parts[i] = now - parts[i]
	}
	return l
}

// TestBenchBacklog measures how many claims are parked in a second while the ledger is away,
// of one SKU and of a thousand, and how soon they are drained once it is back.
func TestBenchBacklog(t *testing.T) {
	series := map[string][]load{}
	r := newRigOn(t, testenv.OwnMariaDB(t), testenv.NATS(t, syncs["synced"]...))
	const skus = 1000
	r.putMany(skus)
	r.put("bench", 1_000_000_000)
	for _, of := range []string{"SKU=bench", fmt.Sprintf("SKUS=%d", skus)} {
		r.warm(of)
	}
	msgs := r.stream("FLASHGATE_BACKLOG", func(s jetstream.StreamState) uint64 { return s.Msgs })
	for range *rounds {
		for name, of := range map[string]string{"one": "SKU=bench", "many": fmt.Sprintf("SKUS=%d", skus)} {
			before := r.orders()
			r.maria.Stop()
			for msgs() == 0 { // until it is known to be away
				r.warm(of)
			}
			first, heard := msgs(), int64(0)
			run(t, "park "+name, func() load {
				l := r.measure(r.gateway, "order.lua", r.url, of)
				if got := int64(msgs() - first); got < l.requests-l.refused {
					t.Errorf("%d claims were parked, and %d buyers heard so", got, l.requests-l.refused)
				}
				heard = l.requests - l.refused
				l.requests, l.perSecond = heard, l.perSecond*float64(heard)/float64(l.requests)
				return l
			}, series)
			r.maria.Cont()
			run(t, "drain "+name, func() load { return r.drained(msgs, before, heard) }, series)
		}
	}
	report(t, "backlog", "park one", []string{"park one", "park many", "drain one", "drain many"}, series)
}
