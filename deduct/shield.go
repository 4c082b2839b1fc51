// Package deduct is the shield: a copy, in Redis, of how much of each SKU is left and
// who has bought, fast enough to judge every claim and never trusted to be right. It
// judges whole batches in one script call, is idempotent by order id, and is loaded
// anew from the ledger whenever somebody doubts it.
package deduct

import (
	"context"
	"crypto/tls"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"flashgate/sale"
)

// Ledger is what the shield is loaded from and compared with.
type Ledger interface {
	// Now is the ledger's clock, Unix ms.
	Now() int64
	// Stocks returns units by segment, of those of the SKUs that have stock.
	Stocks(ctx context.Context, skus []string) (map[string]map[int]sale.Stock, error)
	// EachOrder hands over, in chunks, every order of the SKU, of any status.
	EachOrder(ctx context.Context, sku string, fn func([]sale.HeldOrder) error) error
	// EachBuyer hands over, in chunks, each buyer's units in live orders.
	EachBuyer(ctx context.Context, sku string, fn func(users []string, units []int64) error) error
	// Holdings returns what is held of those of the SKUs that have stock, each with up to
	// most orders and buyers: more make it Partial. Stock is read last.
	Holdings(ctx context.Context, skus []string, most int) (map[string]*sale.Holdings, error)
	// Find returns the orders that exist among the ids.
	Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error)
}

