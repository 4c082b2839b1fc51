package dialect

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashgate/sale"
)

// mysqlDialect speaks what MySQL 8 and MariaDB 10.6 have in common; comments of the
// form /*M! */ are read by MariaDB only.
type mysqlDialect struct{}

// sessionSetup makes a connection independent of how the server is configured. A
// gateway that freezes inside a transaction must not freeze a SKU: MariaDB ends its
// connection after 3 s. Nor must a row that somebody holds hold up what does not need it:
// nobody waits for one longer than a second. MariaDB also turns lists of a thousand values
// into a join, which reads, and locks, the whole table.
const sessionSetup = `SET NAMES utf8mb4 COLLATE utf8mb4_bin;
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET SESSION sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',autocommit=1,innodb_lock_wait_timeout=1,lock_wait_timeout=1/*M!,idle_transaction_timeout=3,check_constraint_checks=ON,in_predicate_conversion_threshold=0*/`

func (mysqlDialect) Name() string       { return "mysql" }
func (mysqlDialect) SingleWriter() bool { return false }

func (d mysqlDialect) Open(dsn string, call time.Duration) (*sql.DB, error) {
	cfg, err := mysqlConfig(dsn)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	if cfg.ReadTimeout == 0 {
		cfg.ReadTimeout = call
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = call
	}
	return openMySQL(cfg, sessionSetup+plainSession())
}

func (d mysqlDialect) OpenForMigration(dsn string) (*sql.DB, error) {
	cfg, err := mysqlConfig(dsn)
	if err != nil {
		return nil, err
	}
	cfg.ReadTimeout, cfg.WriteTimeout = 0, 0
	return openMySQL(cfg, "SET NAMES utf8mb4 COLLATE utf8mb4_bin; SET SESSION sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"+plainSession())
}

// mysqlConfig adds the parameters that this package relies on, whatever the DSN says.
func mysqlConfig(dsn string) (*mysql.Config, error) {
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		// The driver's words may hold a part of what it took for a host, such as the password.
		return nil, errors.New("it must be user:password@tcp(host:3306)/database, with parameters that the driver knows")
	}
	if cfg.DBName == "" {
		return nil, errors.New("it names no database")
	}
	cfg.MultiStatements = true
	cfg.InterpolateParams = true
	cfg.ClientFoundRows = false
	cfg.ParseTime = false
	// A primary that was demoted keeps its connections: one on which a write is refused
	// is of no use any more, and the next one leads to whoever is primary now.
	cfg.RejectReadOnly = true
	cfg.Logger = &mysql.NopLogger{}
	return cfg, nil
}

func openMySQL(cfg *mysql.Config, setup string) (*sql.DB, error) {
	base, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(&setupConnector{base, setup}), nil
}

// setupConnector runs the set-up on every new connection.
type setupConnector struct {
	driver.Connector
	setup string
}

func (c *setupConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	x, ok := conn.(driver.ExecerContext)
	if !ok {
		return nil, errors.Join(errors.New("the driver cannot run text"), conn.Close())
	}
	if _, err := x.ExecContext(ctx, c.setup, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("set up the connection: %w", err), conn.Close())
	}
	return conn, nil
}

func (mysqlDialect) Classify(err error) Failure {
	if err == nil {
		return NoFailure
	}
	if errors.Is(err, driver.ErrBadConn) {
		return NotSent
	}
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return OutcomeOff
	}
	switch e.Number {
	case 1062, // duplicate key
		4025, 3819, // CHECK, MariaDB and MySQL
		1242,       // a guard: rows are missing or have changed
		1690, 1264: // figures out of range
		return Violated
	case 1205:
		return WaitedOut
	case 1213, 1020: // deadlock, record changed
		return Contended
	case 1053, 1927, 4031, 1317, 1180, 1158, 1159, 1160, 1161: // shutdown, killed, idle, interrupted, commit failed, network
		return OutcomeOff
	}
	return Otherwise
}

func (mysqlDialect) AppendString(b []byte, s string) []byte { return appendMySQLString(b, s) }
func (mysqlDialect) AppendBytes(b []byte, p []byte) []byte {
	if len(p) <= 16 {
		return appendHex(b, p)
	}
	return appendMySQLBinary(b, p)
}
func (mysqlDialect) Begin() string              { return "START TRANSACTION" }
func (mysqlDialect) ForUpdate() string          { return " FOR UPDATE" }
func (mysqlDialect) SkipLocked() string         { return " FOR UPDATE SKIP LOCKED" }
func (mysqlDialect) ByPrimaryKey() string       { return " FORCE INDEX (PRIMARY)" }
func (mysqlDialect) ByIndex(name string) string { return " FORCE INDEX (" + name + ")" }
func (mysqlDialect) DeleteFrom(table, index string) string {
	return "DELETE " + table + " FROM " + table + " FORCE INDEX (" + index + ")"
}
func (mysqlDialect) OnConflict(string) string      { return " ON DUPLICATE KEY UPDATE " }
func (mysqlDialect) Inserted(column string) string { return "VALUES(" + column + ")" }

