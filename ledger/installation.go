package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// installationLen is how many characters an installation's identity has.
const installationLen = 26

// Installation is the identity of what this ledger is the truth of, minted when it was used
// first, and empty until the database has passed its proof. Whatever else holds orders of it
// is marked with it.
func (db *DB) Installation() string {
	if id := db.installation.Load(); id != nil {
		return *id
	}
	return ""
}

// identify reads the identity, and mints it where there is none. Of several gateways that do
// so at once, one does.
func (db *DB) identify(ctx context.Context) error {
	id, err := db.readInstallation(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		if err = db.mint(ctx, rand.Text()[:installationLen]); err == nil || db.dialect.Classify(err) == dialect.Violated {
			id, err = db.readInstallation(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("read the installation's identity: %w", err)
	}
	db.installation.Store(&id)
	return nil
}

func (db *DB) readInstallation(ctx context.Context) (id string, err error) {
	rows, err := read(ctx, db.pools.control, "SELECT id FROM installation WHERE one = 1")
	if err != nil {
		return "", err
	}
	found := false
	for rows.Next() {
		if err = rows.Scan(&id); err != nil {
			break
		}
		found = true
	}
	if err = dialect.CloseRows(rows, err); err == nil && !found {
		err = sql.ErrNoRows
	}
	return id, err
}

func (db *DB) mint(ctx context.Context, id string) error {
	return db.transact(ctx, db.pools.control, func(ctx context.Context, conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, "INSERT INTO installation (one, id, at) VALUES (1, ?, ?)", id, db.Now())
		return err
	})
}

// Adopt gives the ledger another identity: that of an installation whose ledger was lost,
// and of which this one was made anew. No gateway may be running. Errors wrap
// sale.ErrInvalid or sale.ErrUnavailable.
func (db *DB) Adopt(ctx context.Context, id string) error {
	if len(id) != installationLen {
		return fmt.Errorf("%w: %q is no identity of an installation", sale.ErrInvalid, id)
	}
	err := db.transact(ctx, db.pools.control, func(ctx context.Context, conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, "UPDATE installation SET id = ?, at = ? WHERE one = 1", id, db.Now())
		return err
	})
	if err != nil {
		return db.away(ctx, err)
	}
	db.installation.Store(&id)
	return nil
}
