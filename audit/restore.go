package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"flashgate/sale"
)

// RestoreConfig is what a Restorer needs to know.
type RestoreConfig struct {
	// DryRun only says what the ledger lacks.
	DryRun bool
}

const (
	// So many orders may be in memory because the ledger lacks them, about 500 bytes
	// each. With more than that the earliest half is put back before the rest of the
	// stream is read.
	maxLost = 200_000
	// So many orders are offered to the ledger at once: a transaction of moderate size.
	restoreChunk = 1000
)

// RestoreLedger is the ledger that may have lost orders.
type RestoreLedger interface {
	Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	// RestoreOrders puts orders back, the earlier of the list first, and never past a
	// constraint. The results run parallel; zero is undecided. An error wraps
	// sale.ErrInvalid, after which nothing was done, or sale.ErrUnavailable.
	RestoreOrders(ctx context.Context, orders []sale.Order) ([]sale.RestoreResult, error)
}

// Restored is what became of one order that the ledger lacked.
type Restored struct {
	Order sale.Order // in the latest status that was published
	// Had is the status the ledger had it in, 0 when it had none.
	Had sale.Status
	// Result is zero in a dry run, and where the ledger would not take it: Err says why.
	Result sale.RestoreResult
	Err    error
}

// OK reports whether the ledger has the order now, or had it for as long as it was to.
func (r *Restored) OK() bool {
	return r.Err == nil && (r.Result == sale.RestoreDone || r.Result == sale.RestoreExists || r.Result == sale.RestoreArchived)
}

// Restoration sums up what a Restorer did.
type Restoration struct {
	Events int64 // of orders' changes, on the stream
	Lacked int   // orders that the ledger lacked, or had in an earlier status
	Done   int   // put back, or brought forward
	Failed int   // that cannot be
	// Since is when what is on the stream begins, 0 when it begins with its first
	// message: what was published before cannot be put back from it.
	Since int64
	// SKUs are those of the orders put back: their shields are out of date.
	SKUs []string
}

// Restorer puts published orders back into a ledger that has lost some: an
// asynchronous replica, say, that was promoted without its last transactions.
type Restorer struct {
	cfg     RestoreConfig
	ledger  RestoreLedger
	results Results

	maxLost, chunk int // the constants above, but for tests
}

// NewRestorer validates and starts nothing.
func NewRestorer(cfg RestoreConfig, ledger RestoreLedger, results Results) (*Restorer, error) {
	if ledger == nil || results == nil {
		return nil, errors.New("restore: needs a ledger and the results stream")
	}
	return &Restorer{cfg, ledger, results, maxLost, restoreChunk}, nil
}

// lost is an order that the ledger lacks, in the latest status read so far.
type lost struct {
	order sale.Order
	had   sale.Status
	turn  int64 // the how-manieth event first told of it
}

// restoration is one run.
type restoration struct {
	*Restorer
	sum  Restoration
	lost map[sale.OrderID]*lost
	skus map[string]bool
	tell func(Restored) error
}

// Run reads the stream once, up to where it ends now, and offers the ledger every
// order that it lacks or has in an earlier status, in the order in which they were
// first published. It hands tell what became of each. It may run beside a sale and be
// repeated at any time. Errors are tell's, or wrap sale.ErrUnavailable: what was done
// before one stays done.
func (r *Restorer) Run(ctx context.Context, tell func(Restored) error) (Restoration, error) {
	run := &restoration{Restorer: r, lost: make(map[sale.OrderID]*lost), skus: make(map[string]bool), tell: tell}
	err := run.read(ctx)
	run.sum.SKUs = slices.Sorted(maps.Keys(run.skus))
	return run.sum, err
}

func (r *restoration) read(ctx context.Context) error {
	extent, err := r.results.Extent(ctx)
	if err != nil {
		return err
	}
	r.sum.Since = extent.Since
	err = r.results.EachEvent(ctx, 1, extent.Last, func(kind sale.Kind, orders []sale.Order, _ uint64) error {
		if !strings.HasPrefix(string(kind), "results.") {
			return ctx.Err()
		}
		if err := r.note(ctx, orders); err != nil {
			return err
		}
		if len(r.lost) >= r.maxLost {
			return r.flush(ctx, r.maxLost/2)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	return r.flush(ctx, len(r.lost))
}

// note keeps those of a message's orders that the ledger lacks.
func (r *restoration) note(ctx context.Context, orders []sale.Order) error {
	ids := make([]sale.OrderID, 0, len(orders))
	for i := range orders {
		ids = append(ids, orders[i].ID)
	}
	found, err := r.ledger.Find(ctx, ids)
	if err != nil {
		return err
	}
	for i := range orders {
		o := &orders[i]
		r.sum.Events++
		if l := r.lost[o.ID]; l != nil {
			// An event may come again behind later ones.
			if o.Version > l.order.Version {
				l.order = *o
			}
			continue
		}
		has, ok := found[o.ID]
		if ok && !lacks(&has, o) {
			continue
		}
		r.lost[o.ID] = &lost{order: *o, had: has.Status, turn: r.sum.Events}
	}
	return nil
}

// lacks reports whether the ledger's order lacks what was published, or differs.
func lacks(has, published *sale.Order) bool {
	return (published.Version >= has.Version && published.Status != has.Status) ||
		has.SKU != published.SKU || !has.BoughtBy(published.User) || has.Quantity != published.Quantity || has.Hash != published.Hash
}

// flush offers the ledger the n orders that were published first.
func (r *restoration) flush(ctx context.Context, n int) error {
	list := slices.SortedFunc(maps.Values(r.lost), func(a, b *lost) int { return cmp.Compare(a.turn, b.turn) })[:n]
	for chunk := range slices.Chunk(list, r.chunk) {
		if err := r.offer(ctx, chunk); err != nil {
			return err
		}
		for _, l := range chunk {
			delete(r.lost, l.order.ID)
		}
	}
	return nil
}

func (r *restoration) offer(ctx context.Context, chunk []*lost) error {
	if r.cfg.DryRun {
		for _, l := range chunk {
			r.sum.Lacked++
			if err := r.tell(Restored{Order: l.order, Had: l.had}); err != nil {
				return err
			}
		}
		return nil
	}
	orders := make([]sale.Order, len(chunk))
	for i, l := range chunk {
		orders[i] = l.order
	}
	results, err := r.ledger.RestoreOrders(ctx, orders)
	if errors.Is(err, sale.ErrInvalid) && len(chunk) > 1 {
		// One that no ledger could hold holds up no other.
		half := len(chunk) / 2
		if err := r.offer(ctx, chunk[:half]); err != nil {
			return err
		}
		return r.offer(ctx, chunk[half:])
	}
	if err != nil && !errors.Is(err, sale.ErrInvalid) && !slices.ContainsFunc(results, func(s sale.RestoreResult) bool { return s != 0 }) {
		return fmt.Errorf("restore: %w", err)
	}
	for i, l := range chunk {
		out := Restored{Order: l.order, Had: l.had}
		if i < len(results) {
			out.Result = results[i]
		}
		if out.Result == 0 {
			out.Err = err
		}
		r.count(&out)
		if err := r.tell(out); err != nil {
			return err
		}
	}
	return nil
}

func (r *restoration) count(out *Restored) {
	r.sum.Lacked++
	switch {
	case !out.OK():
		r.sum.Failed++
	case out.Result == sale.RestoreDone:
		r.sum.Done++
		r.skus[out.Order.SKU] = true
	}
}
