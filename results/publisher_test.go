package results

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go"
)

// nowhere is an address where nothing listens.
const nowhere = "nats://127.0.0.1:9"

func TestPublishNeverBlocksAndIsBounded(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	p, err := NewPublisher(PublisherConfig{Acked: func([]int64) {}, Capacity: 10}, c)
	if err != nil {
		t.Fatal(err)
	}
	o := newOutbox()
	for i := range 25 {
		p.Publish([]sale.OutboxRow{o.commit(sale.KindReserved, sold("phone", strconv.Itoa(i), 1))})
	}
	held := 0
	for id := range int64(26) {
		if p.Holds(id) {
			held++
		}
	}
	if held != 10 {
		t.Errorf("holds %d rows, want its capacity of 10", held)
	}
}

func TestPublisherIsBoundedInBytes(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	p, err := NewPublisher(PublisherConfig{Acked: func([]int64) {}, MaxBytes: 1000}, c)
	if err != nil {
		t.Fatal(err)
	}
	for id := range int64(5) {
		p.Publish([]sale.OutboxRow{{ID: id, Kind: sale.KindReserved, Payload: make([]byte, 400)}})
	}
	if !p.Holds(0) || !p.Holds(1) || p.Holds(2) {
		t.Error("want the first two rows to be held, which have 800 bytes, and no more")
	}
}

func TestPublisherLeavesLaterStatesToTheRelay(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	o := newOutbox()
	p, err := NewPublisher(PublisherConfig{Acked: o.Acked}, c)
	if err != nil {
		t.Fatal(err)
	}
	stop := during(t, p.Run)
	first, later := sold("phone", "ada", 1), sold("phone", "ada", 1)
	later.Status, later.Version = sale.StatusPaid, 2
	rows := []sale.OutboxRow{
		o.commit(sale.KindReserved, first), o.commit(sale.KindCouponRedeem, first),
		o.commit(sale.KindPaid, later), o.commit(sale.KindInventoryDeduct, later),
	}
	p.Publish(rows)
	testenv.Eventually(t, func() bool { return o.pending() == 2 }, "the first states are acknowledged")
	stop()
	for _, m := range readAll(t, c) {
		if m.kind != sale.KindReserved && m.kind != sale.KindCouponRedeem {
			t.Errorf("%s was published", m.kind)
		}
	}
	if p.Publish(rows[:1]); p.Holds(rows[0].ID) {
		t.Error("a publisher that has ended takes rows")
	}
}

func TestPublisherGivesUpRowsWithoutAStream(t *testing.T) {
	e := embedded(t)
	c, err := Connect(Config{Embedded: e}) // its Run, which would make the streams, does not run
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	testenv.Eventually(t, c.Connected, "connected")
	o := newOutbox()
	p, err := NewPublisher(PublisherConfig{Acked: o.Acked}, c)
	if err != nil {
		t.Fatal(err)
	}
	during(t, p.Run)
	row := o.commit(sale.KindReserved, sold("phone", "ada", 1))
	p.Publish([]sale.OutboxRow{row})
	testenv.Eventually(t, func() bool { return !p.Holds(row.ID) }, "the row is given up")
	if o.ackedRows() != 0 {
		t.Error("a row that no stream stores counts as acknowledged")
	}
}

func TestPublisherDrainsWhenItEnds(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	o := newOutbox()
	p, err := NewPublisher(PublisherConfig{Acked: o.Acked, MaxInFlight: 3}, c)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		p.Publish([]sale.OutboxRow{o.commit(sale.KindReserved, sold("phone", strconv.Itoa(i), 1))})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if n := o.pending(); n != 0 {
		t.Errorf("%d rows are left after a drain with the server there", n)
	}
}

func TestAckError(t *testing.T) {
	tests := []struct {
		data string
		ok   bool
	}{
		{`{"stream":"FLASHGATE","seq":7}`, true},
		{`{"stream":"FLASHGATE","seq":7,"duplicate":true}`, true},
		{`{"seq":7,"stream":"FLASHGATE"}`, true},
		{`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`, false},
		{`{}`, false},
		{`x`, false},
		{``, false},
	}
	for _, tc := range tests {
		if err := ackError(&nats.Msg{Data: []byte(tc.data)}); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.data, err)
		}
	}
}