// Config is what a Shield is told. Nothing in it has a default here: package configs has
// them, and says what too little and too much of each does.
type Config struct {
	// Addrs are host:port: one is a single server, several are a Cluster, or, with
	// SentinelMaster, the sentinels.
	Addrs            []string
	SentinelMaster   string
	SentinelPassword string
	Username         string
	Password         string
	DB               int
	TLS              *tls.Config
	// DialTimeout bounds connecting, ReadTimeout each call, the wait for a connection of
	// the pool included.
	DialTimeout time.Duration
	ReadTimeout time.Duration
	// PoolSize is connections per server for what is not batches, which have their own.
	PoolSize int
	// MaxBatch is the largest batch that will be offered, 1000 at most.
	MaxBatch int
	// Grace is the age, on Redis's clock, above which a tentative batch is judged. It
	// must exceed the time that a commit can take.
	Grace time.Duration
	// Home chooses the segment that this gateway draws from first (its remainder by
	// the SKU's number of segments): a number of the gateway, or a hash of its name.
	Home uint32
	// Parked, where set, returns how many units of each of the SKUs are promised to claims
	// in the durable backlog, which the ledger does not know yet; none is no entry.
	Parked func(ctx context.Context, skus []string) (map[string]int64, error)
	// Waiting, where set, reports from memory whether the SKU has claims in the durable
	// backlog. As long as it has, nothing of it is judged: a tentative batch may stand
	// for claims that were parked by a gateway that died before it could say so.
	Waiting func(sku string) bool

	// Breaker, where set, makes the breaker of one server of a Cluster, by its address. A
	// single server's is the caller's.
	Breaker func(server string) Breaker

	// Namespace goes into every key, so that installations can share a Redis.
	Namespace string
	// Installation, where set, is the identity of this gateway's installation, or empty as
	// long as it is not known. Redis that another one uses, with the same namespace, is left
	// alone.
	Installation func() string
	// MayMark, where set, says whether a Redis without a mark may be given this
	// installation's by now. Commands make none.
	MayMark func() bool

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// pipelines is how many are on their way to a server at once: with one, a reply that is slow
	// delays every SKU; with many, each carries one call. BenchmarkDeductManySKUs on two
	// busy cores, per claim: 20-41 us with 1, 14-25 with 3, 48-70 with 8.
	pipelines = 3
	// idle is how long Redis keeps the copy of a SKU that nobody asks for: slow sellers
	// are not loaded over and over, and copies nobody needs do not add up.
	idle = 30 * time.Minute
	// viewIdle is how long a gateway remembers a SKU that it was not asked about. A
	// distrust is remembered for as long as a distrusted copy may live.
	viewIdle = 10 * time.Minute
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Shield is this gateway's access to the shield. Its methods may be called by any
// goroutine; Deduct and Settle need Run to be running.
type Shield struct {
	cfg     Config
	keys    keyspace
	ledger  Ledger
	log     *slog.Logger
	selling redis.UniversalClient // the senders' connections, and nobody else's
	client  redis.UniversalClient // everything else: loads, repairs, verdicts
	metrics metrics
	scripts scripts

	lanes   lanes
	stopped chan struct{} // closed by Run when no sender is left
	dedup   sync.Pool     // *dedup

	identities identities
	owner      ownership
	ownerEvery time.Duration // the constant, but for tests
	since      instant       // generations that began before are distrusted
	slots      slots         // the same, by slot of a Cluster
	newest     instant       // of all times that a generation or a distrust had

	mu    sync.Mutex
	views map[string]*view

	foreign foreign

	checkMu sync.Mutex
	checks  map[string]*raiseCheck // by family tag; rule c
	quiet   quiet
	// quietFor is how long a family that has nothing to be repaired is left alone.
	quietFor time.Duration
	known    known
}

// scripts are the Lua sources, by file.
type scripts struct {
	deduct                            *redis.Script
	begin, beat, flip, abort          *redis.Script
	stale, raise, sweep, forget, mark *redis.Script
	deductSource                      string
}

// New validates and starts nothing.
func New(cfg Config, ledger Ledger) (*Shield, error) {
	switch {
	case len(cfg.Addrs) == 0:
		return nil, errors.New("deduct: no Redis address")
	case ledger == nil:
		return nil, errors.New("deduct: no ledger")
	case cfg.MaxBatch < 1 || cfg.MaxBatch > maxBatch:
		return nil, fmt.Errorf("deduct: batches of %d claims: must be 1..%d", cfg.MaxBatch, maxBatch)
	case cfg.Grace <= 0:
		return nil, errors.New("deduct: grace must be positive")
	case cfg.DialTimeout <= 0 || cfg.ReadTimeout <= 0:
		return nil, errors.New("deduct: timeouts must be positive")
	case cfg.PoolSize < 1:
		return nil, errors.New("deduct: pool size must be positive")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Shield{
		cfg: cfg, keys: keyspaceOf(cfg.Namespace), ledger: source{ledger}, log: cfg.Logger,
		stopped: make(chan struct{}),
		views:   make(map[string]*view), checks: make(map[string]*raiseCheck),
		quietFor: cfg.Grace * 3 / 4, ownerEvery: ownerEvery,
	}
	s.dedup.New = func() any { return newDedup() }
	s.foreign.init()
	s.lanes.init()
	if err := s.scripts.read(); err != nil {
		return nil, err
	}
	if err := s.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("deduct: metrics: %w", err)
	}
	s.selling = redis.NewUniversalClient(s.options(pipelines))
	s.client = redis.NewUniversalClient(s.options(cfg.PoolSize))
	s.selling.AddHook(ownerGuard{s})
	s.client.AddHook(ownerGuard{s})
	return s, nil
}

func (s *scripts) read() error {
	for name, into := range map[string]**redis.Script{
		"deduct": &s.deduct, "begin": &s.begin, "beat": &s.beat, "flip": &s.flip, "abort": &s.abort,
		"stale": &s.stale, "raise": &s.raise, "sweep": &s.sweep, "forget": &s.forget, "mark": &s.mark,
	} {
		source, err := fs.ReadFile(luaFiles, "lua/"+name+".lua")
		if err != nil {
			return fmt.Errorf("deduct: %w", err)
		}
		*into = redis.NewScript(string(source))
		if name == "deduct" {
			s.deductSource = string(source)
		}
	}
	return nil
}

// options has the client never repeat a call: whether one is repeated, and under which
// ids, is for those to decide who know what it means.
func (s *Shield) options(poolSize int) *redis.UniversalOptions {
	c := &s.cfg
	return &redis.UniversalOptions{
		Addrs: c.Addrs, MasterName: c.SentinelMaster, SentinelPassword: c.SentinelPassword,
		Username: c.Username, Password: c.Password, DB: c.DB, TLSConfig: c.TLS,
		MaxRetries: -1, DialTimeout: c.DialTimeout, DialerRetries: 1,
		ReadTimeout: c.ReadTimeout, WriteTimeout: c.ReadTimeout, PoolTimeout: c.ReadTimeout,
		ContextTimeoutEnabled: true, PoolSize: poolSize, DisableIdentity: true, OnConnect: s.meet,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// Run sends calls until ctx ends, lets those on their way finish, and closes the
// connections: nothing of the Shield works afterwards. It is called once.
func (s *Shield) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var owned error
	wg.Go(func() { s.meetAll(ctx) })
	wg.Go(func() {
		if owned = s.watchOwner(ctx); owned != nil {
			cancel()
		}
	})
	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			close(s.stopped)
			if err := errors.Join(s.selling.Close(), s.client.Close()); err != nil {
				return errors.Join(owned, fmt.Errorf("deduct: closing connections: %w", err))
			}
			return owned
		case l := <-s.lanes.opened:
			for range pipelines {
				wg.Go(func() { s.sendCalls(ctx, l) })
			}
		case now := <-sweep.C:
			s.forgetIdle(now)
		}
	}
}

