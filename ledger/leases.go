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

// Leases says which gateway does what only one may do at a time. A lease is a row
// with a time to live on the ledger's clock and a token that rises whenever the lease
// is taken anew, so that what a former holder still has on its way can be told from
// the work of the present one.
type Leases struct{ db *DB }

// Leases are kept in the ledger; they are of use as long as it is there.
func (db *DB) Leases() Leases { return Leases{db} }

// leaseMost is the longest that a lease can have to live. One that seems to have more was
// written by another clock, before the database's was set back or another server took over:
// nobody could take it for as long as the clocks are apart.
const leaseMost = 10 * time.Second

// lease is one row of job_leases.
type lease struct {
	holder           string
	token, expiresAt int64
}

// free reports whether anybody may take the lease.
func (l lease) free(now int64) bool {
	return l.expiresAt <= now || l.expiresAt > now+leaseMost.Milliseconds()
}

// Acquire takes the lease when it is free or has run out, under a new token, and
// renews it under the same token while the holder still has it. It reports whether
// the holder has it now; the token is the present holder's, whoever that is. After an
// error, which wraps sale.ErrUnavailable, the holder may have it or not. No lease may live
// for longer than ten seconds.
func (l Leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (token int64, held bool, err error) {
	if ttl <= 0 || ttl > leaseMost {
		return 0, false, fmt.Errorf("%w: a lease lives for at most %v", sale.ErrInvalid, leaseMost)
	}
	if !l.db.Ready() {
		return 0, false, l.db.notReady()
	}
	// Most calls are of gateways that see that another one has the lease: that takes
	// no lock.
	row, err := l.look(ctx, name)
	if err != nil {
		return 0, false, l.db.away(ctx, err)
	}
	if row.holder != holder && !row.free(l.db.Now()) {
		return row.token, false, nil
	}
	err = l.db.transact(ctx, l.db.pools.leases, func(ctx context.Context, conn *sql.Conn) error {
		row, err := readLease(ctx, conn, name, l.db.dialect.ForUpdate())
		if err != nil {
			return err
		}
		now := l.db.Now()
		free := row.free(now)
		if token = row.token; free {
			token++
		}
		if held = free || row.holder == holder; !held {
			return nil
		}
		return writeLease(ctx, conn, name, row.token, lease{holder, token, now + ttl.Milliseconds()})
	})
	switch {
	case l.db.dialect.Classify(err) == dialect.Violated:
		// Another gateway has inserted the first row of this name.
		return 0, false, nil
	case err != nil:
		return 0, false, l.db.away(ctx, err)
	}
	l.db.noteErr(nil)
	return token, held, nil
}

// look reads a lease without a lock.
func (l Leases) look(ctx context.Context, name string) (lease, error) {
	conn, err := connOf(ctx, l.db.pools.leases)
	if err != nil {
		return lease{}, err
	}
	row, err := readLease(ctx, conn, name, "")
	return row, errors.Join(err, conn.Close())
}

// Free reports whether nobody has the lease now. Errors wrap sale.ErrUnavailable.
func (l Leases) Free(ctx context.Context, name string) (bool, error) {
	if !l.db.Ready() {
		return false, l.db.notReady()
	}
	row, err := l.look(ctx, name)
	if err != nil {
		return false, l.db.away(ctx, err)
	}
	return row.free(l.db.Now()), nil
}

// Release frees the lease, if it is still held under this token, for whoever asks
// next.
func (l Leases) Release(ctx context.Context, name, holder string, token int64) error {
	if !l.db.Ready() {
		return l.db.notReady()
	}
	_, err := l.db.pools.leases.ExecContext(ctx,
		"UPDATE job_leases SET expires_at = 0 WHERE name = ? AND holder = ? AND token = ?", name, holder, token)
	return l.db.away(ctx, err)
}

// readLease reads a lease; one that nobody ever took is a lease that has run out.
func readLease(ctx context.Context, conn *sql.Conn, name, lock string) (lease, error) {
	var l lease
	err := conn.QueryRowContext(ctx, "SELECT holder, token, expires_at FROM job_leases WHERE name = ?"+lock, name).
		Scan(&l.holder, &l.token, &l.expiresAt)
	if errors.Is(err, sql.ErrNoRows) {
		return lease{}, nil
	}
	return l, err
}

// writeLease writes a lease whose row was read with the token before, 0 when there was
// none.
func writeLease(ctx context.Context, conn *sql.Conn, name string, before int64, l lease) error {
	if before == 0 {
		_, err := conn.ExecContext(ctx, "INSERT INTO job_leases (name, holder, token, expires_at) VALUES (?, ?, ?, ?)",
			name, l.holder, l.token, l.expiresAt)
		return err
	}
	_, err := conn.ExecContext(ctx, "UPDATE job_leases SET holder = ?, token = ?, expires_at = ? WHERE name = ?",
		l.holder, l.token, l.expiresAt, name)
	return err
}
