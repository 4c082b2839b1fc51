package results

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go"
)

// newPublisher is a publisher that gives NATS time: it gives up no row only because the
// machine is busy.
func newPublisher(t testing.TB, c *Conn, acked func([]int64)) *Publisher {
	t.Helper()
	p, err := NewPublisher(PublisherConfig{Acked: acked}, c)
	if err != nil {
		t.Fatal(err)
	}
	p.wait, p.ackTimeout, p.drain = testenv.Patience, testenv.Patience, testenv.Patience
	return p
}

func TestPublishNeverBlocksAndIsBounded(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	p := newPublisher(t, c, func([]int64) {})
	p.maxRows = 10
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
	p := newPublisher(t, c, func([]int64) {})
	p.maxBytes = 1000
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
	p := newPublisher(t, c, o.Acked)
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
	c := connecting(t, Config{Embedded: embedded(t)}) // its Run would make the streams
	testenv.Eventually(t, c.Connected, "connected")
	o := newOutbox()
	p := newPublisher(t, c, o.Acked)
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
	p := newPublisher(t, c, o.Acked)
	p.maxFlight = 3
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
			cfg:     PublisherConfig{Acked: func([]int64) {}, Log: discard},
			maxRows: 9, maxBytes: 9, maxFlight: 9, wait: time.Second, ackTimeout: time.Second,
			held: make(map[int64]struct{}), wake: make(chan struct{}, 1), maxPayload: func() int64 { return 0 },
			published: counter(nil, "a", ""), dropped: counter(nil, "b", ""),
		}
		p.Publish([]sale.OutboxRow{{ID: 1, Kind: sale.KindReserved}})
		time.Sleep(2 * time.Second)
		p.Publish([]sale.OutboxRow{{ID: 2, Kind: sale.KindReserved}})
		if rows := p.take(time.Now()); len(rows) != 1 || rows[0].ID != 2 {
			t.Errorf("%v are sent, want the one that has just come", rows)
		}
		if p.Holds(1) || !p.Holds(2) {
			t.Error("a row that waited too long is still held, or one that is under way is not")
		}
	})
}

// TestKilledInMidPublish kills the server again and again while rows are committed,
// published and relayed: at the moment when it has stored rows whose acknowledgement
// nobody has read, and when rows that were sent have not reached it.
func TestKilledInMidPublish(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	proxy := testenv.NewProxy(t, strings.TrimPrefix(n.URL, "nats://"))
	c := connected(t, Config{URL: "nats://" + proxy.Addr})
	o := newOutbox()
	p := newPublisher(t, c, o.Acked)
	// What got lost is left to the relay soon; what is only slow may be published twice.
	p.ackTimeout = time.Second
	r := newRelay(t, c, o, RelayConfig{Holds: p.Holds})
	r.age, r.ackTimeout = 300*time.Millisecond, time.Second
	during(t, p.Run)
	during(t, func(ctx context.Context) error {
		for ctx.Err() == nil {
			_ = r.Pass(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
		return nil
	})
	users, states := 0, 0
	commit := func(orders int) {
		for range orders {
			users++
			order := sold("sku"+strconv.Itoa(users%7), fmt.Sprintf("user%d", users), 1)
			p.Publish([]sale.OutboxRow{o.commit(sale.KindReserved, order)})
			states++
			if users%3 == 0 {
				order.Status, order.Version = sale.StatusCancelled, 2
				p.Publish([]sale.OutboxRow{o.commit(sale.KindCancelled, order)})
				states++
			}
		}
	}
	for round := range 4 {
		before := o.ackedRows()
		commit(200)
		testenv.Eventually(t, func() bool { return o.ackedRows() > before }, "round %d: something gets through", round)
		lost := proxy.SwallowReply
		if round%2 == 1 {
			lost = proxy.CutBefore
		}
		sprung := lost("PUB flashgate.results.")
		testenv.Eventually(t, func() bool {
			commit(10)
			select {
			case <-sprung:
				return true
			default:
				return false
			}
		}, "round %d: rows are under way", round)
		n.Kill()
		commit(50)
		n.Restart(t)
		commit(200)
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
	c := connecting(b, Config{URL: n.URL})
	testenv.Eventually(b, c.Connected, "connected")
	if c.keepStreams(b.Context()); !c.ResultsReady() {
		b.Fatal(c.Details())
	}
	got := make(chan int, 1<<20)
	p := newPublisher(b, c, func(ids []int64) { got <- len(ids) })
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