// TestRowsThatWaitTooLongAreLeft uses a publisher without a server: nothing is sent.
func TestRowsThatWaitTooLongAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Publisher{
			cfg:      PublisherConfig{Acked: func([]int64) {}, Capacity: 9, MaxBytes: 9, MaxInFlight: 9, MaxWait: time.Second, AckTimeout: time.Second, Log: discard},
			inFlight: make(map[int64]time.Time), queued: make(map[int64]struct{}), wake: make(chan struct{}, 1),
			published: counter(nil, "a", ""), dropped: counter(nil, "b", ""),
		}
		p.Publish([]sale.OutboxRow{{ID: 1, Kind: sale.KindReserved}})
		time.Sleep(2 * time.Second)
		if busy := p.step(); busy || p.Holds(1) {
			t.Error("a row that waited too long is still held")
		}
		p.inFlight[2] = time.Now()
		time.Sleep(500 * time.Millisecond)
		if p.expire(); !p.Holds(2) {
			t.Error("a row was given up before its time")
		}
		time.Sleep(600 * time.Millisecond)
		if p.expire(); p.Holds(2) {
			t.Error("a row whose acknowledgement is overdue is still held")
		}
	})
}

func TestConnectRefusesWrongConfiguration(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{URL: nowhere, Streams: StreamConfig{Replicas: 2}},
		{URL: nowhere, Streams: StreamConfig{MaxAge: time.Second}},
		{URL: nowhere, CAFile: "does-not-exist.pem"},
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
	if c.Connected() || c.Ready() || c.Ping(context.Background()) == nil {
		t.Error("connected to a server that is away")
	}
	n.Restart(t)
	testenv.Eventually(t, c.Ready, "the streams stand soon after the server came")
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	n.Stop()
	// A signal takes a moment to reach all of the server's threads.
	testenv.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return errors.Is(c.Ping(ctx), context.DeadlineExceeded)
	}, "a ping of the frozen server ends in time")
	n.Cont()
}

// TestKilledInMidPublish kills and restarts the server again and again while rows are
// committed, published and relayed.
func TestKilledInMidPublish(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	c := connected(t, Config{URL: n.URL})
	o := newOutbox()
	p, err := NewPublisher(PublisherConfig{Acked: o.Acked, AckTimeout: time.Second}, c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRelay(RelayConfig{OlderThan: 300 * time.Millisecond, AckTimeout: time.Second, Holds: p.Holds}, c, o)
	if err != nil {
		t.Fatal(err)
	}
	during(t, p.Run)
	during(t, func(ctx context.Context) error {
		for {
			_ = r.Pass(ctx)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	const orders = 2000
	states := 0
	for i := range orders {
		sku := "sku" + strconv.Itoa(i%7)
		order := sold(sku, fmt.Sprintf("user%d", i), 1)
		p.Publish([]sale.OutboxRow{o.commit(sale.KindReserved, order)})
		states++
		if i%3 == 0 {
			order.Status, order.Version = sale.StatusCancelled, 2
			p.Publish([]sale.OutboxRow{o.commit(sale.KindCancelled, order)})
			states++
		}
		if i%500 == 250 {
			n.Kill()
		}
		if i%500 == 300 {
			n.Restart(t)
		}
		if i%50 == 0 {
			testenv.Eventually(t, func() bool { return o.ackedRows() > states/2 || !n.Running() || i < 100 }, "something gets through")
		}
	}
	testenv.Eventually(t, func() bool { return o.pending() == 0 }, "every row is acknowledged in the end")
	all := readAll(t, c)
	if got := checkOrder(t, all); got != states {
		t.Errorf("the stream has %d states, %d were committed", got, states)
	}
	if len(all) != states {
		t.Errorf("the stream has %d messages for %d rows: repeats were not recognised", len(all), states)
	}
}

// BenchmarkPublisher publishes rows of one order each, as groups over many SKUs make
// them.
func BenchmarkPublisher(b *testing.B) {
	n := testenv.NATS(b)
	c, err := Connect(Config{URL: n.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	testenv.Eventually(b, c.Connected, "connected")
	if err := c.EnsureStreams(b.Context()); err != nil {
		b.Fatal(err)
	}
	got := make(chan int, 1<<20)
	p, err := NewPublisher(PublisherConfig{Acked: func(ids []int64) { got <- len(ids) }}, c)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	o := newOutbox()
	row := o.commit(sale.KindReserved, sold("phone", "ada", 1))
	b.ReportAllocs()
	flying := 0
	for i := 0; b.Loop(); i++ {
		row.ID = int64(i)
		row.MsgID = [16]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}
		p.Publish([]sale.OutboxRow{row})
		for flying++; flying > 2000; {
			flying -= <-got
		}
	}
	cancel()
	<-done
}
