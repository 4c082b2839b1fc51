package results

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/prometheus/client_golang/prometheus"
)

var discard = slog.New(slog.DiscardHandler)

// newRelay is a relay that publishes rows of any age, and gives NATS time.
func newRelay(t *testing.T, c *Conn, o Outbox, cfg RelayConfig) *Relay {
	t.Helper()
	if cfg.Holds == nil {
		cfg.Holds = func(int64) bool { return false }
	}
	r, err := NewRelay(cfg, c, o)
	if err != nil {
		t.Fatal(err)
	}
	r.age, r.ackTimeout = 0, testenv.Patience
	return r
}

// relayed is a relay over an in-process server.
func relayed(t *testing.T, o *outbox, cfg RelayConfig) (*Relay, *Conn) {
	t.Helper()
	c := connected(t, Config{Embedded: embedded(t)})
	return newRelay(t, c, o, cfg), c
}

func TestRelayKeepsTheOrderOfRows(t *testing.T) {
	o := newOutbox()
	r, c := relayed(t, o, RelayConfig{})
	r.page, r.workers = 7, 3
	states := 0
	for i := range 60 {
		order := sold("sku"+strconv.Itoa(i%5), "u"+strconv.Itoa(i), 1)
		for v, s := range []sale.Status{sale.StatusReserved, sale.StatusExpired, sale.StatusPaid} {
			order.Status, order.Version = s, int64(v+1)
			o.commit(sale.Kind(resultsPrefix+s.String()), order)
			states++
		}
	}
	if err := r.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o.pending() != 0 {
		t.Errorf("%d rows are left", o.pending())
	}
	all := readAll(t, c)
	if got := checkOrder(t, all); got != states || len(all) != states {
		t.Errorf("%d states in %d messages, want %d", got, len(all), states)
	}
}

// TestRelayPublishesTogether: a page goes in batches, in order; one row that the stream
// refuses, one that cannot be read and one that is there already hold up only their SKUs.
func TestRelayPublishesTogether(t *testing.T) {
	o := newOutbox()
	r, c := relayed(t, o, RelayConfig{})
	r.page = 300
	s, err := c.js.Stream(patient(t), resultsStream)
	if err != nil {
		t.Fatal(err)
	}
	limited := s.CachedInfo().Config
	limited.MaxMsgSize = 5000
	if _, err := c.js.UpdateStream(patient(t), limited); err != nil {
		t.Fatal(err)
	}
	write := func(from, to int) (states int) {
		for i := from; i < to; i++ {
			order := sold("sku"+strconv.Itoa(i%9), "u"+strconv.Itoa(i), 1)
			for v, s := range []sale.Status{sale.StatusReserved, sale.StatusExpired, sale.StatusPaid} {
				order.Status, order.Version = s, int64(v+1)
				o.commit(sale.Kind(resultsPrefix+s.String()), order)
				states++
			}
		}
		return states
	}
	states := write(0, 200)
	if err := r.Pass(t.Context()); err != nil || o.pending() != 0 {
		t.Fatalf("%d rows left, %v", o.pending(), err)
	}
	if _, batched := storedData(t, c); batched < states*9/10 {
		t.Errorf("%d of %d messages went together", batched, states)
	}
	states += write(200, 400)
	again := o.rows[99] // the first of an order
	if _, err := c.js.PublishMsg(patient(t), plain.message(&again)); err != nil {
		t.Fatal(err)
	}
	o.rows[200].Payload, o.rows[200].Damage = nil, errors.New("damaged")
	large := make([]sale.Order, 20)
	for i := range large {
		large[i] = sold("large", "u"+strconv.Itoa(i), 1)
	}
	o.commit(sale.KindReserved, large...)
	for range 2 {
		if err := r.Pass(t.Context()); !errors.Is(err, sale.ErrPartly) {
			t.Errorf("%v", err)
		}
	}
	damaged := o.rows[0].SKU
	for _, row := range o.rows {
		if row.SKU != damaged && row.SKU != "large" {
			t.Errorf("a row of %s is left", row.SKU)
		}
	}
	all := readAll(t, c)
	if got := checkOrder(t, all); got != states-(o.pending()-1) {
		t.Errorf("%d states are told, %d of %d are left", got, o.pending()-1, states)
	}
}

