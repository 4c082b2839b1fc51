package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"flashgate/ledger/dialect"
)

// What happens to an order after its reservation is written optimistically: plain
// reads, a decision in memory, and then the whole transaction in one packet, from
// BEGIN to COMMIT, in which guards fail where something has changed since the reads.
// No lock is held across a round trip, so that a frozen gateway holds up nobody,
// whatever the server's time-outs are; and a transaction that arrives twice, or late,
// meets its own guards. What has to lock before it reads (an expiry that was disturbed
// twice, a restore, a repair) does so on a session that the server ends soon after the
// gateway froze.

// terms are what insist puts up with, and for whom.
type terms struct {
	// refused is how often guards and constraints may refuse what the reads before had
	// promised. Each refusal by another's change leaves less that can still change.
	refused int
	// waited is how often a row may be waited for in vain; 0: for as long as RetryFor. Who
	// has other SKUs to go on with does not insist.
	waited int
	// sku is what the transaction is about, where that is one.
	sku skuKey
}

// maxRefused is the usual bound.
const maxRefused = 6

// about is the terms for what buyers ask of one SKU.
func about(sku skuKey) terms { return terms{refused: maxRefused, sku: sku} }

// errRefused says that the database refuses a transaction that its own rows promise to
// accept, again and again: they contradict each other.
var errRefused = errors.New("the ledger's rows refuse the change: audit them")

// try is one attempt of insist.
type try struct {
	conn *sql.Conn
	// unsure says that an earlier try may have been committed.
	unsure bool
	// refused and waited count the tries that ended so.
	refused, waited int
	// sent is set before anything is sent that could change a row.
	sent bool
}

// insist runs attempt until it is known how it ended: again after contention, after a
// refusal, which asks for new reads, and after a broken connection, which leaves open
// whether the transaction was committed. So attempt must recognise its own work.
// Its errors are the database's; an error of insist wraps sale.ErrUnavailable, and is
// errHeld where all that is wrong is that somebody holds a row.
func (db *DB) insist(ctx context.Context, pool *sql.DB, on terms, attempt func(ctx context.Context, t *try) error) error {
	if !db.Ready() {
		return db.notReady()
	}
	t := &try{}
	start := time.Now()
	for wait := time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		t.conn, t.sent = nil, false
		err := db.attemptOnce(ctx, pool, on.sku, attempt, t)
		switch db.dialect.Classify(err) {
		case dialect.NoFailure:
			db.noteErr(nil)
			return nil
		case dialect.Violated:
			if t.refused++; t.refused == on.refused {
				return db.away(ctx, fmt.Errorf("%w: %w", errRefused, err))
			}
		case dialect.Contended:
			db.metrics.retries.WithLabelValues("contended").Inc()
		case dialect.WaitedOut:
			db.metrics.retries.WithLabelValues("held").Inc()
			if t.waited++; !t.unsure && (t.waited == on.waited || time.Since(start) > db.cfg.RetryFor || ctx.Err() != nil) {
				return fmt.Errorf("%w: %w", errHeld, err)
			}
		case dialect.OutcomeOff:
			t.unsure = t.unsure || t.sent
			db.metrics.retries.WithLabelValues("unknown").Inc()
		case dialect.NotSent:
		default:
			return db.away(ctx, err)
		}
		// Where there is no connection and nothing was sent on an earlier one, nothing is
		// lost by saying so at once.
		if (t.conn == nil && !t.unsure) || time.Since(start) > db.cfg.RetryFor {
			return db.away(ctx, err)
		}
		select {
		case <-ctx.Done():
			return db.away(ctx, err)
		case <-time.After(jittered(wait)):
		}
	}
}

// jittered is half of d and up to as much again, so that those who failed together do not
// all come back together ("equal jitter" of
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// attemptOnce is not interrupted by ctx once it has a connection, which would leave
// its outcome open; the connection's own limits bound it.
func (db *DB) attemptOnce(ctx context.Context, pool *sql.DB, sku skuKey, attempt func(context.Context, *try) error, t *try) (err error) {
	if err := db.lockWriter(ctx); err != nil {
		return err
	}
	defer db.unlockWriter()
	pool, leave, err := db.slow.enter(ctx, sku, pool, db.pools.slow)
	if err != nil {
		return err
	}
	defer func() { leave(db.dialect.Classify(err)) }()
	t.conn, err = connOf(ctx, pool)
	if err != nil {
		return err
	}
	// A connection that was discarded reports so again; there is nothing to do about it.
	defer func() { _ = t.conn.Close() }()
	err = attempt(context.WithoutCancel(ctx), t)
	switch db.dialect.Classify(err) {
	case dialect.NoFailure:
	case dialect.OutcomeOff, dialect.NotSent:
		discard(t.conn)
	default:
		rollback(t.conn)
	}
	return err
}
