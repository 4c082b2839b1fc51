package dialect

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"modernc.org/sqlite"

	"flashgate/sale"
)

// sqliteDialect is the embedded ledger. There is one writer at a time, so its
// transactions need no row locks: they take the database with BEGIN IMMEDIATE.
type sqliteDialect struct{}

func (sqliteDialect) Name() string       { return "sqlite" }
func (sqliteDialect) SingleWriter() bool { return true }

// Open adds what durability and writers' waiting need to the DSN's own parameters.
func (sqliteDialect) Open(dsn string, _ time.Duration) (*sql.DB, error) {
	if dsn == "" || strings.Contains(dsn, ":memory:") {
		return nil, errors.New("it must be the path of a file")
	}
	path, query, _ := strings.Cut(strings.TrimPrefix(dsn, "file:"), "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	params.Add("_pragma", fmt.Sprintf("busy_timeout(%d)", writerWait.Milliseconds()))
	params.Add("_pragma", "journal_mode(WAL)")
	params.Add("_pragma", "synchronous(FULL)")
	params.Set("_txlock", "immediate")
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: params.Encode()}
	c, err := sqlite.NewConnector(u.String())
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

func (d sqliteDialect) OpenForMigration(dsn string) (*sql.DB, error) { return d.Open(dsn, 0) }

// writerWait is how long a transaction waits for a writer of another process.
const writerWait = 3 * time.Second

// The primary result codes of SQLite that are told apart.
const (
	sqliteError      = 1
	sqliteBusy       = 5
	sqliteLocked     = 6
	sqliteInterrupt  = 9
	sqliteIOErr      = 10
	sqliteConstraint = 19
)

// errGuard is SQLite's form of the guards.
var errGuard = errors.New("rows are missing or have changed")

func (sqliteDialect) Classify(err error) Failure {
	if err == nil {
		return NoFailure
	}
	if errors.Is(err, errGuard) {
		return Violated
	}
	if errors.Is(err, driver.ErrBadConn) {
		return NotSent
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return OutcomeOff
	}
	switch e.Code() & 0xff {
	case sqliteConstraint:
		return Violated
	case sqliteBusy, sqliteLocked:
		return Contended
	case sqliteInterrupt, sqliteIOErr:
		return OutcomeOff
	}
	return Otherwise
}

func (sqliteDialect) AppendString(b []byte, s string) []byte { return appendSQLiteString(b, s) }
func (sqliteDialect) AppendBytes(b []byte, p []byte) []byte  { return appendHex(b, p) }
func (sqliteDialect) Begin() string                          { return "BEGIN IMMEDIATE" }
func (sqliteDialect) ForUpdate() string                      { return "" }
func (sqliteDialect) SkipLocked() string                     { return "" }
func (sqliteDialect) ByPrimaryKey() string                   { return "" }
func (sqliteDialect) ByIndex(string) string                  { return "" }
func (sqliteDialect) DeleteFrom(table, _ string) string      { return "DELETE FROM " + table }
func (d sqliteDialect) Holds(s *Script, table string, id sale.OrderID) {
	s.Raw("UPDATE " + table + " SET order_id=order_id WHERE order_id=")
	s.Bytes(id[:])
	d.EndExactly(s, 1)
}
func (sqliteDialect) OnConflict(key string) string {
	return " ON CONFLICT (" + key + ") DO UPDATE SET "
}
func (sqliteDialect) Inserted(column string) string { return "excluded." + column }

// Fence has nothing to do: a connection lives and dies with this process.
func (sqliteDialect) Fence(context.Context, *sql.Conn, string) (int64, error) { return 1, nil }

// Exec runs the script statement by statement, which costs nothing in one process
// and shows how many rows each one changed.
func (sqliteDialect) Exec(ctx context.Context, conn *sql.Conn, s *Script) error {
	from := 0
	for i, end := range s.ends {
		res, err := conn.ExecContext(ctx, string(s.Text[from:end]))
		if err != nil {
			return err
		}
		from = end
		switch m := s.expects[i]; m.what {
		case OutboxInsert:
			last, err := res.LastInsertId()
			if err != nil {
				return err
			}
			s.FirstOutboxID = last - int64(m.rows) + 1
		case exactly:
			if n, err := res.RowsAffected(); err != nil || n != int64(m.rows) {
				return errors.Join(errGuard, err)
			}
		}
	}
	return nil
}

func (sqliteDialect) Settings(ctx context.Context, conn *sql.Conn) error {
	var journal string
	var sync int
	if err := conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal); err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&sync); err != nil {
		return err
	}
	switch {
	case journal != "wal":
		return &ProofError{"journal_mode is " + journal + " and must be WAL"}
	case sync < 2:
		return &ProofError{"synchronous must be FULL: a reserved order must survive a power cut"}
	}
	return nil
}

func isSQLiteMissingTable(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqliteError && strings.Contains(e.Error(), "no such table")
}

func (sqliteDialect) AddSold(s *Script, rows []SoldUnits) {
	for _, r := range rows {
		s.Raw("UPDATE stock SET sold=CASE WHEN sku_version=")
		s.Int(r.Version)
		s.Raw(" THEN sold+")
		s.Int(r.Units)
		s.Raw(" ELSE -1 END")
		s.WhereStock(r.SKU, r.Segment)
	}
}

func (sqliteDialect) Clock() string { return "" }

// OpenBefore has nothing to say: the one committer of the one process that writes judges
// by the clock that all others go by.
func (sqliteDialect) OpenBefore(*Script, int64) {}

// NearClock has nothing to say either.
func (sqliteDialect) NearClock(*Script, int64, int64) {}

func (sqliteDialect) SetStock(s *Script, rows []LockedStock) {
	for _, r := range rows {
		s.Raw("UPDATE stock SET total=")
		s.Int(r.Total)
		s.Raw(",sold=")
		s.Int(r.Sold)
		s.WhereStock(r.SKU, r.Segment)
	}
}

func (sqliteDialect) Query(ctx context.Context, conn *sql.Conn, s *Script, read ...func(*sql.Rows) error) error {
	from := 0
	for i, end := range s.ends {
		text := string(s.Text[from:end])
		from = end
		if s.expects[i].what != Selects {
			if _, err := conn.ExecContext(ctx, text); err != nil {
				return err
			}
			continue
		}
		rows, err := conn.QueryContext(ctx, text)
		if err != nil {
			return err
		}
		for rows.Next() {
			if err := read[0](rows); err != nil {
				return CloseRows(rows, err)
			}
		}
		read = read[1:]
		if err := CloseRows(rows, nil); err != nil {
			return err
		}
	}
	return nil
}

func (sqliteDialect) EndExactly(s *Script, rows int) { s.EndWith(exactly, rows) }

func (d sqliteDialect) Lease(s *Script, name string, token int64) {
	s.Raw("UPDATE job_leases SET token=token WHERE name=")
	s.Str(name)
	s.Raw(" AND token=")
	s.Int(token)
	d.EndExactly(s, 1)
}

// SQLite's snapshot begins with the first read.
func (sqliteDialect) Snapshot() []string { return []string{"BEGIN"} }
