package results

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// BacklogConfig is what a Backlog needs to know.
type BacklogConfig struct {
	// MaxBatch is the most claims of one SKU that a drain settles at a time:
	// queue.max_batch. Too low and the ledger's transactions carry little; too high and
	// a drain that loses its lease has more on its way.
	MaxBatch int
	// Hurry, when set, says that the ledger is away, so that other gateways may be
	// parking at any moment.
	Hurry func() bool

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// resendAfter is when a claim whose acknowledgement has not come is sent again, under
// the same message id. Earlier sends twice what is merely slow; later leaves no time
// for a second try within the time that a buyer waits.
const resendAfter = 800 * time.Millisecond

// Backlog is the durable line of claims that the shield admitted while the ledger was
// away: stream FLASHGATE_BACKLOG, one message per claim, so that the stream's limit is
// the capacity in claims and each claim is acknowledged by itself. Its methods may be
// called by any goroutine; Waiting and Drained need Run to be running.
type Backlog struct {
	cfg  BacklogConfig
	conn *Conn
	view *backlogView

	// The constants, but for tests.
	resendAfter, staleAfter time.Duration

	parked, refused, drained, damaged prometheus.Counter
	stuck                             prometheus.Gauge
}

// NewBacklog starts nothing; Run does.
func NewBacklog(cfg BacklogConfig, conn *Conn) (*Backlog, error) {
	if cfg.Hurry == nil {
		cfg.Hurry = func() bool { return false }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxBatch < 1 {
		return nil, errors.New("a backlog's batch must hold at least one claim")
	}
	b := &Backlog{
		cfg: cfg, conn: conn, resendAfter: resendAfter, staleAfter: staleAfter,
		parked:  counter(cfg.Registerer, "flashgate_backlog_parked_total", "Claims parked in the backlog."),
		refused: counter(cfg.Registerer, "flashgate_backlog_refused_total", "Claims that the backlog did not take, or may not have taken."),
		drained: counter(cfg.Registerer, "flashgate_backlog_drained_total", "Parked claims that this gateway drained."),
		stuck:   gauge(cfg.Registerer, "flashgate_backlog_stuck_skus", "SKUs whose parked claims could not be settled, in the last pass."),
		damaged: counter(cfg.Registerer, "flashgate_backlog_damaged_total", "Messages in the backlog that were no claims and were dropped."),
	}
	b.view = newBacklogView(cfg, b.look)
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "flashgate_backlog_claims", Help: "Claims in the backlog, of all gateways, at the last look.",
		}, func() float64 { return float64(b.view.total()) }))
	}
	return b, nil
}

// Run keeps watching which SKUs have a backlog until ctx ends.
func (b *Backlog) Run(ctx context.Context) error { return b.view.run(ctx) }

// Look looks at once which SKUs have a backlog. Whoever has no Run running calls it
// before asking what is Waiting.
func (b *Backlog) Look(ctx context.Context) error {
	if err := b.view.once(ctx); err != nil {
		return fmt.Errorf("%w: look at the backlog: %w", sale.ErrUnavailable, err)
	}
	return nil
}

// Usable reports whether claims could be parked now: NATS is connected, and what is
// parked can be drained.
func (b *Backlog) Usable() bool { return b.conn.Connected() && b.conn.BacklogReady() }

// Waiting is about how many claims of the SKU are parked, of all gateways, as far as
// this one knows: it knows its own at once and others' after a look, and counts those
// twice that it parked while a look was on its way. While NATS is away it is what was
// known last.
func (b *Backlog) Waiting(sku string) int64 { return b.view.waiting(sku) }

// Drained waits until a look finds nothing parked of the SKU, and has the looks follow
// each other quickly. False means that ctx ended before.
func (b *Backlog) Drained(ctx context.Context, sku string) bool { return b.view.drained(ctx, sku) }

// Park stores claims of one SKU, in their order, and waits until the stream has
// acknowledged each or ctx ends. The errors run parallel to the claims: nil is stored;
// sale.ErrQueueFull (the backlog is full), sale.ErrInvalid and sale.ErrUnavailable are
// certainly not; sale.ErrUnknown may be. A claim may be parked any number of times: the
// ledger's primary key makes one order of it. But while the ledger is away, a repeat of
// a claim that this gateway has parked is not stored again, so that a buyer who repeats
// does not fill the backlog.
func (b *Backlog) Park(ctx context.Context, sku string, claims []sale.Parked) []error {
	p := &parking{
		conn: b.conn, errs: make([]error, len(claims)), msgs: make([]*nats.Msg, len(claims)),
		replies: make(chan *nats.Msg, maxSends*len(claims)),
	}
	call, away := rand.Text()[:10], b.cfg.Hurry()
	for i := range claims {
		if claims[i].Claim.SKU != sku {
			p.errs[i] = fmt.Errorf("%w: a claim of another SKU", sale.ErrInvalid)
			continue
		}
		if !claims[i].Took && away && b.view.hasParked(&claims[i].Claim) {
			continue // it is parked already
		}
		if p.msgs[i], p.errs[i] = parkedMsg(&claims[i], call, i); p.errs[i] == nil {
			p.open++
		}
	}
	b.view.begin(sku)
	p.run(ctx, b.resendAfter)
	maybe := int64(0)
	for i, err := range p.errs {
		if p.msgs[i] != nil && (err == nil || errors.Is(err, sale.ErrUnknown)) {
			maybe++
		}
		switch {
		case err != nil:
			b.refused.Inc()
		case p.msgs[i] != nil:
			b.parked.Inc()
		}
	}
	b.view.end(sku, maybe)
	b.view.remember(sku, claims, p.errs)
	return p.errs
}

