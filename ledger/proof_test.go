package ledger

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// refused runs a ledger that has to end by itself, with a line that holds the text.
func (b *bed) refused(text string) {
	b.t.Helper()
	db := b.new()
	err := db.Run(b.t.Context())
	if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		b.t.Errorf("Run: %v; want one line with %q", err, text)
	}
	if db.Ready() {
		b.t.Error("ready in spite of it")
	}
}

// A node of a Galera cluster is refused, though every constraint bites there.
func TestProofRefusesGalera(t *testing.T) {
	needServers(t)
	providers, err := filepath.Glob("/usr/lib/galera*/libgalera_smm.so")
	if err != nil || len(providers) == 0 {
		t.Fatalf("Debian's mariadb-server brings the provider along: %v", err)
	}
	port := testenv.Port(t)
	node := testenv.OwnMariaDB(t, "--wsrep-on=ON", "--wsrep-provider="+providers[0], "--wsrep-cluster-address=gcomm://",
		"--wsrep-sst-method=rsync", "--wsrep-node-address=127.0.0.1", "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2",
		fmt.Sprintf("--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:%d", port))
	b := newBed(t, Config{Driver: "mysql", DSN: node.DSN})
	b.refused("wsrep_on is ON")
}

func TestProofNeedsEachConstraint(t *testing.T) {
	breaks := map[string]map[string][]string{
		"mysql": {
			"CHECK on stock":               {"ALTER TABLE stock DROP CONSTRAINT stock_bounds"},
			"sell what is reserved":        {"ALTER TABLE stock DROP CONSTRAINT stock_bounds", "ALTER TABLE stock ADD CONSTRAINT stock_bounds CHECK (sold >= 0 AND sold <= total)"},
			"CHECK on buyers":              {"ALTER TABLE buyers DROP CONSTRAINT buyers_bounds"},
			"one row per order id":         {"ALTER TABLE orders DROP PRIMARY KEY"},
			"one row per SKU and segment":  {"ALTER TABLE stock DROP PRIMARY KEY"},
			"one row per SKU and user":     {"ALTER TABLE buyers DROP PRIMARY KEY"},
			"doesn't have a default value": {"ALTER TABLE stock ADD COLUMN more INT NOT NULL"},
			"run flashgate migrate":        {"DELETE FROM goose_db_version WHERE version_id > 0"},
			"version 0, this program need": {"DROP TABLE goose_db_version"},
		},
		"sqlite": {
			"CHECK on stock":        {"DROP TABLE stock", "CREATE TABLE stock (sku TEXT, segment INTEGER, total INTEGER, reserved INTEGER, sold INTEGER, sku_version INTEGER, raises INTEGER DEFAULT 0, PRIMARY KEY (sku, segment)) STRICT"},
			"one row per order id":  {"ALTER TABLE orders RENAME TO o2", "CREATE TABLE orders AS SELECT * FROM o2"},
			"run flashgate migrate": {"DROP TABLE goose_db_version"},
		},
	}
	onEach(t, func(t *testing.T, b *bed) {
		for want, changes := range breaks[b.cfg.Driver] {
			t.Run(want, func(t *testing.T) {
				b := b
				if b.cfg.Driver == "sqlite" {
					b = sqliteBed(t)
				} else {
					b = mariaBed(t)
				}
				for _, q := range changes {
					b.exec(q)
				}
				b.refused(want)
			})
		}
	})
}

func TestProofLeavesNothingBehind(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		b.open()
		for _, table := range []string{"stock", "orders", "buyers"} {
			if n := b.number("SELECT COUNT(*) FROM " + table); n != 0 {
				t.Errorf("%d rows in %s", n, table)
			}
		}
	})
}

func TestProofOfSettings(t *testing.T) {
	needServers(t)
	for want, extra := range map[string][]string{
		"innodb_flush_log_at_trx_commit is 2": {"--innodb-flush-log-at-trx-commit=2"},
		"sync_binlog is 0":                    {"--log-bin=binlog", "--sync-binlog=0"},
	} {
		t.Run(want, func(t *testing.T) {
			server := testenv.OwnMariaDB(t, extra...)
			newBed(t, Config{Driver: "mysql", DSN: server.DSN}).refused(want)
		})
	}
}

func TestReadOnlyServerIsWaitedFor(t *testing.T) {
	needServers(t)
	server := testenv.OwnMariaDB(t)
	b := newBed(t, Config{Driver: "mysql", DSN: server.DSN})
	b.exec("SET GLOBAL read_only = 1")
	db := b.new()
	done := make(chan error, 1)
	ctx, cancel := testContext(t)
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	go func() { done <- db.Run(ctx) }()
	testenv.Eventually(t, func() bool { return db.Err() != nil }, "the replica is noticed")
	if db.Ready() {
		t.Error("ready on a replica")
	}
	b.exec("SET GLOBAL read_only = 0")
	testenv.Eventually(t, db.Ready, "the promoted server is used")
}

func TestMigrateAgainAndTogether(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		errs := make(chan error, 4)
		for range cap(errs) {
			go func() { errs <- Migrate(t.Context(), b.cfg) }()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		b.open()
	})
}

func TestNewRefuses(t *testing.T) {
	good := sqliteBed(t).cfg
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"neither mysql nor sqlite", func(c *Config) { c.Driver = "postgres" }},
		{"names no database", func(c *Config) { c.Driver, c.DSN = "mysql", "root@tcp(127.0.0.1:3306)/" }},
		{"path of a file", func(c *Config) { c.DSN = ":memory:" }},
		{"MaxGroup", func(c *Config) { c.MaxGroup = 0 }},
		{"Committers", func(c *Config) { c.Committers = -1 }},
		{"RetryFor", func(c *Config) { c.RetryFor = 0 }},
		{"CatalogSize", func(c *Config) { c.CatalogSize = 0 }},
		{"Encode", func(c *Config) { c.Encode = nil }},
		{"Logger", func(c *Config) { c.Logger = nil }},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New: %v; want %q", err, c.want)
		}
	}
}

func TestSQLiteFileWithOddName(t *testing.T) {
	b := newBed(t, Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "my ledger #1%.db")})
	db := b.open()
	sku := b.sku("shoe", 1, 0)
	r, err := db.Commit(t.Context(), direct(sku, claims(sku, "u", 2)...))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, false, "reserved", "sold_out")
}

// TestRunEndedBeforeTheDatabaseWasThere must not leave a ledger that says it is ready.
func TestRunEndedBeforeTheDatabaseWasThere(t *testing.T) {
	db := sqliteBed(t).new(func(c *Config) { c.Driver, c.DSN = "mysql", "root@tcp(127.0.0.1:1)/x" })
	ctx, cancel := testContext(t)
	cancel()
	if err := db.Run(ctx); err != nil || db.Ready() {
		t.Errorf("Run: %v, ready %v", err, db.Ready())
	}
	if _, err := db.Commit(t.Context(), sale.CommitBatch{SKU: &sale.SKU{Name: "s"}}); !errors.Is(err, sale.ErrUnavailable) {
		t.Errorf("Commit: %v", err)
	}
}