// Ping asks Redis for a sign of life: of every master, in a Cluster.
func (s *Shield) Ping(ctx context.Context) error {
	return away(s.eachMaster(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		return c.Ping(ctx).Err()
	}))
}

// Answers asks whether any master is there: whoever reaches one has a link to Redis.
func (s *Shield) Answers(ctx context.Context) error {
	var answered atomic.Bool
	err := s.eachMaster(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		err := c.Ping(ctx).Err()
		if err == nil {
			answered.Store(true)
		}
		return err
	})
	if answered.Load() {
		return nil
	}
	return away(err)
}

// eachMaster calls fn for every server that holds keys, one or several at a time.
func (s *Shield) eachMaster(ctx context.Context, fn func(context.Context, redis.UniversalClient) error) error {
	if err := s.refuses(ctx); err != nil {
		return err // the nodes of a Cluster know nothing of the guard
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return fn(ctx, c) })
	}
	return fn(ctx, s.client)
}

// SetClientLog sends what the Redis client library has to say to the log, at level
// debug: every failed dial is a line of it, and the errors reach the callers anyway. The
// library has one log for the whole process, so this is called once, before any Shield
// is made.
func SetClientLog(log *slog.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ log *slog.Logger }

func (c clientLog) Printf(ctx context.Context, format string, v ...any) {
	if c.log.Enabled(ctx, slog.LevelDebug) {
		c.log.DebugContext(ctx, fmt.Sprintf(format, v...))
	}
}

// away marks an error of Redis as sale.ErrUnavailable: a call that reads, or one that
// may be repeated as it is.
func away(err error) error {
	if err == nil {
		return nil
	}
	if notSent(err) {
		return overloaded(err)
	}
	return fmt.Errorf("deduct: %w: %w", sale.ErrUnavailable, err)
}

// unknown marks an error of a call that may have been carried out all the same, unless
// it was never sent.
func unknown(err error) error {
	if notSent(err) {
		return overloaded(err)
	}
	return fmt.Errorf("deduct: %w: %w: %w", sale.ErrUnavailable, sale.ErrUnknown, err)
}

// overloaded marks a call that was never sent, because this gateway had too many others
// on their way. Redis has not failed.
func overloaded(err error) error { return fmt.Errorf("deduct: %w: %w", sale.ErrOverloaded, err) }

// notSent reports whether a call waited for one of this gateway's own connections, or
// its turn, in vain.
func notSent(err error) bool {
	return errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted) || errors.Is(err, errNotSent)
}

// errNotSent says that a call's caller gave up before a sender came to it.
var errNotSent = errors.New("given up before it was sent")
