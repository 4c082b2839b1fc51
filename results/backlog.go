package results

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
// called by any goroutine; Park, Waiting and Drained need Run to be running.
type Backlog struct {
	cfg      BacklogConfig
	conn     *Conn
	view     *backlogView
	parkings parkings

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
	b.parkings = parkings{conn: conn, resendAfter: &b.resendAfter, wake: make(chan struct{}, 1)}
	b.view = newBacklogView(cfg, b.look)
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "flashgate_backlog_claims", Help: "Claims in the backlog, of all gateways, at the last look.",
		}, func() float64 { return float64(b.view.total()) }))
	}
	return b, nil
}

// Run sends what is parked, and keeps watching which SKUs have a backlog, until ctx ends.
func (b *Backlog) Run(ctx context.Context) error {
	var flights sync.WaitGroup
	defer b.parkings.close()
	defer flights.Wait()
	flights.Go(func() { b.parkings.run(ctx) })
	return b.view.run(ctx)
}

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
	errs := make([]error, len(claims))
	var msgs []*nats.Msg
	var of []int // which claim a message is of
	call, away := rand.Text()[:10], b.cfg.Hurry()
	for i := range claims {
		if claims[i].Claim.SKU != sku {
			errs[i] = fmt.Errorf("%w: a claim of another SKU", sale.ErrInvalid)
			continue
		}
		if !claims[i].Took && away && b.view.hasParked(&claims[i].Claim) {
			continue // it is parked already
		}
		msg, err := b.conn.names.parkedMsg(&claims[i], call, i)
		if err != nil {
			errs[i] = err
			continue
		}
		msgs, of = append(msgs, msg), append(of, i)
	}
	b.view.begin(sku)
	maybe := int64(0)
	if len(msgs) > 0 {
		for k, err := range b.parkings.park(ctx, msgs) {
			errs[of[k]] = err
			if err == nil || errors.Is(err, sale.ErrUnknown) {
				maybe++
			}
			if err == nil {
				b.parked.Inc()
			}
		}
	}
	for _, err := range errs {
		if err != nil {
			b.refused.Inc()
		}
	}
	b.view.end(sku, maybe)
	b.view.remember(sku, claims, errs)
	return errs
}
