package results

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// drainSKUs is how many SKUs are settled at the same time. They share the ledger's groups:
	// with fewer, groups hold little where many SKUs have a few claims each; more have more
	// claims in hand when the ledger goes away again.
	drainSKUs = 64
	// staleAfter is how long what was read may wait to be settled. It is shorter than a
	// lease lives: a drainer that was frozen for longer than its lease reads anew, and
	// no longer finds what its successor has settled.
	staleAfter = 2 * time.Second
)

// Settle decides claims of one SKU for good, in their order. Nil means that each of
// them has its end, which the caller of a Drain tells to whom it concerns; an error
// that none may have: they are offered again.
type Settle func(ctx context.Context, sku string, claims []sale.Parked) error

// Drain settles what is parked, in stream order per SKU, until nothing is left or
// something fails; it is the body of a leased job. SKUs that could not be settled though
// nothing has failed for all are the error sale.ErrPartly, after all others have been. It is
// another error where claims wait that only a newer gateway can read: then that one has to
// drain.
//
// There is no consumer that remembers how far it got: what is in the stream is what is
// not settled, and the drainer deletes what it has settled of a page, up to a sequence, by
// SKU where something is left. An acknowledging consumer would redeliver, after a
// failure, behind claims that came later; and its state could get lost. A drainer that
// dies between settling and deleting leaves claims that are settled again, which the
// ledger's primary key answers with the orders that exist. A drainer only deletes what
// it has settled itself, so that one that lost its lease without noticing (it was
// frozen) deletes nothing that is not in the ledger; it needs no fencing.
func (b *Backlog) Drain(ctx context.Context, settle Settle) error {
	stream, err := b.stream(ctx)
	if err != nil {
		return err
	}
	if err := b.conn.checkOwner(&stream.CachedInfo().Config); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	if stream.CachedInfo().State.Msgs == 0 {
		return nil
	}
	d := &drain{backlog: b, stream: stream, settle: settle, stuck: make(map[string]error)}
	err = b.conn.read(ctx, b.conn.names.backlog, jetstream.ConsumerConfig{}, readPage, func(page []jetstream.Msg) error { return d.page(ctx, page) })
	if err != nil && (!errors.Is(err, errStale) || d.settled == 0) {
		return fmt.Errorf("drain: %w", err)
	}
	b.stuck.Set(float64(len(d.stuck)))
	if len(d.stuck) == 0 {
		return nil
	}
	for sku, err := range d.stuck {
		if errors.Is(err, errNewer) {
			return fmt.Errorf("drain: claims of %s, and what was parked behind them, are left: %w", sku, err)
		}
	}
	sku := slices.Min(slices.Collect(maps.Keys(d.stuck)))
	err = d.stuck[sku]
	if d.settled == 0 && !errors.Is(err, sale.ErrOverloaded) {
		return fmt.Errorf("drain: nothing gets through: %w", err)
	}
	return fmt.Errorf("drain: %w: %d SKUs wait, as of %s: %w", sale.ErrPartly, len(d.stuck), sku, err)
}

// drain is one pass over the stream.
type drain struct {
	backlog *Backlog
	stream  jetstream.Stream
	settle  Settle

	mu      sync.Mutex
	settled int
	stuck   map[string]error // SKUs that failed: nothing later of them is settled in this pass
}

// line is what a page holds of one SKU, in stream order.
type line struct {
	sku    string
	claims []sale.Parked
	seqs   []uint64
	done   int // so many, from the first on, are settled
}

// page settles one page, several SKUs at a time, and deletes what it has settled. It ends
// the pass when the page could not be settled while it was fresh.
func (d *drain) page(ctx context.Context, page []jetstream.Msg) error {
	fresh, cancel := context.WithDeadlineCause(ctx, time.Now().Add(d.backlog.staleAfter), errStale)
	defer cancel()
	lines := d.sort(page)
	d.each(lines, func(l *line) error {
		// What was not begun in time has not failed: it is read anew.
		if err := d.line(ctx, fresh, l); !errors.Is(err, errStale) {
			return err
		}
		return nil
	})
	d.delete(ctx, page, lines)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case fresh.Err() != nil:
		return errStale
	}
	return nil
}

// each does something with several SKUs at a time. What fails is left.
func (d *drain) each(lines []*line, do func(*line) error) {
	next := make(chan *line)
	var wg sync.WaitGroup
	for range min(drainSKUs, len(lines)) {
		wg.Go(func() {
			for l := range next {
				if err := do(l); err != nil {
					d.leave(l.sku, err)
				}
			}
		})
	}
	for _, l := range lines {
		next <- l
	}
	close(next)
	wg.Wait()
}

// delete removes what was settled of a page. Where that is all that the stream has up to the
// page's end, one call does it; a call for each SKU costs the server half a millisecond.
func (d *drain) delete(ctx context.Context, page []jetstream.Msg, lines []*line) {
	settled, all := 0, 0
	for _, l := range lines {
		settled, all = settled+l.done, all+len(l.claims)
	}
	purge := func(opts ...jetstream.StreamPurgeOpt) error {
		ask, cancel := context.WithTimeout(ctx, d.backlog.conn.askTimeout)
		defer cancel()
		if err := d.stream.Purge(ask, opts...); err != nil {
			return fmt.Errorf("delete what is settled: %w", err)
		}
		return nil
	}
	if last, err := page[len(page)-1].Metadata(); err == nil && settled == len(page) && all == settled && len(d.stuck) == 0 {
		if err := purge(jetstream.WithPurgeSequence(last.Sequence.Stream + 1)); err != nil {
			for _, l := range lines {
				d.leave(l.sku, err)
			}
			return
		}
		d.settled += settled
		return
	}
	d.each(lines, func(l *line) error {
		if l.done == 0 {
			return nil
		}
		if err := purge(jetstream.WithPurgeSubject(d.backlog.conn.names.parked(l.sku)), jetstream.WithPurgeSequence(l.seqs[l.done-1]+1)); err != nil {
			return err
		}
		d.mu.Lock()
		d.settled += l.done
		d.mu.Unlock()
		return nil
	})
}

