package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// Config holds the knobs of a Gateway. Durations and sizes that are zero take the
// default that their comment names.
type Config struct {
	// Listen and AdminListen are host:port of the two listeners; port 0 takes a free
	// one, which BuyersAddr and OperatorsAddr then tell.
	Listen      string
	AdminListen string
	// AdminKey is what operators send as a Bearer token. It must not be empty.
	AdminKey string
	// OpenMetrics serves /metrics without the key.
	OpenMetrics bool

	// Wait is how long a purchase waits for its verdict where the request does not
	// say. Too low: buyers are sent to poll, which costs more than waiting. Too high:
	// connections are held for nothing. MaxWait cuts it, and what requests ask for.
	Wait time.Duration
	// MaxWait is queue.max_age: after it every claim has its verdict.
	MaxWait time.Duration
	// MarkTTL is how long other gateways can learn from the shield that a claim is
	// queued here. Too low: they say 404 while it still waits. Too high: a claim lost
	// with its gateway looks queued for that long. Default MaxWait + 2s.
	MarkTTL time.Duration
	// VerdictTTL is server.verdict_ttl: how long a refusal that nobody waited for can be
	// asked for. Too low: buyers who come back late hear 404. Too high: the shield's
	// memory. Default 10m.
	VerdictTTL time.Duration
	// PayWithin is what a SKU gets for which an operator says nothing. Default
	// sale.DefaultPayWithin.
	PayWithin time.Duration
	// Marks is how many marks may wait to be written. Too low: bursts of 202 are not
	// marked. Too high: memory. Default 8192.
	Marks int
	// CallTimeout bounds reads of ledger and shield for a request. Too low: a slow
	// moment becomes 503. Too high: requests pile up behind a dead part. Default 2s.
	CallTimeout time.Duration

	// TrustedProxies are addresses and CIDR prefixes whose X-Forwarded-For and, in
	// header mode, X-User-ID are believed. Too few: all buyers share the address of the
	// load balancer. Too many: whoever is in the list can be anybody.
	TrustedProxies []string
	Auth           Auth
	Limits         Limits
	Payments       Payments

	// BodyLimit is the largest body in bytes. Too low: honest bodies get 413. Too high:
	// every connection can hold that much memory. Default 16 KiB.
	BodyLimit int
	// HeaderLimit is the largest request head in bytes, and memory that every open
	// connection holds. Too low: long tokens get 431. Too high: waiting buyers are
	// dear. Default 4 KiB.
	HeaderLimit int
	// ReadTimeout bounds reading one request. Too low: slow networks are cut off. Too
	// high: clients that dribble are cheap for an attacker. Default 10s.
	ReadTimeout time.Duration
	// WriteTimeout bounds writing one response. Too low: slow networks are cut off. Too
	// high: clients that do not read hold their connections. Default 30s.
	WriteTimeout time.Duration
	// IdleTimeout closes connections that send nothing. It should exceed the load
	// balancer's own. Too low: it meets closed connections. Too high: they add up.
	// Default 75s.
	IdleTimeout time.Duration
	// MaxConnections bounds open connections of the buyers' listener. Too low: buyers
	// are turned away while there is room. Too high: memory or the file limit ends
	// first. Default 16384.
	MaxConnections int

	// MaxStreams bounds open event streams, each of which holds a connection. Too low:
	// buyers have to poll. Too high: no connection is left to buy with. Default half of
	// MaxConnections.
	MaxStreams int
	// MaxStreamsPerUser bounds those of one buyer. Too low: several tabs are too many.
	// Too high: a few buyers can take all streams. Default 64.
	MaxStreamsPerUser int
	// Heartbeat is how often a silent stream says that it is alive, which is also how a
	// client that went away is noticed. Too low: work for nothing. Too high: proxies
	// close silent streams, and clients that are gone keep theirs. Default 15s.
	Heartbeat time.Duration
	// StreamLifetime is when a stream ends at the latest; clients come back by
	// themselves. Too low: they do so all the time. Too high: who may follow an order is
	// looked at rarely. Default 15m.
	StreamLifetime time.Duration

	// DrainDelay is how long the buyers' listener goes on serving, with /readyz at 503,
	// once Run's context has ended. Too low: load balancers send requests to a closed
	// port. Too high: restarts take longer.
	DrainDelay time.Duration
	// ShutdownTimeout bounds waiting for requests in flight after that. It must exceed
	// MaxWait, which bounds how long one can take. Default MaxWait + 5s.
	ShutdownTimeout time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Gatherer is what /metrics shows; nil means that there is no /metrics.
	Gatherer prometheus.Gatherer
}