// maxSends bounds how often one claim is sent within one call of Park.
const maxSends = 4

// parking is one call of Park. Replies arrive on a subject of its own, so that nothing
// outlives the call.
type parking struct {
	conn    *Conn
	msgs    []*nats.Msg // nil where the claim is refused before it is sent
	errs    []error
	done    []bool
	open    int // claims without an answer
	sends   int
	inbox   string
	replies chan *nats.Msg
}

// run sends all claims and collects the answers; those whose answer does not come are
// sent again while there is time.
func (p *parking) run(ctx context.Context, resendAfter time.Duration) {
	if p.open == 0 {
		return
	}
	p.done = make([]bool, len(p.msgs))
	switch {
	case !p.conn.Connected():
		p.fail(fmt.Errorf("%w: %w", sale.ErrUnavailable, nats.ErrDisconnected))
		return
	case !p.conn.BacklogReady():
		p.fail(fmt.Errorf("%w: nobody could drain what is parked", sale.ErrUnavailable))
		return
	}
	p.inbox = p.conn.nc.NewInbox() + "."
	sub, err := p.conn.nc.ChanSubscribe(p.inbox+"*", p.replies)
	if err != nil {
		p.fail(fmt.Errorf("%w: %w", sale.ErrUnavailable, err))
		return
	}
	defer func() { _ = sub.Unsubscribe() }()
	timer := time.NewTimer(resendAfter)
	defer timer.Stop()
	p.send()
	for p.open > 0 {
		select {
		case msg := <-p.replies:
			p.answered(msg)
		case <-timer.C:
			if p.sends < maxSends && p.conn.Connected() {
				p.send()
			}
			timer.Reset(resendAfter)
		case <-ctx.Done():
			p.fail(fmt.Errorf("%w: no acknowledgement: %w", sale.ErrUnknown, ctx.Err()))
			return
		}
	}
}

// send publishes every claim that has no answer. What cannot even be handed to the
// connection the first time has certainly not been stored.
func (p *parking) send() {
	p.sends++
	for i, msg := range p.msgs {
		if msg == nil || p.done[i] {
			continue
		}
		msg.Reply = p.inbox + strconv.Itoa(i)
		if err := p.conn.nc.PublishMsg(msg); err != nil && p.sends == 1 {
			p.end(i, fmt.Errorf("%w: %w", sale.ErrUnavailable, err))
		}
	}
}

func (p *parking) answered(msg *nats.Msg) {
	i, err := strconv.Atoi(msg.Subject[len(p.inbox):])
	if err != nil || i < 0 || i >= len(p.msgs) || p.done[i] {
		return
	}
	err = storeError(msg)
	if err != nil && p.sends > 1 {
		// It may be the answer to a later sending, and the first may have been stored.
		err = fmt.Errorf("%w: %w", sale.ErrUnknown, err)
	}
	p.end(i, err)
}

func (p *parking) end(i int, err error) {
	p.done[i], p.errs[i] = true, err
	p.open--
}

// fail ends every claim that has no answer yet.
func (p *parking) fail(err error) {
	for i, msg := range p.msgs {
		if msg != nil && !p.done[i] {
			p.end(i, err)
		}
	}
}

// codeStoreFailed is the server's error when a limit of the stream keeps a message out.
const codeStoreFailed = 10077

// storeError is nil when the reply says that the claim is stored, now or before.
func storeError(msg *nats.Msg) error {
	err := ackError(msg)
	if err == nil {
		return nil
	}
	var ack struct {
		Error struct {
			Code int `json:"err_code"`
		} `json:"error"`
	}
	if json.Unmarshal(msg.Data, &ack) == nil && ack.Error.Code == codeStoreFailed {
		return fmt.Errorf("%w: %w", sale.ErrQueueFull, err)
	}
	return fmt.Errorf("%w: %w", sale.ErrUnavailable, err)
}