// TestRelayGoesOnPastFailingSKUs: rows that nobody can publish, pages full of them, hold
// up their SKUs and no other, in every pass.
func TestRelayGoesOnPastFailingSKUs(t *testing.T) {
	o := newOutbox()
	reg := prometheus.NewRegistry()
	r, c := relayed(t, o, RelayConfig{Registerer: reg})
	r.page, r.workers = 4, 2
	for n := range 5 {
		bad := fmt.Sprintf("bad-%d", n)
		if n == 0 {
			bad = "bad name" // is no subject; no real SKU has such a name
		}
		for i := range 9 {
			o.commit(sale.KindReserved, sold(bad, "u"+strconv.Itoa(i), 1))
		}
		if row := &o.rows[len(o.rows)-9]; n > 0 {
			row.Payload, row.Damage = nil, errors.New("damaged")
		}
	}
	for round := range 2 {
		for i := range 9 {
			o.commit(sale.KindReserved, sold("good", fmt.Sprintf("u%d-%d", round, i), 1))
		}
		if err := r.Pass(t.Context()); !errors.Is(err, sale.ErrPartly) {
			t.Fatalf("a pass that met rows which nobody can publish: %v", err)
		}
		if all := readAll(t, c); len(all) != 9*(round+1) || o.pending() != 5*9 {
			t.Errorf("round %d: %d messages published and %d rows left", round, len(all), o.pending())
		}
		if n := count(t, reg, "flashgate_relay_faulty_skus"); n != 5 {
			t.Errorf("round %d: %v SKUs are said to be at fault", round, n)
		}
	}
	for i := range o.rows {
		o.rows[i].Damage = nil
		o.rows[i].SKU = "mended"
	}
	if err := r.Pass(t.Context()); err != nil || o.pending() != 0 {
		t.Errorf("once mended: %d rows left, %v", o.pending(), err)
	}
	if n := count(t, reg, "flashgate_relay_faulty_skus"); n != 0 {
		t.Errorf("%v SKUs are said to be at fault", n)
	}
}

func TestRelayLeavesWhatThePublisherHolds(t *testing.T) {
	o := newOutbox()
	held := int64(2)
	r, c := relayed(t, o, RelayConfig{Holds: func(id int64) bool { return id == held }})
	for i := range 3 {
		o.commit(sale.KindReserved, sold("phone", "u"+strconv.Itoa(i), 1))
	}
	o.commit(sale.KindReserved, sold("book", "u", 1))
	if err := r.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o.pending() != 2 {
		t.Errorf("%d rows are left, want the held one and the one behind it", o.pending())
	}
	held = 0
	if err := r.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := readAll(t, c); o.pending() != 0 || len(all) != 4 {
		t.Errorf("%d rows left, %d messages", o.pending(), len(all))
	}
}