func (c *Config) validate() error {
	switch {
	case c.AdminKey == "":
		return errors.New("the operators' key must not be empty")
	case c.Wait < 0 || c.MaxWait <= 0:
		return errors.New("wait must not be negative, and max wait must be positive")
	}
	orDefault(&c.MarkTTL, c.MaxWait+2*time.Second)
	orDefault(&c.VerdictTTL, 10*time.Minute)
	orDefault(&c.PayWithin, sale.DefaultPayWithin)
	orDefault(&c.Marks, 8192)
	orDefault(&c.CallTimeout, 2*time.Second)
	orDefault(&c.BodyLimit, 16<<10)
	orDefault(&c.HeaderLimit, 4<<10)
	orDefault(&c.ReadTimeout, 10*time.Second)
	orDefault(&c.WriteTimeout, 30*time.Second)
	orDefault(&c.IdleTimeout, 75*time.Second)
	orDefault(&c.MaxConnections, 16384)
	orDefault(&c.MaxStreams, max(1, c.MaxConnections/2))
	orDefault(&c.MaxStreamsPerUser, 64)
	orDefault(&c.Heartbeat, 15*time.Second)
	orDefault(&c.StreamLifetime, 15*time.Minute)
	orDefault(&c.ShutdownTimeout, c.MaxWait+5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.ShutdownTimeout <= c.MaxWait:
		return errors.New("the shutdown timeout must exceed the max wait")
	case min(c.MarkTTL, c.VerdictTTL, c.CallTimeout, c.ReadTimeout, c.WriteTimeout, c.IdleTimeout, c.Heartbeat, c.StreamLifetime) < 10*time.Millisecond || c.DrainDelay < 0:
		return errors.New("a timeout is too short")
	case c.Marks < 1 || c.BodyLimit < 1 || c.HeaderLimit < 512 || min(c.MaxConnections, c.MaxStreams, c.MaxStreamsPerUser) < 1:
		return errors.New("a size is too small")
	}
	return errors.Join(c.Limits.validate(), c.Payments.validate())
}

func orDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Queue is the line in front of each SKU.
type Queue interface {
	// Join accepts the claim or returns sale.ErrQueueFull or sale.ErrShuttingDown. It
	// never blocks. With async, nobody will read the verdict.
	Join(c *sale.Claim, async bool) (*sale.Ticket, error)
	// Find returns the ticket of a claim that waits or is being decided in this
	// gateway, or nil.
	Find(id sale.OrderID) *sale.Ticket
	Depth(sku string) int    // waiting claims
	Rate(sku string) float64 // verdicts per second of late; 0 = unknown
}

// SoldOut knows from memory which SKUs have nothing left. It may let a caller pass now
// and then, whose claim looks again.
type SoldOut interface {
	SoldOut(sku string) bool
}

// Ledger is what the edge reads of the truth.
type Ledger interface {
	Now() int64 // Unix ms on the ledger's clock
	SKU(ctx context.Context, name string) (*sale.SKU, error)
	Order(ctx context.Context, id sale.OrderID) (sale.Order, error)
	// Find returns those of the orders that have a row.
	Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	Stock(ctx context.Context, sku string) (map[int]sale.Stock, error)
}

