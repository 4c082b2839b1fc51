// Package audit holds every invariant against ledger, results stream and shield, and
// puts back into a ledger what the stream knows and the ledger has lost.
//
// It may run beside a sale. What is on its way at that moment is told apart from what
// is wrong: by reading things in an order in which nothing can be missing that should
// be there, where there is one, and else by looking again. See DESIGN.md.
package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashgate/sale"
)

// Config is what an Auditor needs to know.
type Config struct {
	// MaxOrders bounds the orders whose events are in memory at once, about 40 bytes
	// each; with more orders than that the stream is read several times.
	MaxOrders int
}

const (
	// So many findings of each check are reported: fewer hide how bad it is, more bury it.
	maxFindings = 100
	// A shield that seems wrong is looked at so often, lookPause apart, before it is
	// believed to be. Fewer looks, or closer ones, mistake for wrong what is on its way.
	shieldLooks = 4
	lookPause   = 500 * time.Millisecond
	// Units that nobody has settled count as forgotten at this age: what is promised of
	// them is 15 s.
	forgottenAfter = 16 * time.Second
	// What was committed so long before an audit is in the state that it reads: the next one
	// goes on there. With less, a commit that takes long is looked at by none of them.
	positionMargin = time.Minute
)

// Ledger is what an Auditor reads of the truth. Errors wrap sale.ErrUnavailable.
type Ledger interface {
	Now() int64
	// Checks hands over the ledger's own invariants and at most so many findings against
	// each, all of one state: of the SKUs that are named or, where skus is nil, of all.
	Checks(ctx context.Context, findings int, skus []string, fn func(sale.Checked) error) error
	// Snapshot calls fn with one state of orders and outbox.
	Snapshot(ctx context.Context, fn func(Snapshot) error) error
	// Find returns the orders that exist among the ids.
	Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	// Stock returns units per segment.
	Stock(ctx context.Context, sku string) (map[int]sale.Stock, error)
	// SKU returns sale.ErrUnknownSKU for a SKU that does not exist.
	SKU(ctx context.Context, name string) (*sale.SKU, error)
}

// Snapshot is one state of the ledger.
type Snapshot interface {
	// EachOrder hands over the orders whose ids lie in [from, to], in the order of ids.
	EachOrder(ctx context.Context, from, to sale.OrderID, fn func([]sale.Order) error) error
	// EachPending hands over the outbox: what has not been acknowledged.
	EachPending(ctx context.Context, fn func(sale.OutboxRow) error) error
	// EachChanged hands over a SKU's orders that were made or changed since a moment.
	EachChanged(ctx context.Context, sku string, since int64, fn func([]sale.Changed) error) error
	// EachRefund hands over the payments that have to be given back: of orders of the SKUs
	// or, where skus is nil, of all.
	EachRefund(ctx context.Context, skus []string, fn func([]sale.Refund) error) error
	// Position is where this state is, but for the stream: so long before now, and before
	// what has not been published. Touched are SKUs that may have changed since one, besides
	// those of which the stream tells.
	Position(ctx context.Context, margin time.Duration) (sale.AuditPosition, error)
	Touched(ctx context.Context, since sale.AuditPosition) ([]string, error)
}

// Results is what an Auditor reads of the world's side. Errors wrap
// sale.ErrUnavailable.
type Results interface {
	// Extent returns how far the stream reaches.
	Extent(ctx context.Context) (sale.Extent, error)
	// EachEvent reads the stream once, from the sequence first up to last. What is no event
	// of ours has no kind.
	EachEvent(ctx context.Context, first, last uint64, fn func(kind sale.Kind, orders []sale.Order, seq uint64) error) error
	// Decode reads an outbox row's payload.
	Decode(payload []byte) (sale.Kind, []sale.Order, error)
	// CompareStreams says, a line each, how the streams differ from what is configured.
	CompareStreams(ctx context.Context) ([]string, error)
	// Parked is how many units the shield took for claims in the backlog.
	Parked(ctx context.Context, sku string) (int64, error)
}

// Shield is what an Auditor reads of the shield. Errors of Redis wrap
// sale.ErrUnavailable.
type Shield interface {
	// Loaded returns the SKUs that have a copy.
	Loaded(ctx context.Context) ([]string, error)
	// Copies returns the copy of each segment, none while one is missing.
	Copies(ctx context.Context, sku string) ([]sale.ShieldCopy, error)
}

// Auditor audits. It may be used by any goroutine; audits come one after the other.
type Auditor struct {
	cfg     Config
	ledger  Ledger
	shield  Shield
	results Results
	turn    chan struct{}

	// The constants above, but for tests.
	findings, looks int
	pause, margin   time.Duration
}

// errNotConfigured is why a check was not made that nobody wanted.
var errNotConfigured = errors.New("not configured")

// New validates and starts nothing. shield and results may be nil: the report then
// warns that their checks were not made.
func New(cfg Config, ledger Ledger, shield Shield, results Results) (*Auditor, error) {
	if ledger == nil {
		return nil, errors.New("audit: no ledger")
	}
	if cfg.MaxOrders < 2 {
		return nil, errors.New("audit: there must be room for the events of two orders or more")
	}
	return &Auditor{
		cfg: cfg, ledger: ledger, shield: shield, results: results, turn: make(chan struct{}, 1),
		findings: maxFindings, looks: shieldLooks, pause: lookPause, margin: positionMargin,
	}, nil
}

// Audit makes all checks: of everything, or, where since is the Position of a report
// before, of the SKUs of which something was done since, the orders that were made or
// changed, and all that is in the shield. A check that could not be made, because its part is
// away or ctx ended, says so in the report. An error that wraps sale.ErrUnavailable means that
// not even the ledger could be read, one that wraps sale.ErrInvalid that since is of another
// stream, or of a ledger that has gone back since: then everything has to be audited.
func (a *Auditor) Audit(ctx context.Context, since sale.AuditPosition) (Report, error) {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return Report{}, fmt.Errorf("audit: %w: another one is under way: %w", sale.ErrUnavailable, ctx.Err())
	}
	r := Report{At: a.ledger.Now(), Since: since}
	touched, err := a.checkResults(ctx, &r)
	if err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	var own []Check
	err = a.ledger.Checks(ctx, a.findings, touched, func(c sale.Checked) error {
		own = append(own, Check{Checked: c})
		return nil
	})
	if err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	r.Checks = append(own, r.Checks...)
	a.checkStreams(ctx, &r)
	a.checkShield(ctx, &r)
	// What is wrong has to be found again.
	if !r.OK() {
		r.Position = since
	}
	return r, nil
}

// add adds a finding to the check, within the bound.
func (a *Auditor) add(c *Check, f sale.Finding) {
	if len(c.Findings) >= a.findings {
		c.More = true
		return
	}
	f.Check = c.Check
	c.Findings = append(c.Findings, f)
}