// Fence takes the named lock that belongs to the committer. Where an earlier
// connection of the committer still has it, that connection is ended first: once the
// lock is ours, nothing sent on the earlier one can commit any more.
func (mysqlDialect) Fence(ctx context.Context, conn *sql.Conn, name string) (int64, error) {
	// MySQL does not know MariaDB's limit on idle transactions. A limit on idle
	// connections serves: an idle committer finds out by its ping and connects again.
	var version string
	if err := conn.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return 0, err
	}
	if !strings.Contains(version, "MariaDB") {
		if _, err := conn.ExecContext(ctx, "SET SESSION wait_timeout=3"); err != nil {
			return 0, err
		}
	}
	for {
		var got, owner sql.NullInt64
		var step int64
		row := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0), IS_USED_LOCK(?), @@SESSION.auto_increment_increment", name, name)
		if err := row.Scan(&got, &owner, &step); err != nil {
			return 0, err
		}
		if got.Int64 == 1 {
			return step, nil
		}
		if owner.Valid {
			// Gone in between is as good as killed.
			var gone *mysql.MySQLError
			if _, err := conn.ExecContext(ctx, fmt.Sprintf("KILL CONNECTION %d", owner.Int64)); err != nil && !errors.As(err, &gone) {
				return 0, err
			}
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Exec sends the whole script as one packet.
func (mysqlDialect) Exec(ctx context.Context, conn *sql.Conn, s *Script) error {
	return conn.Raw(func(dc any) error {
		x, ok := dc.(driver.ExecerContext)
		if !ok {
			return errors.New("the driver cannot run text")
		}
		res, err := x.ExecContext(ctx, string(s.Text), nil)
		if err != nil {
			return err
		}
		r, ok := res.(mysql.Result)
		if !ok {
			return nil
		}
		ids := r.AllLastInsertIds()
		for i, m := range s.expects {
			if m.what == OutboxInsert && i < len(ids) {
				s.FirstOutboxID = ids[i]
			}
		}
		return nil
	})
}

// Settings refuses a server whose configuration would break a promise.
func (mysqlDialect) Settings(ctx context.Context, conn *sql.Conn) error {
	var version, mode, readOnly, bent string
	var flush, binlog, syncBinlog int
	err := conn.QueryRowContext(ctx, `SELECT VERSION(), @@SESSION.sql_mode, @@GLOBAL.read_only,
		@@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.log_bin, @@GLOBAL.sync_binlog, `+BentSession()).
		Scan(&version, &mode, &readOnly, &flush, &binlog, &syncBinlog, &bent)
	if err != nil {
		return err
	}
	if on, err := galera(ctx, conn); err != nil {
		return err
	} else if on {
		return &ProofError{"wsrep_on is ON: a Galera cluster may lose updates of concurrent transactions though all its nodes are well; use one writable primary with replicas"}
	}
	switch {
	case flush != 1:
		return &ProofError{fmt.Sprintf("innodb_flush_log_at_trx_commit is %d and must be 1: a reserved order must survive a power cut", flush)}
	case binlog == 1 && syncBinlog != 1:
		return &ProofError{fmt.Sprintf("sync_binlog is %d and must be 1 while log_bin is on: recovery rolls back what the binary log lacks", syncBinlog)}
	case !strings.Contains(mode, "STRICT_ALL_TABLES"):
		return &ProofError{"sql_mode is not strict: values out of range would be cut instead of refused"}
	case bent != "":
		return &ProofError{"these settings of a session keep another value than the one that was set: " + bent + "; is there a proxy in between?"}
	case readOnly != "0" && readOnly != "OFF":
		// A replica may be promoted while we wait, so this is not final.
		return fmt.Errorf("%s is read_only: is it a replica?", version)
	}
	return nil
}

// galera reports whether the server is a node of a Galera cluster. Jepsen's analysis of
// MariaDB Galera Cluster 12.1.2 (March 2026) found lost updates and stale reads in healthy
// ones.
func galera(ctx context.Context, conn *sql.Conn) (bool, error) {
	var name, value string
	err := conn.QueryRowContext(ctx, "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'").Scan(&name, &value)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil // a server that was built without
	}
	return strings.EqualFold(value, "ON") || value == "1", err
}

