package results

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
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
	// The payloads of the rows that wait may have so many bytes, for the same reasons.
	publisherBytes = 64 << 20
	// So many rows may be sent and not acknowledged. Fewer wait for round trips; more let
	// acknowledgements time out behind a busy server.
	publisherInFlight = 4_000
	// A row that has waited this long to be sent is left to the relay, which publishes
	// rows that are relayAge old: what waits longer would be sent twice.
	publisherWait = 1500 * time.Millisecond
	// A row whose acknowledgement takes longer counts as not stored.
	ackTimeout = 3 * time.Second
	// What Run still has when its ctx ends, it goes on publishing for this long. What is
	// left then, another gateway's relay publishes, two seconds later.
	publisherDrain = 3 * time.Second
)

// Publisher sends the first events of orders as soon as they are committed, without
// waiting for one acknowledgement before the next message. Whatever it cannot get
// acknowledged is left in the outbox, to the Relay.
type Publisher struct {
	cfg   PublisherConfig
	conn  *Conn
	inbox string        // the acknowledgement of row n arrives on inbox + n
	wake  chan struct{} // holds a token when there is something to do

	// The constants above, but for tests.
	maxRows, maxBytes, maxInFlight int
	wait, ackTimeout, drain        time.Duration

	mu       sync.Mutex
	closed   bool
	waiting  []waitingRow
	bytes    int                 // payloads of the rows in waiting
	inFlight map[int64]time.Time // when the row was sent
	queued   map[int64]struct{}  // rows in waiting
	acked    []int64             // stored, and not yet told

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
		cfg: cfg, conn: conn, inbox: conn.nc.NewInbox() + ".", wake: make(chan struct{}, 1),
		maxRows: publisherRows, maxBytes: publisherBytes, maxInFlight: publisherInFlight,
		wait: publisherWait, ackTimeout: ackTimeout, drain: publisherDrain,
		inFlight: make(map[int64]time.Time), queued: make(map[int64]struct{}),
		published: counter(cfg.Registerer, "flashgate_results_published_total", "Outbox rows acknowledged to the publisher."),
		dropped:   counter(cfg.Registerer, "flashgate_results_left_to_relay_total", "Outbox rows that the publisher left to the relay."),
	}, nil
}

// Publish queues the rows of a commit. It never blocks: what does not fit, and every
// row that is not the first of its orders, is left to the relay, which keeps the
// order that later states need. The rows must not be changed afterwards.
func (p *Publisher) Publish(rows []sale.OutboxRow) {
	now := time.Now()
	left := 0
	p.mu.Lock()
	for i := range rows {
		row := &rows[i]
		if row.Kind != sale.KindReserved && row.Kind != sale.KindCouponRedeem {
			continue
		}
		full := len(p.waiting)+len(p.inFlight) >= p.maxRows || p.bytes+len(row.Payload) > p.maxBytes
		if p.closed || full {
			left++
			continue
		}
		p.waiting = append(p.waiting, waitingRow{*row, now})
		p.queued[row.ID] = struct{}{}
		p.bytes += len(row.Payload)
	}
	p.mu.Unlock()
	p.dropped.Add(float64(left))
	p.nudge()
}

// Holds reports whether the row waits here or is in flight, so that the relay need
// not publish it a second time.
func (p *Publisher) Holds(id int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, queued := p.queued[id]
	_, flying := p.inFlight[id]
	return queued || flying
}

