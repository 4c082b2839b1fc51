package ledger

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
)

// sqliteDialect is the embedded ledger. There is one writer at a time, so its
// transactions need no row locks: they take the database with BEGIN IMMEDIATE.
type sqliteDialect struct{}

func (sqliteDialect) name() string       { return "sqlite" }
func (sqliteDialect) singleWriter() bool { return true }

// open adds what durability and writers' waiting need to the DSN's own parameters.
func (sqliteDialect) open(dsn string) (*sql.DB, error) {
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

func (d sqliteDialect) openForMigration(dsn string) (*sql.DB, error) { return d.open(dsn) }

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

func (sqliteDialect) classify(err error) failure {
	if err == nil {
		return noFailure
	}
	if errors.Is(err, errGuard) {
		return violated
	}
	if errors.Is(err, driver.ErrBadConn) {
		return notSent
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return outcomeOff
	}
	switch e.Code() & 0xff {
	case sqliteConstraint:
		return violated
	case sqliteBusy, sqliteLocked:
		return contended
	case sqliteInterrupt, sqliteIOErr:
		return outcomeOff
	}
	return otherwise
}

func (sqliteDialect) appendString(b []byte, s string) []byte { return appendSQLiteString(b, s) }
func (sqliteDialect) appendBytes(b []byte, p []byte) []byte  { return appendHex(b, p) }
func (sqliteDialect) begin() string                          { return "BEGIN IMMEDIATE" }
func (sqliteDialect) forUpdate() string                      { return "" }
func (sqliteDialect) skipLocked() string                     { return "" }
func (sqliteDialect) byPrimaryKey() string                   { return "" }
func (sqliteDialect) byIndex(string) string                  { return "" }
func (sqliteDialect) onConflict(key string) string {
	return " ON CONFLICT (" + key + ") DO UPDATE SET "
}
func (sqliteDialect) inserted(column string) string { return "excluded." + column }

// fence has nothing to do: a connection lives and dies with this process.
func (sqliteDialect) fence(context.Context, *sql.Conn, string) (int64, error) { return 1, nil }

// exec runs the script statement by statement, which costs nothing in one process
// and shows how many rows each one changed.
func (sqliteDialect) exec(ctx context.Context, conn *sql.Conn, s *script) error {
	from := 0
	for i, end := range s.ends {
		res, err := conn.ExecContext(ctx, string(s.text[from:end]))
		if err != nil {
			return err
		}
		from = end
		switch m := s.expects[i]; m.what {
		case outboxInsert:
			last, err := res.LastInsertId()
			if err != nil {
				return err
			}
			s.firstOutboxID = last - int64(m.rows) + 1
		case exactly:
			if n, err := res.RowsAffected(); err != nil || n != int64(m.rows) {
				return errors.Join(errGuard, err)
			}
		}
	}
	return nil
}

func (sqliteDialect) settings(ctx context.Context, conn *sql.Conn) error {
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
		return &proofError{"journal_mode is " + journal + " and must be WAL"}
	case sync < 2:
		return &proofError{"synchronous must be FULL: a reserved order must survive a power cut"}
	}
	return nil
}

func isSQLiteMissingTable(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqliteError && strings.Contains(e.Error(), "no such table")
}

func (sqliteDialect) addSold(s *script, rows []soldUnits) {
	for _, r := range rows {
		s.raw("UPDATE stock SET sold=CASE WHEN sku_version=")
		s.int(r.version)
		s.raw(" THEN sold+")
		s.int(r.units)
		s.raw(" ELSE -1 END")
		s.whereStock(r.sku, r.segment)
	}
}

func (sqliteDialect) clock() string { return "" }

// openBefore has nothing to say: the one committer of the one process that writes judges
// by the clock that all others go by.
func (sqliteDialect) openBefore(*script, int64) {}

func (sqliteDialect) setStock(s *script, rows []lockedStock) {
	for _, r := range rows {
		s.raw("UPDATE stock SET total=")
		s.int(r.Total)
		s.raw(",sold=")
		s.int(r.Sold)
		s.whereStock(r.sku, r.segment)
	}
}

func (sqliteDialect) query(ctx context.Context, conn *sql.Conn, s *script, read ...func(*sql.Rows) error) error {
	from := 0
	for i, end := range s.ends {
		text := string(s.text[from:end])
		from = end
		if s.expects[i].what != selects {
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
				return closeRows(rows, err)
			}
		}
		read = read[1:]
		if err := closeRows(rows, nil); err != nil {
			return err
		}
	}
	return nil
}

func (sqliteDialect) endExactly(s *script, rows int) { s.endWith(exactly, rows) }

func (d sqliteDialect) lease(s *script, name string, token int64) {
	s.raw("UPDATE job_leases SET token=token WHERE name=")
	s.str(name)
	s.raw(" AND token=")
	s.int(token)
	d.endExactly(s, 1)
}

// SQLite's snapshot begins with the first read.
func (sqliteDialect) snapshot() []string { return []string{"BEGIN"} }