// IsMissingTable reports whether a statement failed because a table is not there.
func IsMissingTable(err error) bool {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number == 1146
	}
	return isSQLiteMissingTable(err)
}

// AddSold adds units by upsert, which locks exactly the rows it names. A SKU whose
// rules have changed since is refused by the CHECK. A row that did not exist would be
// inserted: the guard behind notices, because an insert counts one row and an update
// two, and fails by a subquery of two rows, before the COMMIT.
func (d mysqlDialect) AddSold(s *Script, rows []SoldUnits) {
	s.Raw("INSERT INTO stock (sku,segment,total,reserved,sold,sku_version) VALUES ")
	for i, r := range rows {
		s.Row(i, r.SKU, r.Segment, r.Units, 0, r.Units, r.Version)
	}
	s.Raw(" ON DUPLICATE KEY UPDATE sold=IF(sku_version=VALUES(sku_version),sold+VALUES(sold),-1)")
	d.EndExactly(s, 2*len(rows))
}

// mysqlClock is UTC, because local time is ambiguous for an hour every autumn. Such a
// function keeps the time at which its statement began.
const mysqlClock = "TIMESTAMPDIFF(MICROSECOND,'1970-01-01',UTC_TIMESTAMP(6))"

func (mysqlDialect) Clock() string { return "SELECT " + mysqlClock }

func (mysqlDialect) OpenBefore(s *Script, closes int64) {
	s.Raw("SET @flashgate_open=IF(" + mysqlClock + "<")
	s.Int(closes * 1000)
	s.Raw(",1,(SELECT 1 UNION SELECT 2))")
	s.End()
}

// NearClock looks at the clock as of the statement's beginning.
func (mysqlDialect) NearClock(s *Script, at, within int64) {
	s.Raw("SET @flashgate_clock=IF(ABS(" + mysqlClock + "-")
	s.Int(at * 1000)
	s.Raw(")<=")
	s.Int(within * 1000)
	s.Raw(",1,(SELECT 1 UNION SELECT 2))")
	s.End()
}

func (mysqlDialect) Holds(s *Script, table string, id sale.OrderID) {
	s.Raw("SELECT COUNT(*) INTO @flashgate FROM " + table + " WHERE order_id=")
	s.Bytes(id[:])
	endHeld(s)
}

// endHeld ends a SELECT COUNT(*) INTO @flashgate of one row: it locks the row, and fails
// where there is none.
func endHeld(s *Script) {
	s.Raw(" LOCK IN SHARE MODE")
	s.End()
	endGuard(s, "@flashgate=1")
}

// endGuard fails as violated unless the condition holds, by a subquery of two rows.
func endGuard(s *Script, condition string) {
	s.Raw("SET @flashgate=IF(" + condition + ",0,(SELECT 1 UNION ALL SELECT 2))")
	s.End()
}

// SetStock gives locked rows their new figures.
func (d mysqlDialect) SetStock(s *Script, rows []LockedStock) {
	s.Raw("INSERT INTO stock (sku,segment,total,reserved,sold,sku_version) VALUES ")
	for i, r := range rows {
		s.Row(i, r.SKU, r.Segment, r.Total, r.Reserved, r.Sold, 0)
	}
	s.Raw(" ON DUPLICATE KEY UPDATE total=VALUES(total),sold=VALUES(sold)")
	d.EndExactly(s, 2*len(rows))
}

// Query sends the script as one packet and hands each result set to its reader.
func (mysqlDialect) Query(ctx context.Context, conn *sql.Conn, s *Script, read ...func(*sql.Rows) error) error {
	rows, err := conn.QueryContext(ctx, string(s.Text))
	if err != nil {
		return err
	}
	for i, fn := range read {
		if i > 0 && !rows.NextResultSet() {
			return CloseRows(rows, errors.New("a result set is missing"))
		}
		for rows.Next() {
			if err := fn(rows); err != nil {
				return CloseRows(rows, err)
			}
		}
		if err := rows.Err(); err != nil {
			return CloseRows(rows, err)
		}
	}
	return CloseRows(rows, nil)
}

func (mysqlDialect) EndExactly(s *Script, rows int) {
	s.End()
	endGuard(s, fmt.Sprintf("ROW_COUNT()=%d", rows))
}

func (mysqlDialect) Lease(s *Script, name string, token int64) {
	s.Raw("SELECT COUNT(*) INTO @flashgate FROM job_leases WHERE name=")
	s.Str(name)
	s.Raw(" AND token=")
	s.Int(token)
	endHeld(s)
}

// Snapshot begins a transaction that sees one state of everything.
func (mysqlDialect) Snapshot() []string {
	return []string{"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"}
}
