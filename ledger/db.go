// Package ledger is the truth: the relational database that decides, in its own
// constraints, who got the stock. It commits claims of all SKUs in groups, decides
// contradicted and direct claims under locks, carries orders through their life, and
// hands the outbox to whoever publishes it. MySQL 8, MariaDB 10.6 and SQLite behave
// alike behind it. SQL is spoken nowhere else.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// Config says which database is the ledger and how claims are grouped.
type Config struct {
	// Driver is "mysql" (MySQL and MariaDB) or "sqlite".
	Driver string
	// DSN is go-sql-driver's data source name, or the path of the SQLite file. The
	// parameters that correctness needs are added here; it need not name any.
	DSN string

	// MaxGroup is the most claims one transaction holds.
	MaxGroup int
	// Committers is how many groups are under way at once. SQLite has one writer and
	// always uses one.
	Committers int
	// RetryFor is how long after its start a transaction whose outcome is unknown, or
	// which lost to deadlocks, is begun anew. Too low and a short failover turns into
	// errors; it adds to the age a tentative deduction must reach to be given back.
	RetryFor time.Duration
	// CatalogSize is how many SKUs are remembered.
	CatalogSize int

	// Encode makes the payload of an outbox row. Required. It is called from several
	// goroutines at once, and its result is kept.
	Encode func(kind sale.Kind, orders []sale.Order) []byte

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (c *Config) validate() error {
	switch {
	case c.MaxGroup < 1 || c.Committers < 1 || c.CatalogSize < 1 || c.RetryFor <= 0:
		return errors.New("ledger: MaxGroup, Committers, CatalogSize and RetryFor must be positive")
	case c.Encode == nil || c.Logger == nil:
		return errors.New("ledger: Encode and Logger are required")
	}
	return nil
}

const (
	// callTimeout bounds each read or write on a connection. It exceeds what a packet
	// waits for rows, a second for each that is held (sessionSetup), or that would look
	// like a dead server.
	callTimeout = 4 * time.Second
	// connectTimeout bounds a committer's dialling and its fence together.
	connectTimeout = 2 * time.Second
	// connLifetime bounds how long whoever only reads stays with a primary that was
	// demoted, which does not close its connections.
	connLifetime = time.Minute
	// maxExhaustedIDs bounds how many order ids of sold-out SKUs are kept in memory, 16
	// bytes each. Too few and repeats on a sold-out SKU cost reads.
	maxExhaustedIDs = 1_000_000
	// maxOutboxAge is how old an outbox row may be before the audit reports it. Lower
	// would report what is on its way; higher is late to say that nobody relays.
	maxOutboxAge = time.Minute
)

// times are those of the constants above that tests change before Run.
type times struct {
	call, connect, connLifetime, outboxAge, look time.Duration
}

// DB is the ledger. Its methods may be called from any goroutine, once Run has
// proved the database; until then they answer sale.ErrUnavailable.
type DB struct {
	cfg   Config
	times times
	// buyersChunk is the constant of that name; tests change it before Run.
	buyersChunk int
	log         *slog.Logger
	hooks       Hooks
	dialect     dialect.Dialect
	pools       pools
	metrics     *metrics

	ready        atomic.Bool
	installation atomic.Pointer[string]
	lastErr      atomic.Pointer[error]
	clock        *clock
	catalog      *catalog
	writer       chan struct{} // held by the writer of a database that has only one; else nil

	queue     groupQueue
	acks      ackList
	heldDue   heldDue
	slow      slowSKUs
	exhausted exhaustedSets
	suspects  suspects
	retained  retained
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*DB, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d, err := dialect.Of(cfg.Driver)
	if err != nil {
		return nil, err
	}
	// SQLite has one writer: a second committer would only poll for the lock.
	if d.SingleWriter() {
		cfg.Committers = 1
	}
	commits := cfg.Committers
	if !d.SingleWriter() {
		commits += quarantineCommitters
	}
	pools, err := openPools(d, cfg.DSN, commits)
	if err != nil {
		return nil, err
	}
	db := &DB{
		cfg: cfg, buyersChunk: buyersChunk, times: times{callTimeout, connectTimeout, connLifetime, maxOutboxAge, lookPeriod},
		log: cfg.Logger, dialect: d, pools: pools, clock: newClock(), catalog: newCatalog(cfg.CatalogSize),
	}
	if d.SingleWriter() {
		db.writer = make(chan struct{}, 1)
	}
	db.queue.init(cfg.MaxGroup, cfg.Committers)
	db.heldDue.rows, db.slow.of = make(map[string]wanted), make(map[skuKey]*slowSKU)
	db.exhausted.init(maxExhaustedIDs)
	if db.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, err
	}
	return db, nil
}

// Run connects, proves that the database keeps its promises, and then serves until
// ctx ends: it returns nil after everything accepted has been answered. A database
// that is away is waited for; one that fails the proof ends Run with one line. Run
// may be called once.
func (db *DB) Run(ctx context.Context) error {
	defer func() { _ = db.pools.close() }()
	defer db.queue.close()
	for _, pool := range db.pools.all() {
		pool.SetConnMaxLifetime(db.times.connLifetime)
	}
	if err := db.connect(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	db.syncClock(ctx)
	var wg sync.WaitGroup
	for range db.cfg.Committers {
		wg.Go(db.runCommitter)
	}
	// Where there is one writer, everybody waits for the database and nobody for a row.
	if !db.dialect.SingleWriter() {
		wg.Go(db.runFreed)
		wg.Go(db.runPatient)
	}
	for _, loop := range []func(context.Context){db.runAcks, db.runClock, db.runCatalog, db.watchChanges} {
		wg.Go(func() { loop(ctx) })
	}
	db.ready.Store(true)
	<-ctx.Done()
	db.queue.close()
	wg.Wait()
	return nil
}

// connect waits for a database that answers and passes the proof.
func (db *DB) connect(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := db.prove(ctx)
		if err == nil {
			err = db.identify(ctx)
		}
		if err == nil {
			db.noteErr(nil)
			return nil
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop before the database answered
		}
		var broken *dialect.ProofError
		if errors.As(err, &broken) {
			return err
		}
		db.noteErr(err)
		db.log.Warn("the ledger is away; trying again", "error", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(jittered(wait)):
		}
	}
}

// Ready reports whether the database has passed its proof. It stays true when the
// database goes away later; Err tells of that.
func (db *DB) Ready() bool { return db.ready.Load() }

// Err is the last failure to reach the database, nil once a call succeeded again.
func (db *DB) Err() error {
	if p := db.lastErr.Load(); p != nil {
		return *p
	}
	return nil
}

func (db *DB) noteErr(err error) {
	if err == nil {
		if db.lastErr.Load() != nil {
			db.lastErr.Store(nil)
		}
		return
	}
	db.lastErr.Store(&err)
}

// away wraps a failure in the sentinel that callers know, and remembers it as the
// database's, unless it is this gateway's own, or that of whoever holds a row, or the
// caller's context has ended.
func (db *DB) away(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sale.ErrOverloaded) {
		return err
	}
	if db.dialect.Classify(err) == dialect.WaitedOut {
		return fmt.Errorf("%w: %w", errHeld, err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", sale.ErrUnavailable, ctx.Err())
	}
	db.noteErr(err)
	return fmt.Errorf("%w: %w", sale.ErrUnavailable, err)
}
