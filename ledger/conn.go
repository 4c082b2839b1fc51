package ledger

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// rollback ends the transaction a connection may be in. Where that cannot be known,
// the connection is thrown away: one left inside a transaction would poison whoever
// gets it next. It reports whether the connection is still good.
func rollback(conn *sql.Conn) bool {
	// The caller's context may have ended; the driver's own timeouts bound this.
	if _, err := conn.ExecContext(context.Background(), "ROLLBACK"); err != nil {
		discard(conn)
		return false
	}
	return true
}

// discard closes the connection under the pool's hands, so that it never returns.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// maxContended is how often a transaction that lost a deadlock or waited for a row in
// vain is tried again.
const maxContended = 5

// transact runs fn inside a transaction on a connection of the pool, again when it was
// contended: what fn locks against the order of all transactions (DESIGN.md) may end in
// a deadlock. Its own errors roll back and are returned as they are; an error that wraps
// sale.ErrUnknown means that the commit may have happened.
func (db *DB) transact(ctx context.Context, pool *sql.DB, fn func(ctx context.Context, conn *sql.Conn) error) error {
	for try := 1; ; try++ {
		err := db.transactOnce(ctx, pool, fn)
		if db.dialect.Classify(err) != dialect.Contended || try == maxContended {
			return err
		}
		db.metrics.retries.WithLabelValues("contended").Inc()
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(try) * 2 * time.Millisecond):
		}
	}
}

func (db *DB) transactOnce(ctx context.Context, pool *sql.DB, fn func(ctx context.Context, conn *sql.Conn) error) error {
	if err := db.lockWriter(ctx); err != nil {
		return err
	}
	defer db.unlockWriter()
	conn, err := connOf(ctx, pool)
	if err != nil {
		return err
	}
	// A connection that was discarded reports so again; there is nothing to do about it.
	defer func() { _ = conn.Close() }()
	if _, err := conn.ExecContext(ctx, db.dialect.Begin()); err != nil {
		discard(conn)
		return err
	}
	if err := fn(ctx, conn); err != nil {
		rollback(conn)
		return err
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	if err != nil {
		rollback(conn)
	}
	if db.dialect.Classify(err) == dialect.OutcomeOff {
		return fmt.Errorf("%w: %w", sale.ErrUnknown, err)
	}
	return err
}

// lockWriter waits in line for a database with one writer. SQLite's own waiting is a
// lottery, in which an operator never wins against a committer under load.
func (db *DB) lockWriter(ctx context.Context) error {
	if db.writer == nil {
		return nil
	}
	select {
	case db.writer <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (db *DB) unlockWriter() {
	if db.writer != nil {
		<-db.writer
	}
}
