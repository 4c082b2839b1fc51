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
	// Capacity bounds the rows in memory, waiting and in flight. Too low leaves rows
	// of a burst to the relay, two seconds later; too high holds their payloads in
	// memory while NATS is slow. Zero means 20,000.
	Capacity int
	// MaxBytes bounds the payloads of the rows that wait. Too low and too high are as
	// for Capacity. Zero means 64 MiB.
	MaxBytes int
	// MaxInFlight bounds the rows sent and not yet acknowledged. Too low waits for
	// round trips; too high lets acknowledgements time out behind a busy server. Zero
	// means 4,000.
	MaxInFlight int
	// MaxWait is how long a row may wait to be sent before it is left to the relay. It
	// has to end before the relay takes up rows of that age. Zero means 1.5 s.
	MaxWait time.Duration
	// AckTimeout is when a row sent counts as not stored and is left to the relay.
	// Zero means 3 s.
	AckTimeout time.Duration
	// DrainTimeout bounds how long Run goes on after its ctx has ended. Zero means 3 s.
	DrainTimeout time.Duration

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Publisher sends the first events of orders as soon as they are committed, without
// waiting for one acknowledgement before the next message. Whatever it cannot get
// acknowledged is left in the outbox, to the Relay.
type Publisher struct {
	cfg   PublisherConfig
	conn  *Conn
	inbox string        // the acknowledgement of row n arrives on inbox + n
	wake  chan struct{} // holds a token when there is something to do

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
	cfg.Capacity = orDefault(cfg.Capacity, 20_000)
	cfg.MaxBytes = orDefault(cfg.MaxBytes, 64<<20)
	cfg.MaxInFlight = orDefault(cfg.MaxInFlight, 4_000)
	cfg.MaxWait = orDefault(cfg.MaxWait, 1500*time.Millisecond)
	cfg.AckTimeout = orDefault(cfg.AckTimeout, 3*time.Second)
	cfg.DrainTimeout = orDefault(cfg.DrainTimeout, 3*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Capacity < 1 || cfg.MaxBytes < 1 || cfg.MaxInFlight < 1 || cfg.MaxWait < 0 || cfg.AckTimeout < 0 || cfg.DrainTimeout < 0 {
		return nil, errors.New("a publisher's bounds must be positive")
	}
	p := &Publisher{
		cfg: cfg, conn: conn, inbox: conn.nc.NewInbox() + ".", wake: make(chan struct{}, 1),
		inFlight: make(map[int64]time.Time), queued: make(map[int64]struct{}),
		published: counter(cfg.Registerer, "flashgate_results_published_total", "Outbox rows acknowledged to the publisher."),
		dropped:   counter(cfg.Registerer, "flashgate_results_left_to_relay_total", "Outbox rows that the publisher left to the relay."),
	}
	return p, nil
}

// Publish takes the rows of a commit. It never blocks: what does not fit, and every
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
		full := len(p.waiting)+len(p.inFlight) >= p.cfg.Capacity || p.bytes+len(row.Payload) > p.cfg.MaxBytes
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
	tick := time.NewTicker(p.cfg.AckTimeout / 8)
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
			timer := time.NewTimer(p.cfg.DrainTimeout)
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
	n := max(0, min(len(p.waiting), p.cfg.MaxInFlight-len(p.inFlight)))
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
		if now.Sub(batch[i].since) <= p.cfg.MaxWait {
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
	limit := time.Now().Add(-p.cfg.AckTimeout)
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

// close takes nothing more and leaves the rest to the relay.
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

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// counter makes a counter and registers it where there is somebody to ask for it.
func counter(r prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	if r != nil {
		r.MustRegister(c)
	}
	return c
}
