package results

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// Outbox is what the relay needs of the ledger.
type Outbox interface {
	// PendingOutbox returns up to limit rows in row order, with ids above afterID, but none
	// of the SKUs in except, up to the first that is not older than olderThan; fewer where
	// their payloads are large, but none only where there is none.
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
	// So many rows are read at a time; the outbox bounds what they say in bytes.
	relayPage = maxTogether
	// So many SKUs are published side by side, where they are not published together.
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
	var ahead sync.WaitGroup
	defer ahead.Wait()
	next := p.read(ctx, &ahead, 0)
	var failed error
	for bad := 0; ; {
		read := <-next
		if read.err != nil {
			return fmt.Errorf("relay: read the outbox: %w", read.err)
		}
		last := len(read.rows) == 0
		if !last {
			// The next page is read while this one is published.
			next = p.read(ctx, &ahead, read.rows[len(read.rows)-1].ID)
		}
		acked, err := p.page(ctx, read.rows)
		if len(acked) > 0 {
			r.published.Add(float64(len(acked)))
			r.outbox.Acked(acked)
			bad = 0
		} else if err != nil {
			bad, failed = bad+1, err
		}
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

// outboxPage is what a read of the outbox found.
type outboxPage struct {
	rows []sale.OutboxRow
	err  error
}

// read begins to read the page after a row, without the SKUs that are stuck by now. What it
// reads of SKUs that get stuck meanwhile, page leaves out.
func (p *pass) read(ctx context.Context, wg *sync.WaitGroup, after int64) <-chan outboxPage {
	except := slices.Sorted(maps.Keys(p.stuck))
	out := make(chan outboxPage, 1)
	wg.Go(func() {
		rows, err := p.relay.outbox.PendingOutbox(ctx, p.relay.age, after, p.relay.page, except)
		out <- outboxPage{rows, err}
	})
	return out
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

// page publishes one page. It returns the ids of the rows that are acknowledged, and one of
// the errors when there were some that are not a row's own.
func (p *pass) page(ctx context.Context, rows []sale.OutboxRow) ([]int64, error) {
	chains := p.chains(rows)
	acked, err := p.together(ctx, chains)
	if err != nil {
		for _, chain := range chains {
			p.stuck[chain[0].SKU] = struct{}{}
		}
	} else {
		var more []int64
		more, err = p.sideBySide(ctx, without(chains, acked))
		acked = append(acked, more...)
	}
	now := time.Now()
	for _, id := range acked {
		p.relay.settled[id] = now
	}
	return acked, err
}

// together publishes what it can of the chains in batches, each of which the stream stores
// whole and in order, or not at all. It ends where one is refused: which message was the
// cause is found out one by one. An error means that it is not known whether one is stored.
func (p *pass) together(ctx context.Context, chains [][]*sale.OutboxRow) (acked []int64, err error) {
	var msgs []*nats.Msg
	var last []int64 // parallel to msgs: the row that is complete with this message, or 0
	for _, chain := range chains {
		for _, row := range chain {
			parts, err := p.relay.messages(row)
			if _, blamed := p.relay.blamed[row.ID]; blamed || err != nil || p.relay.cfg.Holds(row.ID) {
				break
			}
			msgs = append(msgs, parts...)
			last = append(last, make([]int64, len(parts))...)
			last[len(last)-1] = row.ID
		}
	}
	for kept := &p.relay.conn.kept[keptResults]; len(msgs) > 0; {
		n := flightSize(msgs)
		if !kept.batches() || !kept.ways.allowed(n, time.Now()) {
			break
		}
		err := p.relay.conn.batch(ctx, keptResults, msgs[:n], p.relay.ackTimeout)
		if errors.Is(err, errUnanswered) {
			return acked, err
		}
		if err != nil {
			break
		}
		for _, id := range last[:n] {
			if id != 0 {
				acked = append(acked, id)
			}
		}
		msgs, last = msgs[n:], last[n:]
	}
	return acked, nil
}

// without is the chains without the rows that are acknowledged.
func without(chains [][]*sale.OutboxRow, acked []int64) [][]*sale.OutboxRow {
	done := make(map[int64]struct{}, len(acked))
	for _, id := range acked {
		done[id] = struct{}{}
	}
	var left [][]*sale.OutboxRow
	for _, chain := range chains {
		for len(chain) > 0 {
			if _, ok := done[chain[0].ID]; !ok {
				left = append(left, chain)
				break
			}
			chain = chain[1:]
		}
	}
	return left
}

// sideBySide publishes several SKUs at a time, each row by row.
func (p *pass) sideBySide(ctx context.Context, chains [][]*sale.OutboxRow) ([]int64, error) {
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

// chain publishes the rows of one SKU, each after the acknowledgement of the one before, and
// stops at the first that fails or that the publisher holds. Rows of what comes first of
// their orders need no order among themselves: neighbours of that kind go side by side.
func (r *Relay) chain(ctx context.Context, rows []*sale.OutboxRow) (acked []int64, held bool, err error) {
	for len(rows) > 0 {
		n := 0
		for n < len(rows) && n < r.page && (n == 0 || comesFirst(rows[n-1].Kind) && comesFirst(rows[n].Kind)) && !r.cfg.Holds(rows[n].ID) {
			n++
		}
		if n == 0 {
			return acked, true, nil
		}
		for i, why := range r.publish(ctx, rows[:n]) {
			if why == nil {
				acked = append(acked, rows[i].ID)
				continue
			}
			r.failed.Inc()
			if _, known := r.blamed[rows[i].ID]; !known && r.conn.kept[keptResults].full.Load() == nil {
				r.cfg.Log.Warn("an outbox row could not be published", "id", rows[i].ID, "sku", rows[i].SKU, "kind", string(rows[i].Kind), "err", why)
			}
			if err == nil {
				err = why
			}
			if own := faultOf(rows[i], why); own != nil {
				err = own
			}
		}
		if err != nil {
			return acked, false, err
		}
		rows = rows[n:]
	}
	return acked, false, nil
}

// messages are the messages that the row becomes.
func (r *Relay) messages(row *sale.OutboxRow) ([]*nats.Msg, error) {
	if row.Damage != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, row.Damage)
	}
	msgs, err := split(r.conn.names.message(row), r.conn.nc.MaxPayload())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return msgs, nil
}

// publish sends the rows side by side and waits until they are stored; each has an error
// that says why it is not. What comes behind one that cannot be read is not sent.
func (r *Relay) publish(ctx context.Context, rows []*sale.OutboxRow) []error {
	errs := make([]error, 0, len(rows))
	var msgs []*nats.Msg
	var of []int
	for i, row := range rows {
		parts, err := r.messages(row)
		errs = append(errs, err)
		if err != nil {
			break
		}
		for _, part := range parts {
			msgs, of = append(msgs, part), append(of, i)
		}
	}
	// A missing stream is not waited for: the next pass comes soon.
	for k, err := range r.conn.fly(ctx, keptResults, msgs, false, 1, r.ackTimeout) {
		if refused(err) {
			err = fmt.Errorf("%w: %w", sale.ErrPartly, err)
		}
		if errs[of[k]] == nil {
			errs[of[k]] = err
		}
	}
	return errs
}
