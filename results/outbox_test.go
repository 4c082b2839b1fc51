package results

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go/jetstream"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// outbox is the ledger's outbox, in memory.
type outbox struct {
	mu   sync.Mutex
	rows []sale.OutboxRow // by id
	next int64
	// keep, when set, forgets nothing that is acknowledged, like a ledger that has
	// not got round to it.
	keep  bool
	acked map[int64]int
	err   error
}

func newOutbox() *outbox { return &outbox{acked: make(map[int64]int)} }

// commit writes one row of one order's state.
func (o *outbox) commit(kind sale.Kind, orders ...sale.Order) sale.OutboxRow {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next++
	row := sale.OutboxRow{ID: o.next, SKU: orders[0].SKU, Kind: kind, Payload: Encode(kind, orders), At: time.Now().UnixMilli()}
	_, _ = rand.Read(row.MsgID[:])
	o.rows = append(o.rows, row)
	return row
}

func (o *outbox) PendingOutbox(_ context.Context, olderThan time.Duration, afterID int64, limit int) ([]sale.OutboxRow, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, o.err
	}
	cut := time.Now().Add(-olderThan).UnixMilli()
	var out []sale.OutboxRow
	for _, r := range o.rows {
		if r.ID > afterID && r.At <= cut && len(out) < limit {
			out = append(out, r)
		}
	}
	return out, nil
}

func (o *outbox) Acked(ids []int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		o.acked[id]++
	}
	if !o.keep {
		o.rows = slices.DeleteFunc(o.rows, func(r sale.OutboxRow) bool { return o.acked[r.ID] > 0 })
	}
}

func (o *outbox) pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.rows)
}

func (o *outbox) ackedRows() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.acked)
}

// embedded starts an in-process server for the test.
func embedded(t *testing.T) *Embedded {
	t.Helper()
	e, err := NewEmbedded(EmbeddedConfig{Dir: t.TempDir(), SyncInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	during(t, e.Run)
	if err := e.AwaitReady(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	return e
}

// during runs something for as long as the test runs.
func during(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// connect connects for the test and ensures the streams when the server is there.
func connect(t *testing.T, cfg Config) *Conn {
	t.Helper()
	c, err := Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	during(t, c.Run)
	return c
}

func connected(t *testing.T, cfg Config) *Conn {
	t.Helper()
	c := connect(t, cfg)
	testenv.Eventually(t, c.Ready, "the streams stand")
	return c
}

// stored is a message of the results stream.
type stored struct {
	subject string
	kind    sale.Kind
	orders  []sale.Order
}

// readAll reads the whole results stream from its beginning.
func readAll(t *testing.T, c *Conn) []stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := c.js.Stream(ctx, Stream)
	if err != nil {
		t.Fatal(err)
	}
	n := int(s.CachedInfo().State.Msgs)
	var all []stored
	if n == 0 {
		return all
	}
	cons, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for len(all) < n {
		batch, err := cons.Fetch(min(500, n-len(all)), jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for msg := range batch.Messages() {
			kind, orders, err := Decode(msg.Data())
			if err != nil {
				t.Fatal(err)
			}
			if got := msg.Headers().Get("Content-Type"); got != contentType {
				t.Fatalf("content type %q", got)
			}
			all = append(all, stored{msg.Subject(), kind, orders})
		}
		if err := batch.Error(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// checkOrder fails when first occurrences of an order's states are out of order, and
// returns how many states there are altogether.
func checkOrder(t *testing.T, all []stored) int {
	t.Helper()
	version := make(map[sale.OrderID]int64)
	states := 0
	for _, m := range all {
		for _, o := range m.orders {
			switch before := version[o.ID]; {
			case o.Version == before+1:
				version[o.ID] = o.Version
				states++
			case o.Version > before:
				t.Errorf("order %s: version %d came after %d", o.ID, o.Version, before)
			}
		}
	}
	return states
}