// Catalogue is what operators change in the ledger. PutSKU and PatchSKU return
// sale.ErrUnknownSKU, *sale.StockBelowSoldError, or an error that wraps sale.ErrInvalid.
type Catalogue interface {
	// PutSKU creates the SKU or replaces everything said of it, Total and Reserved of
	// the stock included.
	PutSKU(ctx context.Context, sku sale.SKU, stock sale.Stock) (sale.SKU, sale.Stock, bool, error)
	PatchSKU(ctx context.Context, name string, patch sale.SKUPatch) (sale.SKU, sale.Stock, error)
	AddStock(ctx context.Context, name string, delta int64) (sale.SKU, sale.Stock, error)
	// ListSKUs returns up to limit SKUs in order of name, beginning after a name.
	ListSKUs(ctx context.Context, after string, limit int) ([]sale.Listing, error)
}

// Shield remembers claims that are queued somewhere, and verdicts nobody waited for.
type Shield interface {
	Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error
	Recall(ctx context.Context, id sale.OrderID) (sale.Order, bool, error)
	// RecallAll returns what is remembered of the ids.
	RecallAll(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
	Left(ctx context.Context, sku *sale.SKU) (left int64, loaded bool, err error)
}

// Breakers are the breakers as operators work them.
type Breakers interface {
	Breakers() []sale.BreakerStatus
	ForceBreaker(name string, mode sale.BreakerMode, d time.Duration, reason string) (sale.BreakerStatus, error)
}

// Readiness says whether the ledger was proved.
type Readiness interface{ Ready() bool }

// Paths says which way a SKU's claims take now: "shield" or "around".
type Paths interface{ Path(sku *sale.SKU) string }

// Auditor checks every invariant and returns its report as a JSON object.
type Auditor interface {
	Audit(ctx context.Context) ([]byte, error)
}

// Deps are what a Gateway works with. Only Auditor may be nil: there is no /v1/audit
// then.
type Deps struct {
	Queue     Queue
	SoldOut   SoldOut
	Ledger    Ledger
	Orders    Orders
	Catalogue Catalogue
	Shield    Shield
	Breakers  Breakers
	Paths     Paths
	Readiness Readiness
	Auditor   Auditor
}

func (d *Deps) validate() error {
	needed := []any{d.Queue, d.SoldOut, d.Ledger, d.Orders, d.Catalogue, d.Shield, d.Breakers, d.Paths, d.Readiness}
	if slices.Contains(needed, nil) {
		return errors.New("a dependency is missing")
	}
	return nil
}

// Gateway is the edge. Its exported methods may be called by any goroutine.
type Gateway struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	trusted proxies
	auth    authenticator
	admin   adminKey
	limits  *limiters
	metrics *metrics

	problems  [answerCount][]byte // rendered once
	timers    timers
	deadlines *deadlines
	marks     *marks
	stocks    stocks
	streams   *streams

	proved   atomic.Bool // ready once is ready for good
	draining atomic.Bool // /readyz says no
	refusing atomic.Bool // purchases are refused

	buyers    *listener
	operators *listener
}

// New validates and starts nothing.
func New(cfg Config, deps Deps) (*Gateway, error) {
	if err := errors.Join(cfg.validate(), deps.validate()); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	trusted, err := parseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	auth, err := newAuthenticator(cfg.Auth, trusted)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, deps: deps, log: cfg.Logger, trusted: trusted, auth: auth,
		admin: sha256.Sum256([]byte(cfg.AdminKey)), limits: newLimiters(cfg.Limits), metrics: m,
		problems: staticProblems(), deadlines: newDeadlines(cfg.CallTimeout),
	}
	g.marks = &marks{
		shield: deps.Shield, ttl: cfg.MarkTTL, verdictTTL: cfg.VerdictTTL, timeout: cfg.CallTimeout,
		log: cfg.Logger, pending: make(chan *sale.Ticket, cfg.Marks), dropped: m.dropped,
	}
	g.streams = newStreams(g)
	g.buyers = g.newListener("buyers", cfg.Listen, cfg.MaxConnections, g.buyerRoutes())
	g.operators = g.newListener("operators", cfg.AdminListen, 1024, g.operatorRoutes())
	return g, nil
}
