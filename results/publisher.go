package results

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// PublisherConfig is what a Publisher needs to know.
type PublisherConfig struct {
	// Acked is told the ids of rows that the stream has stored. It must not block.
	Acked func(ids []int64)

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// A publisher has at most so many rows in memory, waiting and in flight. Fewer leave
	// rows of a burst to the relay, two seconds later; more hold their payloads in memory
	// while NATS is slow.
	publisherRows = 20_000
	// The payloads of these rows may have so many bytes, for the same reasons.
	publisherBytes = 64 << 20
	// So many flights are under way side by side, each with whatever waits, up to
	// maxTogether rows. Fewer leave the server idle while one is answered; more make them
	// small, and let acknowledgements time out behind a busy server.
	publisherFlights = 2
	// A row that has waited this long to be sent is left to the relay, which publishes
	// rows that are relayAge old: what waits longer would be sent twice.
	publisherWait = 1500 * time.Millisecond
	// A row whose acknowledgement takes longer counts as not stored.
	ackTimeout = 3 * time.Second
	// What Run still has when its ctx ends, it goes on publishing for this long. What is
	// left then, another gateway's relay publishes, two seconds later.
	publisherDrain = 3 * time.Second
)

// Publisher sends the first events of orders as soon as they are committed. Whatever it
// cannot get acknowledged is left in the outbox, to the Relay.
type Publisher struct {
	cfg  PublisherConfig
	conn *Conn
	wake chan struct{} // holds a token when rows wait
	// maxPayload is how large a message the server takes, 0 as long as it is not known.
	maxPayload func() int64

	// The constants above, but for tests.
	maxRows, maxBytes, maxFlight int
	wait, ackTimeout, drain      time.Duration

	mu      sync.Mutex
	closed  bool
	waiting []waitingRow
	bytes   int                // payloads of the rows in held
	held    map[int64]struct{} // rows that wait or are in flight

	published, dropped prometheus.Counter
}

type waitingRow struct {
	row   sale.OutboxRow
	since time.Time
}

// NewPublisher starts nothing; Run does.
func NewPublisher(cfg PublisherConfig, conn *Conn) (*Publisher, error) {
	if cfg.Acked == nil {
		return nil, errors.New("a publisher has to tell somebody what is acknowledged")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Publisher{
		cfg: cfg, conn: conn, wake: make(chan struct{}, 1), maxPayload: conn.nc.MaxPayload,
		maxRows: publisherRows, maxBytes: publisherBytes, maxFlight: maxTogether,
		wait: publisherWait, ackTimeout: ackTimeout, drain: publisherDrain,
		held:      make(map[int64]struct{}),
		published: counter(cfg.Registerer, "flashgate_results_published_total", "Outbox rows acknowledged to the publisher."),
		dropped:   counter(cfg.Registerer, "flashgate_results_left_to_relay_total", "Outbox rows that the publisher left to the relay."),
	}, nil
}

// Publish queues the rows of a commit. It never blocks: what does not fit, and every
// row that is not the first of its orders, is left to the relay, which keeps the
// order that later states need. The rows must not be changed afterwards.
func (p *Publisher) Publish(rows []sale.OutboxRow) {
	now, most := time.Now(), p.maxPayload()
	left := 0
	p.mu.Lock()
	for i := range rows {
		row := &rows[i]
		if !comesFirst(row.Kind) {
			continue
		}
		// What has to be split is the relay's.
		large := most > 0 && int64(len(row.Payload)) > most-headerRoom
		full := len(p.held) >= p.maxRows || p.bytes+len(row.Payload) > p.maxBytes
		if p.closed || full || large {
			left++
			continue
		}
		p.waiting = append(p.waiting, waitingRow{*row, now})
		p.held[row.ID] = struct{}{}
		p.bytes += len(row.Payload)
	}
	p.mu.Unlock()
	p.dropped.Add(float64(left))
	p.nudge()
}

// comesFirst reports whether events of this kind are the first of their orders. Nothing has
// to be told before them.
func comesFirst(kind sale.Kind) bool {
	return kind == sale.KindReserved || kind == sale.KindCouponRedeem
}

// Holds reports whether the row waits here or is in flight, so that the relay need
// not publish it a second time.
func (p *Publisher) Holds(id int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, held := p.held[id]
	return held
}

// Run publishes until ctx ends, and then what it still has, for a limited time.
func (p *Publisher) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var flights, all sync.WaitGroup
	for range publisherFlights {
		flights.Go(func() { p.run(ctx, work) })
	}
	idle := make(chan struct{})
	all.Go(func() { flights.Wait(); close(idle) })
	defer all.Wait()
	<-ctx.Done()
	timer := time.NewTimer(p.drain)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
		cancel()
		<-idle
	}
	p.close()
	return nil
}

