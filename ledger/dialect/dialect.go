// Package dialect is how databases are spoken to: the text of statements, what differs
// between MySQL (with MariaDB) and SQLite, and what their answers mean. It decides nothing
// about orders: that is the ledger's.
package dialect

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"flashgate/sale"
)

// Failure sorts what a database answers by what has to be done about it.
type Failure uint8

// The failures.
const (
	NoFailure  Failure = iota
	Violated           // a constraint said no: nothing of the statement happened
	Contended          // deadlock, changed record: roll back, try again
	WaitedOut          // a row was waited for in vain: roll back; whoever holds it may do so for long
	NotSent            // the connection was dead before anything was sent
	OutcomeOff         // the connection broke: what was sent may have been committed
	Otherwise          // any other answer of the server: nothing was committed
)

// Dialect is what differs between the databases. Its methods keep no state and may
// be called from any goroutine.
type Dialect interface {
	// Name is that of the ledger.driver.
	Name() string
	// Open returns a pool whose every connection is set up for the ledger. A call may take as long as call, where the DSN says nothing else.
	Open(dsn string, call time.Duration) (*sql.DB, error)
	// OpenForMigration returns a pool without limits on how long a call takes.
	OpenForMigration(dsn string) (*sql.DB, error)
	// SingleWriter reports whether the database has one writer at a time.
	SingleWriter() bool
	// Classify sorts an error of the driver, or nil.
	Classify(err error) Failure

	// AppendString appends a text literal, AppendBytes a binary one.
	AppendString(b []byte, s string) []byte
	AppendBytes(b []byte, p []byte) []byte
	// Begin opens a transaction that is going to write.
	Begin() string
	// ForUpdate is appended to a SELECT that locks what it reads.
	ForUpdate() string
	// SkipLocked is appended to a SELECT that locks what it reads, and leaves out what
	// another transaction has locked. Where there is one writer, nobody asks.
	SkipLocked() string
	// ByPrimaryKey follows a table's name where only the primary key may be used,
	// ByIndex where only that index may.
	ByPrimaryKey() string
	ByIndex(name string) string
	// DeleteFrom begins a DELETE of a table's rows, found by the index alone ("PRIMARY" for
	// the primary key): MariaDB plans one as a scan on small tables, which would wait for
	// other transactions' rows.
	DeleteFrom(table, index string) string
	// Holds appends a statement that fails as violated unless the table has a row of the
	// order id, which stays there until the transaction ends.
	Holds(s *Script, table string, id sale.OrderID)
	// OnConflict opens an upsert's tail for the key; Inserted is the value that it would
	// have inserted into a column.
	OnConflict(key string) string
	Inserted(column string) string

	// AddSold and SetStock append the statements for the last rows of a
	// transaction; they fail as violated when a row does not exist.
	AddSold(s *Script, rows []SoldUnits)
	SetStock(s *Script, rows []LockedStock)
	// EndExactly closes a statement, which fails as violated unless it changed so many
	// rows (MySQL counts two for a row that an upsert updates). Lease appends one that
	// fails as violated unless the lease is held under the token, and keeps it so until
	// the transaction ends.
	EndExactly(s *Script, rows int)
	Lease(s *Script, name string, token int64)

	// Fence takes exclusive possession of a committer's name on a fresh connection,
	// so that no earlier connection of that name can still commit anything. step is the
	// distance there of ids that one statement makes.
	Fence(ctx context.Context, conn *sql.Conn, name string) (step int64, err error)
	// Clock selects the database's time in Unix µs, as of the statement's beginning; "" =
	// it is this machine's. OpenBefore appends a statement that fails as violated where that
	// time, in ms, has come.
	Clock() string
	// NearClock appends a statement that fails as violated where a time, in ms, is further
	// from the database's than so many ms.
	NearClock(s *Script, at, within int64)
	OpenBefore(s *Script, closes int64)
	// Exec runs a script that writes, Query one that reads: it calls the n-th reader
	// for each row of the n-th statement that selects.
	Exec(ctx context.Context, conn *sql.Conn, s *Script) error
	Query(ctx context.Context, conn *sql.Conn, s *Script, read ...func(*sql.Rows) error) error
	// Snapshot is the statements that begin a transaction which only reads, and sees
	// one state of everything.
	Snapshot() []string
	// Settings checks what the server is configured to do.
	Settings(ctx context.Context, conn *sql.Conn) error
}

// Of returns the dialect of a ledger.driver: mysql, which is MariaDB too, or sqlite.
func Of(driver string) (Dialect, error) {
	switch driver {
	case "mysql":
		return mysqlDialect{}, nil
	case "sqlite":
		return sqliteDialect{}, nil
	}
	return nil, fmt.Errorf("ledger.driver %q is neither mysql nor sqlite", driver)
}

// SoldUnits are units that a purchase takes from a stock row.
type SoldUnits struct {
	SKU     string
	Segment int
	Units   int64
	Version int64 // of the SKU whose rules the claims were offered under
}

// LockedStock is a stock row's new figures, decided while it was locked.
type LockedStock struct {
	SKU     string
	Segment int
	sale.Stock
}

// ProofError says that the database answers but cannot keep the ledger's promises.
// No waiting mends it.
type ProofError struct{ What string }

// Error says what is wrong.
func (e *ProofError) Error() string { return "the ledger cannot be trusted: " + e.What }
