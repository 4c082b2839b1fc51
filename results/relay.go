package results

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Outbox is what the relay needs of the ledger.
type Outbox interface {
	// PendingOutbox returns up to limit rows in row order, with ids above afterID, but none
	// of the SKUs in except, up to the first that is not older than olderThan.
	PendingOutbox(ctx context.Context, olderThan time.Duration, afterID int64, limit int, except []string) ([]sale.OutboxRow, error)
	// Acked deletes the rows, soon; it does not block.
	Acked(ids []int64)
}

// RelayConfig is what a Relay needs to know.
type RelayConfig struct {
	// Holds tells which rows this gateway's own publisher still has. They,
	// and later rows of their SKUs, wait for the next pass.
	Holds func(id int64) bool

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// Younger rows are left to the publishers. Earlier publishes twice what they have in
	// flight; later delays every state after the first.
	relayAge = 2 * time.Second
	// So many rows are in memory at a time: their payloads can have a megabyte each.
	relayPage = 128
	// So many SKUs are published side by side.
	relayWorkers = 16
)

// Relay publishes what the outbox still has: rows that no publisher got
// acknowledged, and all states after the first. Within a SKU it goes row by row,
// each after the acknowledgement of the one before, which is what keeps the events
// of every order in order. One pass runs at a time, in one gateway at a time: it is
// the body of a leased job. Two relays at once would do no harm but work twice.
type Relay struct {
	cfg    RelayConfig
	conn   *Conn
	outbox Outbox
	// settled remembers rows that are acknowledged but may not be deleted yet.
	settled map[int64]time.Time
	// blamed is the rows at fault that the last pass met, so that each is told of once.
	blamed map[int64]struct{}

	// The constants above, but for tests.
	age           time.Duration
	page, workers int
	ackTimeout    time.Duration

	published, failed prometheus.Counter
	faulty            prometheus.Gauge
}

// settledFor is longer than an acknowledged row stays in the outbox.
const settledFor = 10 * time.Second

// NewRelay starts nothing; Pass does one round.
func NewRelay(cfg RelayConfig, conn *Conn, outbox Outbox) (*Relay, error) {
	if cfg.Holds == nil || outbox == nil {
		return nil, errors.New("a relay needs an outbox, and to know what the publisher has of it")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Relay{
		cfg: cfg, conn: conn, outbox: outbox, settled: make(map[int64]time.Time),
		age: relayAge, page: relayPage, workers: relayWorkers, ackTimeout: ackTimeout,
		published: counter(cfg.Registerer, "flashgate_relay_published_total", "Outbox rows acknowledged to the relay."),
		failed:    counter(cfg.Registerer, "flashgate_relay_failed_total", "Outbox rows that the relay could not publish this time."),
		faulty:    gauge(cfg.Registerer, "flashgate_relay_faulty_skus", "SKUs whose events wait behind an outbox row that nobody can publish, in the last pass."),
	}, nil
}

// Pass publishes everything that is pending, once. A SKU whose row fails is left
// until the next pass and holds up no other; when nothing gets through at all the
// pass ends with an error, and whoever calls should wait a little longer. A row that could
// not be published whatever NATS does is the error sale.ErrPartly, after all others have
// been published. It must not run twice at the same time.
func (r *Relay) Pass(ctx context.Context) error {
	if !r.conn.Connected() {
		return fmt.Errorf("relay: nats: %w", nats.ErrDisconnected)
	}
	now := time.Now()
	for id, at := range r.settled {
		if now.Sub(at) > settledFor {
			delete(r.settled, id)
		}
	}
	p := pass{relay: r, stuck: make(map[string]struct{}), faults: make(map[string]*fault)}
	var failed error
	for after, bad := int64(0), 0; ; {
		rows, err := r.outbox.PendingOutbox(ctx, r.age, after, r.page, slices.Sorted(maps.Keys(p.stuck)))
		if err != nil {
			return fmt.Errorf("relay: read the outbox: %w", err)
		}
		if len(rows) > 0 {
			after = rows[len(rows)-1].ID
		}
		acked, err := p.page(ctx, rows)
		if len(acked) > 0 {
			r.published.Add(float64(len(acked)))
			r.outbox.Acked(acked)
			bad = 0
		} else if err != nil {
			bad, failed = bad+1, err
		}
		last := len(rows) < r.page
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case bad >= badPages || (last && bad > 0):
			return fmt.Errorf("relay: nothing gets through: %w", failed)
		case last:
			return p.end()
		}
	}
}

