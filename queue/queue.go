// Package queue turns a burst into batches: one bounded FIFO per SKU, drained by
// goroutines that exist only while there is work. See DESIGN.md.
package queue

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// Config is what configs says of queues, under the same names.
type Config struct {
	// Capacity is how many claims may wait per SKU.
	Capacity int
	// MaxBatch is the most claims of one batch.
	MaxBatch int
	// Inflight is how many batches of a SKU may be between queue and verdict at a time.
	Inflight int
	// MaxAge is how long a claim may wait undecided before it is rejected.
	MaxAge time.Duration
	// Linger is how long a SKU's lane outlives its last claim.
	Linger time.Duration
	// DrainTimeout bounds the draining after Run's context ends.
	DrainTimeout time.Duration
	Registerer   prometheus.Registerer
}

// maxWaiting is how many claims of all SKUs together may be undecided: fewer, and one
// hot SKU starves the others; more, and a flood over many SKUs fills the memory. At
// about 400 bytes each these are 200 MB.
const maxWaiting = 500_000

func (c *Config) validate() error {
	switch {
	case c.Capacity < 1:
		return errors.New("queue: capacity must be at least 1")
	case c.MaxBatch < 1 || c.MaxBatch > c.Capacity:
		return errors.New("queue: max_batch must be 1..capacity")
	case c.Inflight < 1:
		return errors.New("queue: inflight must be at least 1")
	case c.MaxAge <= 0 || c.Linger <= 0 || c.DrainTimeout <= 0:
		return errors.New("queue: max_age, linger and drain timeout must be positive")
	}
	return nil
}

// Settler takes one batch from arrival to verdicts.
type Settler interface {
	// Settle returns one verdict per claim, in order. It calls admitted once the next
	// batch of the SKU may enter, at the latest when it returns. Batches of one SKU
	// enter one after the other, in FIFO order; up to Config.Inflight overlap.
	Settle(ctx context.Context, sku string, claims []*sale.Claim, admitted func()) []sale.Verdict
	// Remember keeps verdicts that nobody waits for.
	Remember(ctx context.Context, claims []*sale.Claim, verdicts []sale.Verdict)
	// Quiet is called when the SKU's lane has ended.
	Quiet(ctx context.Context, sku string)
}

const shardCount = 64

// Queue is the set of all SKUs' lines. Its methods may be called by any goroutine.
type Queue struct {
	cfg     Config
	settler Settler
	seed    maphash.Seed
	lanes   [shardCount]laneShard
	index   index
	waiting atomic.Int64
	// maxWaiting is the constant, or the capacity of one SKU where that is larger.
	maxWaiting int64

	// hard ends what drains too slowly; every lane's calls run under it.
	hard     context.Context
	hardStop context.CancelFunc
	wg       sync.WaitGroup
	metrics  metrics
}

// laneShard guards the lanes of some of the SKUs. Accepting and closing share its
// lock, so that no claim is accepted after the last look of a draining goroutine.
type laneShard struct {
	mu     sync.Mutex
	closed bool
	lanes  map[string]*lane
}

// New validates the configuration and starts nothing.
func New(cfg Config, settler Settler) (*Queue, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if settler == nil {
		return nil, errors.New("queue: a settler is needed")
	}
	q := &Queue{cfg: cfg, settler: settler, seed: maphash.MakeSeed(), maxWaiting: int64(max(maxWaiting, cfg.Capacity))}
	q.hard, q.hardStop = context.WithCancel(context.Background())
	for i := range q.lanes {
		q.lanes[i].lanes = make(map[string]*lane)
	}
	q.index.init()
	if err := q.metrics.register(cfg.Registerer, q); err != nil {
		return nil, fmt.Errorf("queue: metrics: %w", err)
	}
	return q, nil
}

// quieters is how many calls of Quiet are made at a time for the lanes that ended
// together: with fewer the shield hears late of what many SKUs sold, more take connections
// from batches.
const quieters = 32

