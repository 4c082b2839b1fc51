package ledger

import (
	"context"
	"database/sql"
	"fmt"
)

// failure sorts what a database answers by what has to be done about it.
type failure uint8

const (
	noFailure  failure = iota
	violated           // a constraint said no: nothing of the statement happened
	contended          // deadlock, changed record: roll back, try again
	waitedOut          // a row was waited for in vain: roll back; whoever holds it may do so for long
	notSent            // the connection was dead before anything was sent
	outcomeOff         // the connection broke: what was sent may have been committed
	otherwise          // any other answer of the server: nothing was committed
)

// dialect is what differs between the databases. Its methods keep no state and may
// be called from any goroutine.
type dialect interface {
	name() string
	// open returns a pool whose every connection is set up for this package.
	open(dsn string) (*sql.DB, error)
	// openForMigration returns a pool without limits on how long a call takes.
	openForMigration(dsn string) (*sql.DB, error)
	singleWriter() bool
	classify(err error) failure

	// appendString appends a text literal, appendBytes a binary one.
	appendString(b []byte, s string) []byte
	appendBytes(b []byte, p []byte) []byte
	// begin opens a transaction that is going to write.
	begin() string
	// forUpdate is appended to a SELECT that locks what it reads.
	forUpdate() string
	// skipLocked is appended to a SELECT that locks what it reads, and leaves out what
	// another transaction has locked. Where there is one writer, nobody asks.
	skipLocked() string
	// byPrimaryKey follows a table's name where only the primary key may be used,
	// byIndex where only that index may.
	byPrimaryKey() string
	byIndex(name string) string
	// onConflict opens an upsert's tail for the key; inserted is the value that it would
	// have inserted into a column.
	onConflict(key string) string
	inserted(column string) string

	// addSold and setStock append the statements for the last rows of a
	// transaction; they fail as violated when a row does not exist.
	addSold(s *script, rows []soldUnits)
	setStock(s *script, rows []lockedStock)
	// endExactly closes a statement, which fails as violated unless it changed so many
	// rows (MySQL counts two for a row that an upsert updates). lease appends one that
	// fails as violated unless the lease is held under the token, and keeps it so until
	// the transaction ends.
	endExactly(s *script, rows int)
	lease(s *script, name string, token int64)

	// fence takes exclusive possession of a committer's name on a fresh connection,
	// so that no earlier connection of that name can still commit anything. step is the
	// distance there of ids that one statement makes.
	fence(ctx context.Context, conn *sql.Conn, name string) (step int64, err error)
	// clock selects the database's time in Unix µs, as of the statement's beginning; "" =
	// it is this machine's. openBefore appends a statement that fails as violated where that
	// time, in ms, has come.
	clock() string
	openBefore(s *script, closes int64)
	// exec runs a script that writes, query one that reads: it calls the n-th reader
	// for each row of the n-th statement that selects.
	exec(ctx context.Context, conn *sql.Conn, s *script) error
	query(ctx context.Context, conn *sql.Conn, s *script, read ...func(*sql.Rows) error) error
	// snapshot is the statements that begin a transaction which only reads, and sees
	// one state of everything.
	snapshot() []string
	// settings checks what the server is configured to do.
	settings(ctx context.Context, conn *sql.Conn) error
}

func dialectOf(driver string) (dialect, error) {
	switch driver {
	case "mysql":
		return mysqlDialect{}, nil
	case "sqlite":
		return sqliteDialect{}, nil
	}
	return nil, fmt.Errorf("ledger.driver %q is neither mysql nor sqlite", driver)
}