// Run publishes until ctx ends, and then what it still has, for a limited time.
func (p *Publisher) Run(ctx context.Context) error {
	sub, err := p.conn.nc.Subscribe(p.inbox+"*", p.reply)
	if err != nil {
		return fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	tick := time.NewTicker(p.ackTimeout / 8)
	defer tick.Stop()
	var deadline <-chan time.Time // set once ctx has ended
	done := ctx.Done()
	for {
		busy := p.step()
		if deadline != nil && !busy {
			break
		}
		select {
		case <-p.wake:
		case <-tick.C:
			p.expire()
		case <-done:
			timer := time.NewTimer(p.drain)
			defer timer.Stop()
			done, deadline = nil, timer.C
		case <-deadline:
			return p.close()
		}
	}
	return p.close()
}

func (p *Publisher) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// step tells what has been acknowledged and sends what may be sent; it reports
// whether anything is still waiting or in flight.
func (p *Publisher) step() bool {
	now := time.Now()
	p.mu.Lock()
	acked := p.acked
	p.acked = nil
	n := max(0, min(len(p.waiting), p.maxInFlight-len(p.inFlight)))
	batch := slices.Clone(p.waiting[:n])
	p.waiting = slices.Delete(p.waiting, 0, n)
	for i := range batch {
		delete(p.queued, batch[i].row.ID)
		p.bytes -= len(batch[i].row.Payload)
		p.inFlight[batch[i].row.ID] = now
	}
	p.mu.Unlock()
	if len(acked) > 0 {
		p.published.Add(float64(len(acked)))
		p.cfg.Acked(acked)
	}
	for i := range batch {
		row := &batch[i].row
		err := errTooLate
		if now.Sub(batch[i].since) <= p.wait {
			err = p.send(row)
		}
		if err != nil {
			p.leave(row.ID, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)+len(p.inFlight)+len(p.acked) > 0
}

var errTooLate = errors.New("it waited too long to be sent")

func (p *Publisher) send(row *sale.OutboxRow) error {
	msg := message(row)
	msg.Reply = p.inbox + strconv.FormatInt(row.ID, 10)
	return p.conn.nc.PublishMsg(msg)
}

// leave gives a row up: it stays in the outbox until the relay comes to it.
func (p *Publisher) leave(id int64, why error) {
	p.mu.Lock()
	_, had := p.inFlight[id]
	delete(p.inFlight, id)
	p.mu.Unlock()
	if had {
		p.dropped.Inc()
		p.cfg.Log.Debug("an outbox row is left to the relay", "id", id, "err", why)
	}
}

// expire gives up the rows whose acknowledgement is overdue.
func (p *Publisher) expire() {
	limit := time.Now().Add(-p.ackTimeout)
	var late []int64
	p.mu.Lock()
	for id, sent := range p.inFlight {
		if sent.Before(limit) {
			late = append(late, id)
		}
	}
	p.mu.Unlock()
	for _, id := range late {
		p.leave(id, errNoAck)
	}
}

var errNoAck = errors.New("no acknowledgement in time")

// reply runs on the client library's goroutine for each acknowledgement. One that
// comes after its row was given up still proves that the row is stored.
func (p *Publisher) reply(msg *nats.Msg) {
	id, err := strconv.ParseInt(msg.Subject[len(p.inbox):], 10, 64)
	if err != nil {
		return
	}
	if err := ackError(msg); err != nil {
		p.leave(id, err)
		return
	}
	p.mu.Lock()
	delete(p.inFlight, id)
	p.acked = append(p.acked, id)
	p.mu.Unlock()
	p.nudge()
}

// ackError is nil when the reply says that the message is stored (now or before).
func ackError(msg *nats.Msg) error {
	if bytes.HasPrefix(msg.Data, []byte(`{"stream":"`)) {
		return nil
	}
	if len(msg.Data) == 0 {
		return fmt.Errorf("no stream takes the message (status %q)", msg.Header.Get("Status"))
	}
	var ack struct {
		Stream string `json:"stream"`
		Error  *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return fmt.Errorf("read an acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return fmt.Errorf("the stream refused: %s", ack.Error.Description)
	}
	if ack.Stream == "" {
		return errors.New("the acknowledgement names no stream")
	}
	return nil
}

// close refuses further rows and leaves the rest to the relay.
func (p *Publisher) close() error {
	p.mu.Lock()
	p.closed = true
	left := len(p.waiting) + len(p.inFlight)
	acked := p.acked
	p.waiting, p.acked, p.bytes = nil, nil, 0
	clear(p.inFlight)
	clear(p.queued)
	p.mu.Unlock()
	if len(acked) > 0 {
		p.cfg.Acked(acked)
	}
	if left > 0 {
		p.dropped.Add(float64(left))
		p.cfg.Log.Warn("outbox rows are left to another gateway's relay", "rows", left)
	}
	return nil
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
