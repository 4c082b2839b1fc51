package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/ledger/dialect"
	"flashgate/sale"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// bed is a fresh, migrated database for one test.
type bed struct {
	t       testing.TB
	cfg     Config
	dialect dialect.Dialect
	raw     *sql.DB // goes around everything under test
}

// onEach runs the test on every database that is supported.
func onEach(t *testing.T, fn func(t *testing.T, b *bed)) {
	t.Run("sqlite", func(t *testing.T) { fn(t, sqliteBed(t)) })
	t.Run("mariadb", func(t *testing.T) { fn(t, mariaBed(t)) })
}

func sqliteBed(t testing.TB) *bed {
	return newBed(t, Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "ledger.db")})
}

func mariaBed(t testing.TB) *bed {
	needServers(t)
	return newBed(t, Config{Driver: "mysql", DSN: testenv.MariaDB(t).DSN})
}

func needServers(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
}

func newBed(t testing.TB, cfg Config) *bed {
	t.Helper()
	cfg.MaxGroup, cfg.Committers, cfg.CatalogSize = 1024, 2, 10_000
	cfg.Encode, cfg.Logger = encodeForTest, slog.New(slog.DiscardHandler)
	if os.Getenv("LEDGER_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	// On a busy machine everything takes its time, which must not look like a failure.
	cfg.RetryFor = testenv.Patience
	if cfg.Driver == "mysql" {
		cfg.DSN += fmt.Sprintf("?timeout=%[1]v&readTimeout=%[1]v&writeTimeout=%[1]v", testenv.Patience)
		// What a server may be configured to do to every session: nothing of it may matter.
		cfg.DSN += "&autocommit=0&completion_type=1&sql_select_limit=1&sql_safe_updates=1&unique_checks=0&foreign_key_checks=0" +
			"&sql_auto_is_null=1&sql_mode=%27%27&time_zone=%27-07:00%27&tx_isolation=%27REPEATABLE-READ%27&tx_read_only=1"
	}
	if err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	d, err := dialect.Of(cfg.Driver)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := d.Open(cfg.DSN, callTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	return &bed{t: t, cfg: cfg, dialect: d, raw: raw}
}

// encodeForTest makes one JSON array of the orders.
func encodeForTest(_ sale.Kind, orders []sale.Order) []byte {
	b := []byte{'['}
	for i := range orders {
		if i > 0 {
			b = append(b, ',')
		}
		b = orders[i].AppendJSON(b)
	}
	return append(b, ']')
}

// open makes a ledger on the bed's database and runs it until the test ends.
func (b *bed) open(change ...func(*Config)) *DB {
	b.t.Helper()
	db := b.new(change...)
	b.run(db)
	return db
}

// new makes a ledger with limits that a busy machine does not reach.
func (b *bed) new(change ...func(*Config)) *DB {
	b.t.Helper()
	cfg := b.cfg
	for _, fn := range change {
		fn(&cfg)
	}
	db, err := New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	db.times = times{call: testenv.Patience, connect: testenv.Patience, connLifetime: time.Hour, outboxAge: time.Hour, look: lookPeriod}
	return db
}

// run runs the ledger until the test ends.
func (b *bed) run(db *DB) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var runErr error
	wg.Go(func() { runErr = db.Run(ctx) })
	b.t.Cleanup(func() {
		cancel()
		wg.Wait()
		if runErr != nil {
			b.t.Errorf("Run: %v", runErr)
		}
	})
	testenv.Eventually(b.t, db.Ready, "the ledger is ready")
}

// exec runs SQL around the ledger, again where others' locks were in its way.
func (b *bed) exec(query string, args ...any) {
	b.t.Helper()
	testenv.Eventually(b.t, func() bool {
		_, err := b.raw.ExecContext(context.Background(), query, args...)
		switch b.dialect.Classify(err) {
		case dialect.NoFailure, dialect.Contended, dialect.WaitedOut:
		default:
			b.t.Fatalf("%s: %v", query, err)
		}
		return err == nil
	}, "%s", query)
}

// session is a connection around the ledger, on which a transaction may stay open for
// as long as a busy machine needs.
type session struct {
	t    testing.TB
	conn *sql.Conn
}

func (b *bed) session() *session {
	b.t.Helper()
	conn, err := b.raw.Conn(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	s := &session{b.t, conn}
	if b.cfg.Driver == "mysql" {
		s.exec("SET SESSION idle_transaction_timeout=0")
	}
	return s
}

func (s *session) exec(queries ...string) {
	s.t.Helper()
	for _, q := range queries {
		if _, err := s.conn.ExecContext(context.Background(), q); err != nil {
			s.t.Fatalf("%s: %v", q, err)
		}
	}
}

// lockStock begins somebody else's transaction, which holds the SKU's stock rows.
func (b *bed) lockStock(sku string) *session {
	b.t.Helper()
	s := b.session()
	s.exec("START TRANSACTION", "SELECT sold FROM stock WHERE sku = '"+sku+"' FOR UPDATE")
	return s
}

// executing waits until the server executes a statement that holds the text, and
// returns the connection's id there.
func (b *bed) executing(text string) (id int64) {
	b.t.Helper()
	testenv.Eventually(b.t, func() bool {
		id = b.number("SELECT MIN(id) FROM information_schema.processlist WHERE info LIKE ? AND id <> CONNECTION_ID() AND db = DATABASE()", "%"+text+"%")
		return id != 0
	}, "the server executes %s", text)
	return id
}

// disturbed waits until what a proxy was set to do has happened.
func disturbed(t testing.TB, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(testenv.Patience):
		t.Fatal("no connection was disturbed")
	}
}

// number reads one figure around the ledger.
func (b *bed) number(query string, args ...any) int64 {
	b.t.Helper()
	var n sql.NullInt64
	if err := b.raw.QueryRowContext(context.Background(), query, args...).Scan(&n); err != nil {
		b.t.Fatalf("%s: %v", query, err)
	}
	return n.Int64
}

// sku puts a SKU with the given units, evenly over its segments.
func (b *bed) sku(name string, units, limit int64, change ...func(*sale.SKU)) *sale.SKU {
	b.t.Helper()
	s := &sale.SKU{
		Name: name, Title: "Thing " + name, UnitPrice: 1999, Currency: "EUR", PerUserLimit: limit,
		PayWithin: 900_000, State: sale.StateOpen, Heat: sale.HeatAuto, Segments: 1, Version: 1, ChangedAt: 1,
	}
	for _, fn := range change {
		fn(s)
	}
	b.exec(`INSERT INTO skus (sku, title, unit_price, currency, per_user_limit, opens_at, closes_at, pay_within_ms, state, heat, segments, version, changed_at)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)`, s.Name, s.Title, s.UnitPrice, s.Currency, s.PerUserLimit, s.OpensAt, s.ClosesAt,
		s.PayWithin, s.State.String(), s.Heat.String(), s.Segments, s.Version, s.ChangedAt)
	for seg := range s.Segments {
		b.exec("INSERT INTO stock (sku, segment, total, reserved, sold, sku_version) VALUES (?,?,?,0,0,?)",
			s.Name, seg, units/int64(s.Segments), s.Version)
	}
	return s
}

// claim makes a buyer's claim; the key tells claims of one buyer apart.
func claim(sku *sale.SKU, user, key string, quantity int64) *sale.Claim {
	return &sale.Claim{
		ID: sale.DeriveOrderID(sku.Name, user, key), SKU: sku.Name, User: user, Quantity: quantity,
		Hash: sale.HashRequest(quantity, ""), Keyed: true,
	}
}

// claims makes n claims of n buyers.
func claims(sku *sale.SKU, prefix string, n int) []*sale.Claim {
	out := make([]*sale.Claim, n)
	for i := range out {
		out[i] = claim(sku, fmt.Sprintf("%s-%d", prefix, i), "k", 1)
	}
	return out
}

// admitted is a batch as the shield passes it on, all from segment 0.
func admitted(sku *sale.SKU, claims ...*sale.Claim) sale.CommitBatch {
	return sale.CommitBatch{SKU: sku, Claims: claims, Segments: make([]int, len(claims))}
}

// direct is a batch that came around the shield.
func direct(sku *sale.SKU, claims ...*sale.Claim) sale.CommitBatch {
	return sale.CommitBatch{SKU: sku, Claims: claims, LockFirst: true}
}

// outcomes returns the names of the verdicts.
func outcomes(r sale.CommitResult) []string {
	out := make([]string, len(r.Verdicts))
	for i, v := range r.Verdicts {
		out[i] = v.Outcome.String()
		if v.Err != nil {
			out[i] = "error"
		}
	}
	return out
}

// checkInvariants reads the whole database and fails on every broken promise.
func (b *bed) checkInvariants() {
	b.t.Helper()
	for what, query := range map[string]string{
		"stock rows whose sold is not the units of their live orders": `SELECT COUNT(*) FROM stock s WHERE s.sold <>
			(SELECT COALESCE(SUM(o.quantity),0) FROM orders o WHERE o.sku = s.sku AND o.segment = s.segment AND o.status IN ('reserved','paid'))`,
		"orders of stock rows that do not exist": `SELECT COUNT(*) FROM orders o WHERE NOT EXISTS (SELECT 1 FROM stock s WHERE s.sku = o.sku AND s.segment = o.segment)`,
		"oversold stock rows":                    `SELECT COUNT(*) FROM stock WHERE sold > total - reserved OR sold < 0`,
		"buyers whose units are not those of their live orders": `SELECT COUNT(*) FROM buyers b WHERE b.units <>
			(SELECT COALESCE(SUM(o.quantity),0) FROM orders o WHERE o.sku = b.sku AND o.user_id = b.user_id AND o.status IN ('reserved','paid'))`,
		"live orders of limited SKUs without a buyer row": `SELECT COUNT(*) FROM orders o JOIN skus k ON k.sku = o.sku WHERE k.per_user_limit > 0
			AND o.status IN ('reserved','paid') AND NOT EXISTS (SELECT 1 FROM buyers b WHERE b.sku = o.sku AND b.user_id = o.user_id)`,
		"units the log cannot explain": `SELECT COUNT(*) FROM stock s WHERE s.sold <> -COALESCE((SELECT SUM(l.delta) FROM inventory_log l WHERE l.sku = s.sku AND l.segment = s.segment AND l.reason <> 'operator'),0)`,
	} {
		if n := b.number(query); n != 0 {
			b.t.Errorf("%d %s", n, what)
		}
	}
	due := b.number("SELECT COALESCE(SUM(LENGTH(ids)),0) FROM due")
	if orders := b.number("SELECT COUNT(*) FROM orders"); due != 16*orders {
		b.t.Errorf("due lists name %d orders, there are %d", due/16, orders)
	}
}
