// Package checkout takes one batch of one SKU from arrival to verdicts: through the
// shield or around it, then into the ledger. Settle reads like the way of a
// purchase in docs/ARCHITECTURE.md.
package checkout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"flashgate/sale"
)

// Shield is the fast, untrusted copy of who has bought and how much is left, behind its
// breaker: a call that the breaker refuses returns sale.ErrNotCalled.
type Shield interface {
	// Usable reports whether a call would be tried now.
	Usable() bool
	// Deduct returns an error when it is not known what the shield did; the same
	// claims may then go around it, under the same ids.
	Deduct(ctx context.Context, sku *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error)
	Settle(ctx context.Context, sku *sale.SKU, settled []sale.Settlement) error
	// BulkLoad loads many SKUs, and returns those that need Rebuild and those that failed;
	// Rebuild loads one, whatever it takes.
	BulkLoad(ctx context.Context, skus []*sale.SKU) (alone []*sale.SKU, failed map[*sale.SKU]error)
	Rebuild(ctx context.Context, sku *sale.SKU) error
	Distrust(sku string, since int64)
	// Release gives back units of orders that ended, and Raise finds units in the ledger
	// of which a shield does not know.
	Release(ctx context.Context, sku *sale.SKU, orders []sale.Order) error
	Raise(ctx context.Context, skus []*sale.SKU) error
	Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error
}

// Ledger is the truth, behind its breaker.
type Ledger interface {
	// Usable reports whether a call would be tried now.
	Usable() bool
	Now() int64
	SKU(ctx context.Context, name string) (*sale.SKU, error)
	// Opening returns SKUs that are not cold and whose sale opens in (from, to], ledger ms,
	// those that open first, and no more than limit.
	Opening(ctx context.Context, from, to int64, limit int) ([]string, error)
	// Commit decides the batch; an error means that nothing is known to be decided.
	Commit(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error)
	// Find returns the orders that exist among the ids.
	Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	// FindExhausted does so for a SKU that is said to be sold out, and reports whether
	// the ledger itself has nothing left of it. Where it has something left, the orders
	// are not looked up.
	FindExhausted(ctx context.Context, sku string, ids []sale.OrderID) (found map[sale.OrderID]sale.Order, exhausted bool, err error)
}

// Ceiling holds back what goes around the shield.
type Ceiling interface {
	// Wait returns when n claims may go on. When that would be later than the
	// deadline it returns sale.ErrDegraded at once.
	Wait(ctx context.Context, n int, deadline time.Time) error
}

// Backlog is the durable line of claims that wait for the ledger's return.
type Backlog interface {
	// Usable reports whether a claim could be parked now.
	Usable() bool
	// Park stores claims of one SKU. The errors run parallel to the claims: nil is
	// stored; one that wraps sale.ErrUnknown may be; any other is certainly not.
	Park(ctx context.Context, sku string, claims []sale.Parked) []error
	// Waiting is about how many claims of the SKU are parked, as far as is known here.
	Waiting(sku string) int64
	// Drained waits until none is; false means that ctx ended before.
	Drained(ctx context.Context, sku string) bool
}

// Stats counts refusals.
type Stats interface {
	Count(sku string, outcome sale.Outcome, n int)
}

// Config holds the knobs of a Checkout.
type Config struct {
	// MaxAge is queue.max_age: what the oldest claim of a batch may wait in all.
	MaxAge time.Duration
	// VerdictTTL is how long the refusal of a claim nobody waited for is remembered.
	// Too low: buyers who come back late hear 404. Too high: the shield's memory
	// fills with old refusals.
	VerdictTTL time.Duration
	// MaxWait is backlog.max_wait: what a parked claim may wait for the ledger. It is
	// of use only with a Backlog.
	MaxWait    time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// limitChecks is how many limit refusals a second are held against the ledger (repair
	// rule d): fewer leave a buyer whom the shield wrongs to wait for a load, more let
	// buyers at their limit load the ledger.
	limitChecks = 20
	// clockDoubt is how far from the time at which a sale opens or closes the ledger decides
	// a claim with a key: further than gateways' clocks are apart, and than a purchase that
	// was begun before the end can take.
	clockDoubt = 10 * time.Second
	// exhaustedLooks, exhaustedPause apart, is how often the ledger is asked whether it is
	// sold out as the shield is, before it decides instead: most of what is on its way is
	// committed by then. More make losers wait, fewer have the ledger decide for many.
	exhaustedLooks = 5
	exhaustedPause = 10 * time.Millisecond
	// sweepEvery is how often SKUs that went quiet are forgotten.
	sweepEvery = 10 * time.Second
)