// end says which SKUs have a row at fault.
func (p *pass) end() error {
	p.relay.blamed = make(map[int64]struct{})
	p.relay.faulty.Set(float64(len(p.faults)))
	for _, f := range p.faults {
		p.relay.blamed[f.id] = struct{}{}
	}
	for sku, f := range p.faults {
		return fmt.Errorf("relay: %w: events of %d SKUs wait, as of %s: %w", sale.ErrPartly, len(p.faults), sku, f)
	}
	return nil
}

// badPages is how many pages in a row without a single acknowledgement end a pass.
// One may be full of a few SKUs that fail for reasons of their own.
const badPages = 2

// pass is the state of one Pass.
type pass struct {
	relay *Relay
	stuck map[string]struct{} // SKUs that wait for the next pass
	// faults are those of the stuck SKUs whose row is at fault itself.
	faults map[string]*fault
}

// fault is why a row cannot be published, whatever NATS does.
type fault struct {
	id  int64
	err error
}

func (f *fault) Error() string { return fmt.Sprintf("row %d: %v", f.id, f.err) }
func (f *fault) Unwrap() error { return f.err }

// faultOf returns the row's own fault, or nil where NATS may be what failed.
func faultOf(row *sale.OutboxRow, err error) *fault {
	var answer *jetstream.APIError
	tooLarge := errors.As(err, &answer) && answer.ErrorCode == messageTooLarge
	if tooLarge || errors.Is(err, errUnreadable) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrMaxPayload) {
		return &fault{row.ID, err}
	}
	return nil
}

// errUnreadable says that an outbox row holds no events.
var errUnreadable = errors.New("its events cannot be read")

// messageTooLarge is how a stream refuses a message for its size.
const messageTooLarge jetstream.ErrorCode = 10054

// page publishes one page, its SKUs side by side. It returns the ids of the rows that
// are acknowledged, and one of the errors when there were some that are not a row's own.
func (p *pass) page(ctx context.Context, rows []sale.OutboxRow) ([]int64, error) {
	var (
		mu     sync.Mutex // guards what the workers report
		acked  []int64
		stuck  []string
		failed error
		losses int
	)
	// After so many losses and no success the rest of the page is not tried.
	hopeless := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(acked) == 0 && losses >= p.relay.workers
	}
	var wg sync.WaitGroup
	places := make(chan struct{}, p.relay.workers)
	chains := p.chains(rows)
	for i, chain := range chains {
		// A worker gives its place back within its acknowledgement timeout, or at once
		// when ctx ends.
		places <- struct{}{}
		if hopeless() || ctx.Err() != nil {
			// Later rows of a SKU must not overtake those that were not tried.
			for _, untried := range chains[i:] {
				p.stuck[untried[0].SKU] = struct{}{}
			}
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			done, held, err := p.relay.chain(ctx, chain)
			mu.Lock()
			defer mu.Unlock()
			acked = append(acked, done...)
			var own *fault
			switch {
			case errors.As(err, &own):
				p.faults[chain[0].SKU] = own
			case err != nil:
				failed = err
				losses++
			}
			if held || err != nil {
				stuck = append(stuck, chain[0].SKU)
			}
		})
	}
	wg.Wait()
	for _, sku := range stuck {
		p.stuck[sku] = struct{}{}
	}
	now := time.Now()
	for _, id := range acked {
		p.relay.settled[id] = now
	}
	return acked, failed
}

