package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// Config is what a Gateway is told. Nothing in it has a default here: package configs
// has them, and says what too little and too much of each does.
type Config struct {
	// Listen and AdminListen are host:port of the two listeners; port 0 takes a free
	// one, which BuyersAddr and OperatorsAddr then tell.
	Listen      string
	AdminListen string
	// AdminKey is what operators send as a Bearer token. It must not be empty.
	AdminKey string
	// OperatorKeys are further ones, as name:scope:hash (ParseOperatorKey).
	OperatorKeys []string
	// OpenMetrics serves /metrics without the key.
	OpenMetrics bool

	// Wait is how long a purchase waits for its verdict where the request does not say.
	Wait time.Duration
	// MaxWait is queue.max_age, after which every claim has its verdict. It cuts Wait,
	// and what requests ask for.
	MaxWait time.Duration
	// VerdictTTL is how long a refusal that nobody waited for can be asked for.
	VerdictTTL time.Duration
	// PayWithin is what a SKU gets for which an operator says nothing.
	PayWithin time.Duration

	// TrustedProxies are addresses and CIDR prefixes whose X-Forwarded-For and, in
	// header mode, X-User-ID are believed.
	TrustedProxies []string
	Auth           Auth
	Limits         Limits
	Payments       Payments

	// BodyLimit is the largest body in bytes.
	BodyLimit int
	// HeaderLimit is the largest request head in bytes, and memory that every open
	// connection holds.
	HeaderLimit int
	// ReadTimeout bounds reading one request.
	ReadTimeout time.Duration
	// WriteTimeout bounds writing one response, or one piece of an event stream.
	WriteTimeout time.Duration
	// RequestsEach closes a connection after so many requests; 0 does not.
	RequestsEach int
	// IdleTimeout closes connections that send nothing.
	IdleTimeout time.Duration
	// MaxConnections bounds open connections of the buyers' listener, as far as the process
	// may open files. MaxConnectionsEach bounds those of one address that is no trusted
	// proxy's; 0 does not.
	MaxConnections, MaxConnectionsEach int
	// LocalNames and AdminLocalNames have the buyers' and the operators' listener refuse
	// requests that name another host than localhost or an address: a page from elsewhere in a
	// browser on this machine reaches loopback by a name of its own (DNS rebinding).
	LocalNames, AdminLocalNames bool
	// TLS and AdminTLS are of the buyers' and of the operators' listener.
	TLS, AdminTLS TLS

	// DrainDelay is how long the buyers' listener goes on serving, with /readyz at 503,
	// once Run's context has ended.
	DrainDelay time.Duration
	// ShutdownTimeout bounds waiting for requests in flight after that. It must exceed
	// MaxWait, which bounds how long one can take.
	ShutdownTimeout time.Duration

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: nothing is counted
	Gatherer   prometheus.Gatherer   // what /metrics shows; nil: there is no /metrics
}

func (c *Config) validate() error {
	switch {
	case c.AdminKey == "":
		return errors.New("the operators' key must not be empty")
	case c.Wait < 0 || c.DrainDelay < 0:
		return errors.New("wait and drain delay must not be negative")
	case min(c.MaxWait, c.VerdictTTL, c.PayWithin, c.ReadTimeout, c.WriteTimeout, c.IdleTimeout) <= 0:
		return errors.New("max wait, verdict TTL, pay within, read, write and idle timeout must be positive")
	case c.ShutdownTimeout <= c.MaxWait:
		return errors.New("the shutdown timeout must exceed the max wait")
	case c.BodyLimit < 1 || c.HeaderLimit < 512 || c.MaxConnections < 1 || c.MaxConnectionsEach < 0 || c.RequestsEach < 0:
		return errors.New("body limit, header limit or max connections is too small")
	}
	return errors.Join(c.Limits.validate(), c.Payments.validate(), c.TLS.validate(), c.AdminTLS.validate())
}

// Queue is the line in front of each SKU.
type Queue interface {
	// Join accepts the claim or returns sale.ErrQueueFull or sale.ErrShuttingDown. It
	// never blocks. With async, no request waits for the verdict.
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
	PutSKU(ctx context.Context, sku sale.SKU, stock sale.Stock, expect sale.Expect) (sale.SKU, sale.Stock, bool, error)
	PatchSKU(ctx context.Context, name string, patch sale.SKUPatch) (sale.SKU, sale.Stock, error)
	// AddStock adds once for all calls that have the same key; replayed says that an earlier
	// one had.
	AddStock(ctx context.Context, name string, delta int64, key string) (sku sale.SKU, stock sale.Stock, replayed bool, err error)
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
	// ForceBreaker gives an order. One for all gateways needs the ledger.
	ForceBreaker(ctx context.Context, scope sale.BreakerScope, o sale.BreakerOrder) (sale.BreakerStatus, error)
}

// Readiness says whether the ledger was proved, and, a line each, what operators should
// know of the parts though buyers can be served.
type Readiness interface {
	Ready() bool
	Details() []string
}

// Paths says which way a SKU's claims take now: "shield" or "around".
type Paths interface{ Path(sku *sale.SKU) string }

// Auditor checks every invariant, of everything or of what was done since a position, and
// returns its report as a JSON object.
type Auditor interface {
	Audit(ctx context.Context, since sale.AuditPosition) ([]byte, error)
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
	Log       OperatorLog
}

func (d *Deps) validate() error {
	needed := []any{d.Queue, d.SoldOut, d.Ledger, d.Orders, d.Catalogue, d.Shield, d.Breakers, d.Paths, d.Readiness, d.Log}
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
	keys    operatorKeys
	guesses *limiters // at operators' keys, by address
	limits  *limiters
	metrics *metrics

	problems  [answerCount][]byte // rendered once
	timers    timers
	deadlines *deadlines
	marks     *marks
	stocks    stocks
	streams   *streams
	strange   strangers

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
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	trusted, err := parseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	auth, err := newAuthenticator(cfg.Auth, trusted)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	keys, err := newOperatorKeys(cfg.AdminKey, cfg.OperatorKeys)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		cfg: cfg, deps: deps, log: cfg.Logger, trusted: trusted, auth: auth,
		keys: keys, guesses: newLimiters(Limits{IP: Limit{Rate: guessesPerSecond, Burst: guessesAtOnce}, MaxEntries: cfg.Limits.MaxEntries}),
		limits: newLimiters(cfg.Limits), metrics: m,
		strange: strangers{told: make(map[string]bool)}, problems: staticProblems(), deadlines: newDeadlines(callTimeout),
	}
	g.marks = &marks{
		shield: deps.Shield, ttl: cfg.MaxWait + markSpare, verdictTTL: cfg.VerdictTTL,
		log: cfg.Logger, pending: make(chan *sale.Ticket, maxMarks), dropped: m.dropped,
	}
	g.streams = newStreams(g)
	files := openFiles()
	most := withinFiles(cfg.MaxConnections, files)
	if most < cfg.MaxConnections {
		cfg.Logger.Warn("server.max_connections is more than open files allow", "max_connections", cfg.MaxConnections, "open_files", files, "used", most)
	}
	g.buyers, err = g.newListener("buyers", cfg.Listen, bounds{most, cfg.MaxConnectionsEach, trusted}, cfg.TLS, cfg.LocalNames, g.buyerRoutes())
	if err != nil {
		return nil, err
	}
	g.operators, err = g.newListener("operators", cfg.AdminListen, bounds{most: withinFiles(operatorConnections, files/8)}, cfg.AdminTLS, cfg.AdminLocalNames, g.operatorRoutes())
	if err != nil {
		return nil, err
	}
	return g, nil
}