// Run ends lanes that have nothing to do, until ctx ends, and then blocks until every
// accepted claim has its verdict, or until DrainTimeout has passed since, when what is left
// is answered ErrShuttingDown.
func (q *Queue) Run(ctx context.Context) error {
	tick := time.NewTicker(q.cfg.Linger/2 + 1)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			q.endIdle(now.Add(-q.cfg.Linger))
		}
	}
	for i := range q.lanes {
		s := &q.lanes[i]
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	defer q.hardStop()
	late := time.AfterFunc(q.cfg.DrainTimeout, q.hardStop)
	q.wg.Wait()
	q.endIdle(time.Now())
	q.wg.Wait()
	if !late.Stop() {
		return errors.New("queue: the drain timeout ended before the last verdict")
	}
	return nil
}

// endIdle ends the lanes that have been idle since that time, and tells the settler. From
// then on, a new claim starts a new lane.
func (q *Queue) endIdle(since time.Time) {
	var ended []string
	for i := range q.lanes {
		s := &q.lanes[i]
		s.mu.Lock()
		for sku, l := range s.lanes {
			if l.isIdle() && !l.idle.After(since) {
				delete(s.lanes, sku)
				ended = append(ended, sku)
			}
		}
		s.mu.Unlock()
	}
	if len(ended) == 0 {
		return
	}
	for some := range slices.Chunk(ended, (len(ended)+quieters-1)/quieters) {
		q.wg.Go(func() {
			for _, sku := range some {
				q.settler.Quiet(q.hard, sku)
			}
		})
	}
}

// Join accepts the claim, or refuses with ErrQueueFull or ErrShuttingDown. It never
// blocks. An accepted claim gets exactly one verdict through its ticket. A claim whose
// id is already waiting here shares that claim's verdict. With async, nobody will read
// the verdict: see Ticket.Detach.
func (q *Queue) Join(c *sale.Claim, async bool) (*sale.Ticket, error) {
	s := q.shard(c.SKU)
	s.mu.Lock()
	defer s.mu.Unlock()
	// With the shard's lock held, nobody can join beside this claim, and the lane cannot
	// pop it before the index knows it.
	t, err := q.index.join(c, func() (*sale.Ticket, error) { return q.enqueue(s, c) })
	if err == nil && async {
		t.Detach()
	}
	return t, err
}

// enqueue gives the claim a place of its own. The shard's lock is held.
func (q *Queue) enqueue(s *laneShard, c *sale.Claim) (*sale.Ticket, error) {
	if s.closed {
		return nil, sale.ErrShuttingDown
	}
	l := s.lanes[c.SKU]
	if l != nil && l.line.len() >= q.cfg.Capacity {
		return nil, sale.ErrQueueFull
	}
	if q.waiting.Add(1) > q.maxWaiting {
		q.waiting.Add(-1)
		return nil, sale.ErrQueueFull
	}
	if l == nil {
		l = newLane(q, s, c.SKU)
		s.lanes[c.SKU] = l
	}
	return l.push(c), nil
}

// Find returns the ticket of a claim that waits or is being decided here, or nil.
func (q *Queue) Find(id sale.OrderID) *sale.Ticket { return q.index.find(id) }

// Depth is the number of claims of the SKU that wait.
func (q *Queue) Depth(sku string) int {
	s := q.shard(sku)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[sku]; l != nil {
		return l.line.len()
	}
	return 0
}

// Rate is how many verdicts a second the SKU's claims got of late; 0 when unknown.
func (q *Queue) Rate(sku string) float64 {
	s := q.shard(sku)
	s.mu.Lock()
	l := s.lanes[sku]
	s.mu.Unlock()
	if l == nil {
		return 0
	}
	return l.pace.perSecond()
}

// Waiting is the number of claims that have no verdict yet, of all SKUs.
func (q *Queue) Waiting() int64 { return q.waiting.Load() }

func (q *Queue) shard(sku string) *laneShard {
	return &q.lanes[maphash.String(q.seed, sku)%shardCount]
}

// resolve answers a ticket and everyone who joined it. Followers offered the same
// payload, so an order that exists now is theirs too, as a repeat.
func (q *Queue) resolve(t *sale.Ticket, v sale.Verdict) {
	followers := q.index.remove(t)
	t.Resolve(v)
	if v.Outcome == sale.Reserved {
		v.Outcome = sale.Duplicate
	}
	for _, f := range followers {
		f.Resolve(v)
	}
	q.waiting.Add(-1)
}