// chains sorts the rows by SKU, the SKU with the oldest row first, without those that
// have been acknowledged or must wait.
func (p *pass) chains(rows []sale.OutboxRow) [][]*sale.OutboxRow {
	var chains [][]*sale.OutboxRow
	index := make(map[string]int)
	for i := range rows {
		row := &rows[i]
		_, settled := p.relay.settled[row.ID]
		_, stuck := p.stuck[row.SKU]
		if settled || stuck {
			continue
		}
		at, ok := index[row.SKU]
		if !ok {
			at = len(chains)
			index[row.SKU] = at
			chains = append(chains, nil)
		}
		chains[at] = append(chains[at], row)
	}
	return chains
}

// chain publishes the rows of one SKU one after the other, and stops at the first
// that fails or that the publisher holds.
func (r *Relay) chain(ctx context.Context, rows []*sale.OutboxRow) (acked []int64, held bool, err error) {
	for _, row := range rows {
		if r.cfg.Holds(row.ID) {
			return acked, true, nil
		}
		if err := r.publish(ctx, row); err != nil {
			r.failed.Inc()
			if _, known := r.blamed[row.ID]; !known {
				r.cfg.Log.Warn("an outbox row could not be published", "id", row.ID, "sku", row.SKU, "kind", string(row.Kind), "err", err)
			}
			if own := faultOf(row, err); own != nil {
				err = own
			}
			return acked, false, err
		}
		acked = append(acked, row.ID)
	}
	return acked, false, nil
}

// publish sends one row and waits until it is stored.
func (r *Relay) publish(ctx context.Context, row *sale.OutboxRow) error {
	if row.Damage != nil {
		return fmt.Errorf("%w: %w", errUnreadable, row.Damage)
	}
	msgs, err := split(message(row), r.conn.nc.MaxPayload())
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err)
	}
	for _, msg := range msgs {
		// A missing stream is not waited for: the next pass comes soon.
		ctx, cancel := context.WithTimeout(ctx, r.ackTimeout)
		_, err := r.conn.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
		cancel()
		switch {
		case refused(err):
			return fmt.Errorf("%w: %w", sale.ErrPartly, err)
		case err != nil:
			return err
		}
	}
	return nil
}

// refused reports whether a message was answered with a no, or is none that could be
// sent: another gateway would get no further with it.
func refused(err error) bool {
	var answer *jetstream.APIError
	return errors.As(err, &answer) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrMaxPayload)
}

// headerRoom is what subject and headers take of a message's size, generously.
const headerRoom = 1024

// split cuts a batch that is larger than the server takes into several messages,
// whose ids follow from the row's.
func split(msg *nats.Msg, maxPayload int64) ([]*nats.Msg, error) {
	limit := int(maxPayload) - headerRoom
	if len(msg.Data) <= limit || maxPayload <= 0 {
		return []*nats.Msg{msg}, nil
	}
	var events []json.RawMessage
	if err := json.Unmarshal(msg.Data, &events); err != nil {
		return nil, fmt.Errorf("split a batch of events: %w", err)
	}
	var msgs []*nats.Msg
	flush := func(data []byte) {
		part := &nats.Msg{Subject: msg.Subject, Data: append(data, ']'), Header: nats.Header{
			nats.MsgIdHdr:  []string{fmt.Sprintf("%s-%d", msg.Header.Get(nats.MsgIdHdr), len(msgs))},
			"Content-Type": contentTypeHeader,
		}}
		msgs = append(msgs, part)
	}
	var data []byte
	for _, e := range events {
		if len(data) > 0 && len(data)+len(e)+2 > limit {
			flush(data)
			data = nil
		}
		if len(data) == 0 {
			data = append(data, '[')
		} else {
			data = append(data, ',')
		}
		data = append(data, e...)
	}
	if len(data) > 0 {
		flush(data)
	}
	return msgs, nil
}