// run sends what waits until ctx has ended and nothing waits any more, or work has ended.
func (p *Publisher) run(ctx, work context.Context) {
	for work.Err() == nil {
		rows := p.take(time.Now())
		if len(rows) > 0 {
			p.fly(work, rows)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
		}
	}
}

func (p *Publisher) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take removes what one flight carries from the rows that wait. What waited too long is
// left to the relay.
func (p *Publisher) take(now time.Time) []sale.OutboxRow {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rows []sale.OutboxRow
	n, bytes, late := 0, 0, 0
	for ; n < len(p.waiting) && len(rows) < p.maxFlight && bytes <= maxTogetherBytes; n++ {
		w := &p.waiting[n]
		if now.Sub(w.since) > p.wait {
			late++
			p.release(&w.row)
			continue
		}
		rows = append(rows, w.row)
		bytes += len(w.row.Payload)
	}
	p.waiting = slices.Delete(p.waiting, 0, n)
	if len(p.waiting) > 0 {
		p.nudge() // for the next flight
	}
	p.dropped.Add(float64(late))
	return rows
}

// release forgets a row. The lock is held.
func (p *Publisher) release(row *sale.OutboxRow) {
	if _, held := p.held[row.ID]; held {
		delete(p.held, row.ID)
		p.bytes -= len(row.Payload)
	}
}

// fly sends the rows and tells which of them are acknowledged.
func (p *Publisher) fly(ctx context.Context, rows []sale.OutboxRow) {
	msgs := make([]*nats.Msg, len(rows))
	for i := range rows {
		msgs[i] = p.conn.names.message(&rows[i])
	}
	ctx, cancel := context.WithTimeout(ctx, p.ackTimeout)
	defer cancel()
	errs := p.conn.publish(ctx, keptResults, msgs, 1, p.ackTimeout)
	acked := make([]int64, 0, len(rows))
	var failed error
	for i, err := range errs {
		if err == nil {
			acked = append(acked, rows[i].ID)
		} else {
			failed = err
		}
	}
	p.mu.Lock()
	for i := range rows {
		p.release(&rows[i])
	}
	p.mu.Unlock()
	if left := len(rows) - len(acked); left > 0 {
		p.dropped.Add(float64(left))
		p.cfg.Log.Debug("outbox rows are left to the relay", "rows", left, "err", failed)
	}
	if len(acked) > 0 {
		p.published.Add(float64(len(acked)))
		p.cfg.Acked(acked)
	}
}

// close refuses further rows and leaves the rest to the relay.
func (p *Publisher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	left := len(p.waiting)
	p.waiting, p.bytes = nil, 0
	clear(p.held)
	if left > 0 {
		p.dropped.Add(float64(left))
		p.cfg.Log.Warn("outbox rows are left to another gateway's relay", "rows", left)
	}
}

// gauge makes a gauge and registers it where there is somebody to ask for it.
func gauge(r prometheus.Registerer, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	if r != nil {
		r.MustRegister(g)
	}
	return g
}

// counter makes a counter and registers it where there is somebody to ask for it.
func counter(r prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	if r != nil {
		r.MustRegister(c)
	}
	return c
}
