package results

import (
	"context"
	"maps"
	"sync"
	"time"

	"flashgate/sale"
)

// backlogView is what this gateway knows of the backlog: how many claims of which SKUs
// were parked at the last look, and what it has parked itself since.
type backlogView struct {
	cfg  BacklogConfig
	look func(context.Context) (map[string]int64, error)
	wake chan struct{} // capacity 1: somebody waits for the next look

	mu      sync.Mutex
	counts  map[string]int64     // by the last look; SKUs with none are absent
	own     map[string]*ownParks // what the last look may have missed
	known   map[string]map[sale.OrderID]sale.RequestHash
	ids     int           // in known
	clock   int64         // counts looks begun and parkings ended
	looked  chan struct{} // closed after every look, then replaced
	awaited int           // callers that wait for a SKU to be drained
}

// ownParks is what this gateway parked of one SKU and no look has covered.
type ownParks struct {
	underWay int   // calls that have not ended
	claims   int64 // of those that have
	ended    int64 // the clock when the last one ended
}

func newBacklogView(cfg BacklogConfig, look func(context.Context) (map[string]int64, error)) *backlogView {
	return &backlogView{
		cfg: cfg, look: look, wake: make(chan struct{}, 1),
		counts: make(map[string]int64), own: make(map[string]*ownParks),
		known: make(map[string]map[sale.OrderID]sale.RequestHash), looked: make(chan struct{}),
	}
}

// begin is called before a claim of the SKU can be stored.
func (v *backlogView) begin(sku string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.own[sku]
	if o == nil {
		o = &ownParks{}
		v.own[sku] = o
	}
	o.underWay++
}

// end is called when so many claims have been, or may have been, stored.
func (v *backlogView) end(sku string, claims int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.own[sku]
	o.underWay--
	o.claims += claims
	v.clock++
	o.ended = v.clock
	if o.underWay == 0 && o.claims == 0 {
		delete(v.own, sku)
	}
}

func (v *backlogView) waiting(sku string) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.waitingLocked(sku)
}

func (v *backlogView) waitingLocked(sku string) int64 {
	n := v.counts[sku]
	if o := v.own[sku]; o != nil {
		n += o.claims
		if n == 0 {
			n = 1 // a call under way
		}
	}
	return n
}

// maxKnown bounds the ids of parked claims that are remembered, about 50 bytes each.
const maxKnown = 200_000

// remember keeps the ids of claims that this gateway has parked, until none of their
// SKU is parked any more.
func (v *backlogView) remember(sku string, claims []sale.Parked, errs []error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	ids := v.known[sku]
	if ids == nil {
		ids = make(map[sale.OrderID]sale.RequestHash)
		v.known[sku] = ids
	}
	before := len(ids)
	for i := range claims {
		if errs[i] == nil && v.ids+len(ids)-before < maxKnown {
			ids[claims[i].Claim.ID] = claims[i].Claim.Hash
		}
	}
	v.ids += len(ids) - before
}

// hasParked reports whether this gateway has parked this very claim.
func (v *backlogView) hasParked(c *sale.Claim) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	hash, ok := v.known[c.SKU][c.ID]
	return ok && hash == c.Hash
}

func (v *backlogView) total() (n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.counts {
		n += c
	}
	return n
}

func (v *backlogView) drained(ctx context.Context, sku string) bool {
	v.mu.Lock()
	v.awaited++
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.awaited--
		v.mu.Unlock()
	}()
	for {
		v.mu.Lock()
		empty, looked := v.waitingLocked(sku) == 0, v.looked
		v.mu.Unlock()
		if empty {
			return true
		}
		select {
		case v.wake <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return false
		case <-looked:
		}
	}
}

// How often the stream is looked at: while anything is parked or the ledger is away, and
// while not. More often asks the stream's leader all the time; more rarely lets claims
// overtake those that other gateways have parked. lookSoonest is the least time between
// two looks, however many wait for them.
const (
	lookOften   = 250 * time.Millisecond
	lookRarely  = time.Second
	lookSoonest = 20 * time.Millisecond
)

func (v *backlogView) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := v.once(ctx); (err != nil) != failing && ctx.Err() == nil {
			failing = err != nil
			if failing {
				v.cfg.Log.Debug("the backlog cannot be looked at", "err", err)
			}
		}
		if !v.rest(ctx) {
			return nil
		}
		timer.Reset(0)
	}
}

// rest waits until the next look is due; false means that ctx has ended.
func (v *backlogView) rest(ctx context.Context) bool {
	pause := lookRarely
	if v.busy() || v.cfg.Hurry() {
		pause = lookOften
	}
	timer := time.NewTimer(lookSoonest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	}
	timer.Reset(pause - lookSoonest)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-v.wake:
	}
	return true
}

func (v *backlogView) busy() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.counts) > 0 || len(v.own) > 0 || v.awaited > 0
}

// once looks, and takes over what it sees. A look that fails changes nothing.
func (v *backlogView) once(ctx context.Context) error {
	v.mu.Lock()
	v.clock++
	began := v.clock
	v.mu.Unlock()
	counts, err := v.look(ctx)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.counts = counts
	// What ended before the look began is in it, or has been drained since.
	maps.DeleteFunc(v.own, func(_ string, o *ownParks) bool { return o.underWay == 0 && o.ended < began })
	for sku, ids := range v.known {
		if v.waitingLocked(sku) == 0 {
			v.ids -= len(ids)
			delete(v.known, sku)
		}
	}
	close(v.looked)
	v.looked = make(chan struct{})
	return nil
}