// errStale ends a pass whose rest has to be read anew.
var errStale = errors.New("what was read is stale")

// sort makes a line of each SKU that is not stuck. Messages that are no claims are
// dropped: nobody could ever decide them, and they would hold up the SKU for good.
func (d *drain) sort(page []jetstream.Msg) []*line {
	var lines []*line
	of := make(map[string]*line)
	for _, msg := range page {
		sku := d.backlog.conn.names.skuOf(msg.Subject())
		d.mu.Lock()
		_, stuck := d.stuck[sku]
		d.mu.Unlock()
		meta, err := msg.Metadata()
		if stuck || err != nil {
			continue
		}
		l := of[sku]
		if l == nil {
			l = &line{sku: sku}
			of[sku], lines = l, append(lines, l)
		}
		p, err := decodeParked(msg.Data())
		if errors.Is(err, errNewer) {
			d.leave(sku, err)
			continue
		}
		if err == nil && p.Claim.SKU != sku {
			err = fmt.Errorf("a claim of SKU %q", p.Claim.SKU)
		}
		if err != nil {
			d.backlog.damaged.Inc()
			d.backlog.cfg.Log.Error("a message in the backlog is no claim and is dropped", "sku", sku, "sequence", meta.Sequence.Stream, "err", err)
			p = sale.Parked{}
		}
		p.Waited = max(0, time.Since(meta.Timestamp))
		l.claims, l.seqs = append(l.claims, p), append(l.seqs, meta.Sequence.Stream)
	}
	return lines
}

// leave has the rest of a SKU be left in the stream in this pass.
func (d *drain) leave(sku string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stuck[sku] = err
}

// line settles the claims of one SKU batch by batch.
func (d *drain) line(ctx, fresh context.Context, l *line) error {
	for l.done < len(l.claims) {
		to := min(l.done+d.backlog.cfg.MaxBatch, len(l.claims))
		if fresh.Err() != nil {
			return context.Cause(fresh)
		}
		batch := make([]sale.Parked, 0, to-l.done)
		for _, p := range l.claims[l.done:to] {
			if p.Claim.SKU != "" {
				batch = append(batch, p)
			}
		}
		if len(batch) > 0 {
			if err := d.settle(ctx, l.sku, batch); err != nil {
				return err
			}
		}
		d.backlog.drained.Add(float64(len(batch)))
		l.done = to
	}
	return nil
}

// Units is how many units the shield took for claims of each of the SKUs that are parked
// now; a SKU without is left out. While NATS is away it is none if nothing was known to be
// parked, else an error.
func (b *Backlog) Units(ctx context.Context, skus []string) (map[string]int64, error) {
	if !b.conn.Connected() {
		for _, sku := range skus {
			if b.view.waiting(sku) != 0 {
				return nil, fmt.Errorf("%w: backlog of %s: %w", sale.ErrUnavailable, sku, nats.ErrDisconnected)
			}
		}
		return nil, nil
	}
	stream, err := b.stream(ctx)
	if err != nil {
		return nil, err
	}
	if stream.CachedInfo().State.Msgs == 0 {
		return nil, nil
	}
	subjects := make([]string, len(skus))
	for i, sku := range skus {
		subjects[i] = b.conn.names.parked(sku)
	}
	units := make(map[string]int64)
	err = b.conn.read(ctx, b.conn.names.backlog, jetstream.ConsumerConfig{FilterSubjects: subjects, HeadersOnly: true}, readPage, func(page []jetstream.Msg) error {
		for _, msg := range page {
			units[b.conn.names.skuOf(msg.Subject())] += parkedUnits(msg.Headers())
		}
		return nil
	})
	return units, err
}

// look counts the parked claims by SKU.
func (b *Backlog) look(ctx context.Context) (map[string]int64, error) {
	if !b.conn.Connected() {
		return nil, nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, b.conn.askTimeout)
	defer cancel()
	stream, err := b.conn.js.Stream(ctx, b.conn.names.backlog)
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int64)
	if stream.CachedInfo().State.Msgs == 0 {
		return counts, nil
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(b.conn.names.parked("*")))
	if err != nil {
		return nil, err
	}
	for subject, n := range info.State.Subjects {
		counts[b.conn.names.skuOf(subject)] = int64(n)
	}
	return counts, nil
}

// stream is the backlog's stream as it is now.
func (b *Backlog) stream(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, b.conn.askTimeout)
	defer cancel()
	s, err := b.conn.js.Stream(ctx, b.conn.names.backlog)
	if err != nil {
		return nil, fmt.Errorf("%w: stream %s: %w", sale.ErrUnavailable, b.conn.names.backlog, err)
	}
	return s, nil
}
