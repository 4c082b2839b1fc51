package results

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// nowhere is an address where nothing listens.
const nowhere = "nats://127.0.0.1:9"

// patient is a context in which a call to NATS may take as long as a busy machine needs.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Patience)
	t.Cleanup(cancel)
	return ctx
}

// embedded starts an in-process server for the test.
func embedded(t *testing.T) *Embedded {
	t.Helper()
	e, err := NewEmbedded(EmbeddedConfig{Dir: t.TempDir(), SyncInterval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	started(t, e)
	return e
}

// started runs the server and waits until it is there.
func started(t *testing.T, e *Embedded) (stop func()) {
	t.Helper()
	stop = during(t, e.Run)
	if !e.srv.ReadyForConnections(testenv.Patience) {
		t.Fatal("the embedded server does not become ready")
	}
	return stop
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

// connecting is a connection that gives every call time, and knows a repeated message
// however late it comes. Its Run does not run.
func connecting(t testing.TB, cfg Config) *Conn {
	t.Helper()
	if cfg.Streams == (StreamConfig{}) {
		cfg.Streams = StreamConfig{Replicas: 1, BacklogCapacity: 1_000_000}
	}
	c, err := Connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.askTimeout, c.duplicates = testenv.Patience, time.Hour
	return c
}

// connect is connecting, and keeps the streams once the server is there.
func connect(t *testing.T, cfg Config) *Conn {
	t.Helper()
	c := connecting(t, cfg)
	during(t, c.Run)
	return c
}

func connected(t *testing.T, cfg Config) *Conn {
	t.Helper()
	c := connect(t, cfg)
	testenv.Eventually(t, c.ready, "the streams stand")
	return c
}

// ready reports whether both streams can be used.
func (c *Conn) ready() bool { return c.ResultsReady() && c.BacklogReady() }

// stored is a message of the results stream.
type stored struct {
	subject string
	kind    sale.Kind
	orders  []sale.Order
}

// readAll reads the whole results stream from its beginning.
func readAll(t *testing.T, c *Conn) []stored {
	t.Helper()
	ctx := patient(t)
	s, err := c.js.Stream(ctx, resultsStream)
	if err != nil {
		t.Fatal(err)
	}
	var all []stored
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		var msg *jetstream.RawStreamMsg
		testenv.Eventually(t, func() bool {
			msg, err = s.GetMsg(ctx, seq)
			return err == nil
		}, "message %d is read", seq)
		kind, orders, err := Decode(msg.Data)
		if err != nil {
			t.Fatal(err)
		}
		if got := msg.Header.Get("Content-Type"); got != contentType {
			t.Fatalf("content type %q", got)
		}
		all = append(all, stored{msg.Subject, kind, orders})
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

func TestConnectRefusesWrongConfiguration(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{URL: nowhere, Streams: StreamConfig{Replicas: 2, BacklogCapacity: 1}},
		{URL: nowhere, Streams: StreamConfig{Replicas: 1}},
		{URL: nowhere, Streams: StreamConfig{Replicas: 1, BacklogCapacity: 1, MaxAge: time.Second}},
	} {
		if c, err := Connect(cfg); err == nil {
			c.Close()
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestServerAwayAtTheStart(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	n.Kill()
	c := connect(t, Config{URL: n.URL})
	if c.Connected() || c.ready() || c.Ping(context.Background()) == nil {
		t.Error("connected to a server that is away")
	}
	n.Restart(t)
	testenv.Eventually(t, c.ready, "the streams stand soon after the server came")
	testenv.Eventually(t, func() bool { return c.Ping(patient(t)) == nil }, "a ping is answered")
	n.Stop()
	// A signal takes a moment to reach all of the server's threads, and a connection that
	// is given up meanwhile is as good an answer.
	testenv.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		err := c.Ping(ctx)
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrDisconnected)
	}, "a ping of the frozen server ends in time")
	n.Cont()
}

func TestEmbeddedKeepsItsStreams(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		e, err := NewEmbedded(EmbeddedConfig{Dir: dir, SyncInterval: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		stop := started(t, e)
		c := connected(t, Config{Embedded: e})
		o := newOutbox()
		r := newRelay(t, c, o, RelayConfig{})
		o.commit(sale.KindReserved, sold("phone", strconv.Itoa(round), 1))
		if err := r.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if all := readAll(t, c); len(all) != round+1 {
			t.Errorf("round %d: %d messages", round, len(all))
		}
		stop()
	}
	if _, err := NewEmbedded(EmbeddedConfig{Dir: dir}); err == nil {
		t.Error("a server that never flushes was accepted")
	}
}

// The names of an installation without a namespace.
const (
	resultsStream = "FLASHGATE"
	backlogStream = "FLASHGATE_BACKLOG"
	backlogPrefix = "flashgate.backlog."
	statsPrefix   = "flashgate.stats."
)

var plain = namesOf("")
