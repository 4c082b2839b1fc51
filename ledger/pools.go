package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// pools are the connections of this gateway, apart by what they are for, so that no use
// of the ledger can starve another: eight thousand buyers who look at their orders at
// once cost the sale nothing, and no job its lease. Idle ones are kept; together they are
// thirty or so.
type pools struct {
	commits *sql.DB // one for each committer, which keeps it
	lookups *sql.DB // what a batch looks up
	edge    *sql.DB // buyers' orders, cancellations, payments
	slow    *sql.DB // buyers and operators, for SKUs whose rows somebody holds
	control *sql.DB // operators, jobs, loads of the shield, the catalogue
	leases  *sql.DB // leases and the clock
	probe   *sql.DB // one, for whoever asks whether the ledger is there: a probe that waited
	// behind others would say nothing of a ledger that hangs
}

// The sizes of the pools. A buyer who looks waits for one of eight; a batch's look-up is
// short, and there are rarely more at once than batches on their way.
const (
	lookupConns  = 8
	edgeConns    = 8
	slowConns    = 2
	controlConns = 8
	leaseConns   = 2
)

// CheckDSN says what is wrong with a DSN, as far as that shows without connecting.
func CheckDSN(driver, dsn string) error {
	d, err := dialect.Of(driver)
	if err != nil {
		return err
	}
	pool, err := d.Open(dsn, callTimeout)
	if err != nil {
		return fmt.Errorf("ledger.dsn: %w", err)
	}
	return pool.Close()
}

func openPools(d dialect.Dialect, dsn string, committers int) (p pools, err error) {
	for _, o := range []struct {
		pool **sql.DB
		size int
	}{
		{&p.commits, committers}, {&p.lookups, lookupConns}, {&p.edge, edgeConns}, {&p.slow, slowConns}, {&p.control, controlConns}, {&p.leases, leaseConns}, {&p.probe, 1},
	} {
		if *o.pool, err = d.Open(dsn, callTimeout); err != nil {
			return pools{}, errors.Join(fmt.Errorf("ledger.dsn: %w", err), p.close())
		}
		(*o.pool).SetMaxOpenConns(o.size)
		(*o.pool).SetMaxIdleConns(o.size)
		(*o.pool).SetConnMaxIdleTime(5 * time.Minute)
	}
	return p, nil
}

func (p *pools) all() []*sql.DB {
	return []*sql.DB{p.commits, p.lookups, p.edge, p.slow, p.control, p.leases, p.probe}
}

func (p *pools) close() error {
	var errs []error
	for _, pool := range p.all() {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}

// connOf takes a connection out of a pool, which its Close gives back. That none was free
// until ctx ended is no failure of the database: it is sale.ErrOverloaded.
func connOf(ctx context.Context, pool *sql.DB) (*sql.Conn, error) {
	stats := pool.Stats()
	full := stats.InUse >= stats.MaxOpenConnections
	conn, err := pool.Conn(ctx)
	if err != nil && full && ctx.Err() != nil {
		return nil, fmt.Errorf("%w: waiting for a connection: %w", sale.ErrOverloaded, err)
	}
	return conn, err
}

// result is a result set on a connection of its own. Closing it gives the connection
// back.
type result struct {
	*sql.Rows
	conn *sql.Conn
}

// read queries on a connection of the pool.
func read(ctx context.Context, pool *sql.DB, text string, args ...any) (*result, error) {
	conn, err := connOf(ctx, pool)
	if err != nil {
		return nil, err
	}
	rows, err := conn.QueryContext(ctx, text, args...)
	if err != nil {
		// A connection that was discarded reports so again.
		_ = conn.Close()
		return nil, err
	}
	return &result{rows, conn}, nil
}

// Close ends the result set and gives its connection back.
func (r *result) Close() error { return errors.Join(r.Rows.Close(), r.conn.Close()) }
