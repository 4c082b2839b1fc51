package results

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

var discard = slog.New(slog.DiscardHandler)

// relayed is a relay over an in-process server that takes rows of any age.
func relayed(t *testing.T, o *outbox, cfg RelayConfig) (*Relay, *Conn) {
	t.Helper()
	c := connected(t, Config{Embedded: embedded(t)})
	cfg.OlderThan = time.Nanosecond
	r, err := NewRelay(cfg, c, o)
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

func TestRelayKeepsTheOrderOfRows(t *testing.T) {
	o := newOutbox()
	r, c := relayed(t, o, RelayConfig{PageSize: 7, Concurrency: 3})
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

func TestRelayGoesOnPastAFailingSKU(t *testing.T) {
	o := newOutbox()
	r, c := relayed(t, o, RelayConfig{PageSize: 4, Concurrency: 2})
	// A name that is no subject cannot be published; no real SKU has such a name.
	for i := range 9 {
		o.commit(sale.KindReserved, sold("bad name", "u"+strconv.Itoa(i), 1))
	}
	for i := range 9 {
		o.commit(sale.KindReserved, sold("good", "u"+strconv.Itoa(i), 1))
	}
	if err := r.Pass(t.Context()); err != nil {
		t.Fatalf("a pass that got something through: %v", err)
	}
	if all := readAll(t, c); len(all) != 9 || o.pending() != 9 {
		t.Errorf("%d messages published and %d rows left, want 9 and 9", len(all), o.pending())
	}
	if err := r.Pass(t.Context()); err == nil {
		t.Error("a pass that got nothing through says so")
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
	r, err := NewRelay(RelayConfig{}, c, newOutbox())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Pass(t.Context()); err == nil {
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

func TestRelayCatchesUp(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	c := connected(t, Config{URL: n.URL})
	o := newOutbox()
	r, err := NewRelay(RelayConfig{OlderThan: time.Nanosecond, AckTimeout: 300 * time.Millisecond}, c, o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		o.commit(sale.KindReserved, sold("sku"+strconv.Itoa(i%50), "u"+strconv.Itoa(i), 1))
	}
	n.Stop()
	begin := time.Now()
	if err := r.Pass(t.Context()); err == nil {
		t.Error("a pass against a frozen server succeeds")
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("giving up on a frozen server took %v", took)
	}
	n.Cont()
	testenv.Eventually(t, func() bool { return r.Pass(t.Context()) == nil && o.pending() == 0 }, "the relay catches up")
	if all := readAll(t, c); len(all) != 1000 {
		t.Errorf("the stream has %d messages, want 1000", len(all))
	}
}