// Deps are what a Checkout works with. Stats and Ceiling may be nil, and so may Backlog:
// then nothing is parked.
type Deps struct {
	Shield  Shield
	Ledger  Ledger
	Ceiling Ceiling
	Backlog Backlog
	Stats   Stats
}

// Checkout settles batches. Its methods may be called by any goroutine.
type Checkout struct {
	cfg Config
	Deps
	log         *slog.Logger
	memos       sync.Map // SKU name -> *memo
	rebuilds    rebuilds
	restocks    restocks
	limitChecks *rate.Limiter
	metrics     metrics
}

// New validates and starts nothing.
func New(cfg Config, deps Deps) (*Checkout, error) {
	switch {
	case cfg.MaxAge <= 0 || cfg.VerdictTTL <= 0:
		return nil, errors.New("checkout: max_age and verdict_ttl must be positive")
	case deps.Backlog != nil && cfg.MaxWait < cfg.MaxAge:
		return nil, errors.New("checkout: parking must not shorten a claim's life")
	case deps.Shield == nil || deps.Ledger == nil:
		return nil, errors.New("checkout: a dependency is missing")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Checkout{cfg: cfg, Deps: deps, log: cfg.Logger, limitChecks: rate.NewLimiter(limitChecks, limitChecks)}
	c.rebuilds.init()
	if err := c.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("checkout: metrics: %w", err)
	}
	return c, nil
}

// Run loads the shields that batches found missing, looks after units that came back,
// and forgets SKUs that went quiet, until ctx ends.
func (c *Checkout) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { c.bulkLoad(ctx) })
	for range rebuilders {
		wg.Go(func() { c.rebuild(ctx) })
	}
	wg.Go(func() { c.watch(ctx) })
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return nil
		case <-sweep.C:
			c.sweep()
		}
	}
}

// Path says which way the SKU's claims take now: "shield" or "around".
func (c *Checkout) Path(sku *sale.SKU) string {
	if sku.Heat == sale.HeatCold || !c.Shield.Usable() {
		return "around"
	}
	return "shield"
}

// Quiet tells the shield what it has not learnt yet of a SKU whose goroutine ends.
func (c *Checkout) Quiet(ctx context.Context, name string) {
	m, ok := c.memos.Load(name)
	if !ok {
		return
	}
	settled := m.(*memo).drain()
	if len(settled) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.MaxAge)
	defer cancel()
	sku, err := c.Ledger.SKU(ctx, name)
	if err == nil {
		err = c.Shield.Settle(ctx, sku, settled)
	}
	if err != nil {
		// What the shield does not learn here stays tentative; the reconciler finds
		// the orders in the ledger and confirms them.
		c.log.Debug("shield not told of settled batches", "sku", name, "batches", len(settled), "err", err)
	}
}

// Remember keeps refusals that nobody waited for where any gateway can find them.
func (c *Checkout) Remember(ctx context.Context, claims []*sale.Claim, verdicts []sale.Verdict) {
	orders := make([]sale.Order, len(claims))
	for i, cl := range claims {
		orders[i] = sale.Rejected(cl, verdicts[i].Outcome)
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.MaxAge)
	defer cancel()
	c.remember(ctx, orders, c.cfg.VerdictTTL)
}

// remember has the shield keep orders that have no row, if it can.
func (c *Checkout) remember(ctx context.Context, orders []sale.Order, ttl time.Duration) {
	if err := c.Shield.Remember(ctx, orders, ttl); err != nil {
		c.log.Debug("verdicts not remembered", "claims", len(orders), "err", err)
	}
}