func TestRelayDoesNotRepeatWhatIsNotDeletedYet(t *testing.T) {
	o := newOutbox()
	o.keep = true
	r, _ := relayed(t, o, RelayConfig{})
	o.commit(sale.KindReserved, sold("phone", "u", 1))
	for range 3 {
		if err := r.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if o.acked[1] != 1 {
		t.Errorf("acknowledged %d times", o.acked[1])
	}
}

func TestRelaySaysWhenItCannotWork(t *testing.T) {
	o := newOutbox()
	o.err = errors.New("away")
	r, _ := relayed(t, o, RelayConfig{})
	if err := r.Pass(t.Context()); !errors.Is(err, o.err) {
		t.Errorf("with the ledger away: %v", err)
	}
	c := connect(t, Config{URL: nowhere})
	if err := newRelay(t, c, newOutbox(), RelayConfig{}).Pass(t.Context()); err == nil {
		t.Error("with NATS away a pass succeeds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, _ = relayed(t, newOutbox(), RelayConfig{})
	if err := r.Pass(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with its context over: %v", err)
	}
}

func TestRelaySplitsWhatTheServerDoesNotTake(t *testing.T) {
	o := newOutbox()
	r, c := relayed(t, o, RelayConfig{})
	orders := make([]sale.Order, 4000) // about 2 MB
	for i := range orders {
		orders[i] = sold("phone", fmt.Sprintf("user-%d", i), 1)
	}
	o.commit(sale.KindReserved, orders...)
	if err := r.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := readAll(t, c)
	if got := checkOrder(t, all); got != len(orders) || len(all) < 2 {
		t.Errorf("%d orders in %d messages", got, len(all))
	}
}

// TestRelayCatchesUp: a pass against a server that does not answer gives up after some
// of the rows, and one after its return publishes all of them.
func TestRelayCatchesUp(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	proxy := testenv.NewProxy(t, strings.TrimPrefix(n.URL, "nats://"))
	c := connected(t, Config{URL: "nats://" + proxy.Addr})
	o := newOutbox()
	reg := prometheus.NewRegistry()
	r := newRelay(t, c, o, RelayConfig{Registerer: reg})
	for i := range 1000 {
		o.commit(sale.KindReserved, sold("sku"+strconv.Itoa(i%50), "u"+strconv.Itoa(i), 1))
	}
	proxy.Pause()
	r.ackTimeout = 300 * time.Millisecond
	o.commit(sale.KindReserved, sold("bad name", "u", 1))
	if err := r.Pass(t.Context()); err == nil || errors.Is(err, sale.ErrPartly) {
		t.Errorf("a pass against a silent server: %v", err)
	}
	// A page is given up when as many as are sent at a time got lost; that many more can
	// be on their way by then.
	if tried := count(t, reg, "flashgate_relay_failed_total"); tried < 1 || tried > badPages*2*relayWorkers {
		t.Errorf("%v rows were tried on a silent server", tried)
	}
	r.ackTimeout = testenv.Patience
	proxy.Resume()
	testenv.Eventually(t, func() bool { return errors.Is(r.Pass(t.Context()), sale.ErrPartly) && o.pending() == 1 }, "the relay catches up")
	if all := readAll(t, c); len(all) != 1000 {
		t.Errorf("the stream has %d messages, want 1000", len(all))
	}
}

// count is the value of a counter or gauge.
func count(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// meddler is an outbox beside which something is done before its pages are read.
type meddler struct {
	*outbox
	before func(page int)
	pages  int
}

func (m *meddler) PendingOutbox(ctx context.Context, olderThan time.Duration, afterID int64, limit int, except []string) ([]sale.OutboxRow, error) {
	m.pages++
	m.before(m.pages)
	return m.outbox.PendingOutbox(ctx, olderThan, afterID, limit, except)
}

// A page that is given up leaves SKUs untried: the next page of the same pass, which gets
// through, must not publish their later rows.
func TestAPageThatIsGivenUpKeepsTheOrder(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	stream, err := c.js.Stream(t.Context(), resultsStream)
	if err != nil {
		t.Fatal(err)
	}
	m := &meddler{outbox: newOutbox()}
	m.before = func(page int) {
		switch page {
		case 1:
			if err := c.js.DeleteStream(t.Context(), resultsStream); err != nil {
				t.Error(err)
			}
		case 2:
			if _, err := c.js.CreateOrUpdateStream(t.Context(), stream.CachedInfo().Config); err != nil {
				t.Error(err)
			}
		}
	}
	r, err := NewRelay(RelayConfig{Holds: func(int64) bool { return false }}, c, m)
	if err != nil {
		t.Fatal(err)
	}
	r.age, r.page, r.workers = 0, 2, 1
	m.commit(sale.KindReserved, sold("first", "u", 1))
	order := sold("good", "ada", 1)
	m.commit(sale.KindReserved, order)
	order.Status, order.Version = sale.StatusPaid, 2
	m.commit(sale.KindPaid, order)
	m.commit(sale.KindInventoryDeduct, order)
	testenv.Eventually(t, func() bool {
		_ = r.Pass(t.Context())
		return m.pending() == 0
	}, "everything is published")
	checkOrder(t, readAll(t, c))
}
