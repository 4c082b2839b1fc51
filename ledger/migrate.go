package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"flashgate/ledger/dialect"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// schemaVersion is the newest migration of every dialect.
const schemaVersion = 9

// Migrate brings the database's schema up to this program's. Several may run at once:
// one migrates, the others wait. It is safe to repeat.
func Migrate(ctx context.Context, cfg Config) (err error) {
	d, err := dialect.Of(cfg.Driver)
	if err != nil {
		return err
	}
	pool, err := d.OpenForMigration(cfg.DSN)
	if err != nil {
		return fmt.Errorf("ledger.dsn: %w", err)
	}
	defer func() { err = errors.Join(err, pool.Close()) }()

	conn, err := pool.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect to the ledger: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := lockMigration(ctx, d, conn); err != nil {
		return err
	}

	if err := checkOrderIDs(ctx, conn); err != nil {
		return err
	}
	p, err := migrationsOf(d, pool)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate the ledger: %w", err)
	}
	return nil
}

// migrationsOf are those of the dialect, to be run on the database.
func migrationsOf(d dialect.Dialect, pool *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations/"+d.Name())
	if err != nil {
		return nil, err
	}
	kind := goose.DialectMySQL
	if d.Name() == "sqlite" {
		kind = goose.DialectSQLite3
	}
	return goose.NewProvider(kind, pool, files, goose.WithLogger(goose.NopLogger()))
}

// idsVersion is the migration since which order ids begin with their SKU's hash.
const idsVersion = 6

// checkOrderIDs refuses a ledger with orders of before: this program would not find them by
// their SKU, nor recognise a repeat.
func checkOrderIDs(ctx context.Context, conn *sql.Conn) error {
	// What a transaction has read, no migration can change until it ends.
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("look for orders: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	version, err := versionOf(ctx, tx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if version == 0 || version >= idsVersion {
		return nil
	}
	var orders int
	if err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM orders LIMIT 1) some").Scan(&orders); err != nil {
		return fmt.Errorf("look for orders: %w", err)
	}
	if orders > 0 {
		return errors.New("the ledger holds orders whose ids an earlier version made, and this one cannot use them: end their sale with that version, and give this one an empty database")
	}
	return nil
}

// lockMigration makes concurrent migrations take turns. The lock belongs to the
// connection and goes with it. SQLite's own lock suffices there.
func lockMigration(ctx context.Context, d dialect.Dialect, conn *sql.Conn) error {
	if d.Name() == "sqlite" {
		return nil
	}
	var got sql.NullInt64
	row := conn.QueryRowContext(ctx, "SELECT GET_LOCK(CONCAT('flashgate:', LEFT(SHA2(DATABASE(), 256), 32)), ?)", int(time.Minute.Seconds()))
	if err := row.Scan(&got); err != nil {
		return fmt.Errorf("lock the migration: %w", err)
	}
	if got.Int64 != 1 {
		return errors.New("another migration of this ledger has been running for a minute")
	}
	return nil
}

// checkMigrated refuses a database whose schema is older than this program. A newer
// one is accepted: during a rolling upgrade the old program meets the new schema.
func checkMigrated(ctx context.Context, conn *sql.Conn) error {
	version, err := versionOf(ctx, conn)
	if err != nil {
		return err
	}
	if version < schemaVersion {
		return &dialect.ProofError{What: fmt.Sprintf("its schema is version %d, this program needs %d: run flashgate migrate", version, schemaVersion)}
	}
	return nil
}

// versionOf is the newest migration that the database has had, 0 where it had none.
func versionOf(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (int64, error) {
	var version sql.NullInt64
	err := db.QueryRowContext(ctx, "SELECT MAX(version_id) FROM goose_db_version").Scan(&version)
	if dialect.IsMissingTable(err) {
		return 0, nil
	}
	return version.Int64, err
}
