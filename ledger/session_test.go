package ledger

import (
	"database/sql"
	"errors"
	"strings"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/ledger/dialect"
)

// bentServer is a server whose operator limits every session, by global settings and, for a
// user without privileges, by init_connect; and a bed of that user's.
func bentServer(t *testing.T, bend ...string) *bed {
	t.Helper()
	server := testenv.OwnMariaDB(t)
	root, err := sql.Open("mysql", server.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	// One connection, which what is set afterwards does not bend.
	root.SetMaxOpenConns(1)
	for _, q := range append([]string{"CREATE USER shop", "GRANT ALL ON " + server.Database + ".* TO shop"}, bend...) {
		if _, err := root.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	return newBed(t, Config{Driver: "mysql", DSN: "shop@tcp(" + server.Addr + ")/" + server.Database})
}

// Whatever the server's operator set, every connection of every pool is as this package
// needs it, and counts right.
func TestABentServer(t *testing.T) {
	needServers(t)
	bends := map[string][]string{
		"globals": {
			"SET GLOBAL sql_select_limit=1, GLOBAL tx_read_only=1, GLOBAL max_statement_time=30, GLOBAL tx_isolation='SERIALIZABLE', GLOBAL time_zone='+05:00'",
			"SET GLOBAL sql_mode='ANSI,PIPES_AS_CONCAT', GLOBAL autocommit=0, GLOBAL completion_type='CHAIN', GLOBAL unique_checks=0, GLOBAL sql_safe_updates=1",
			"SET GLOBAL max_join_size=1, GLOBAL check_constraint_checks=0, GLOBAL innodb_lock_wait_timeout=100",
		},
		"init_connect": {
			`SET GLOBAL init_connect="SET SESSION sql_select_limit=1, sql_mode='', time_zone='-07:00', autocommit=0, max_statement_time=30, completion_type='RELEASE', sql_big_selects=0, max_join_size=1, check_constraint_checks=0; SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED, READ ONLY"`,
		},
	}
	for name, bend := range bends {
		t.Run(name, func(t *testing.T) {
			b := bentServer(t, bend...)
			db := b.open()
			for i, pool := range db.pools.all()[1:] { // the committers keep theirs
				conn, err := pool.Conn(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				var bent string
				if err := conn.QueryRowContext(t.Context(), "SELECT "+dialect.BentSession()).Scan(&bent); err != nil || bent != "" {
					t.Errorf("pool %d: %s, %v", i, bent, err)
				}
				if err := conn.Close(); err != nil {
					t.Error(err)
				}
			}
			err := db.unhurried(t.Context(), func(conn *sql.Conn) error {
				var limit, zone string
				if err := conn.QueryRowContext(t.Context(), "SELECT @@sql_select_limit, @@time_zone").Scan(&limit, &zone); err != nil {
					return err
				}
				if limit != "18446744073709551615" || zone != "+00:00" {
					t.Errorf("without a limit on time: sql_select_limit %s, time_zone %s", limit, zone)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			verdicts(t, b)
		})
	}
}

// Somebody between us and the server swallows what we set: it is said in one line.
func TestSettingsThatCannotBeSet(t *testing.T) {
	b := mariaBed(t)
	for bend, name := range map[string]string{
		"SET SESSION sql_select_limit=5":                             "sql_select_limit",
		"SET SESSION max_statement_time=1":                           "max_statement_time",
		"SET SESSION TRANSACTION READ ONLY":                          "tx_read_only",
		"SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ":    "tx_isolation",
		"SET SESSION time_zone='+01:00'":                             "time_zone",
		"SET SESSION completion_type='CHAIN'":                        "completion_type",
		"SET SESSION autocommit=0":                                   "autocommit",
		"SET SESSION unique_checks=0, sql_safe_updates=1":            "sql_safe_updates, unique_checks",
		"SET SESSION sql_big_selects=0, SESSION sql_auto_is_null=ON": "sql_big_selects, sql_auto_is_null",
	} {
		conn, err := b.raw.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.dialect.Settings(t.Context(), conn); err != nil {
			t.Errorf("as it was set up: %v", err)
		}
		if _, err := conn.ExecContext(t.Context(), bend); err != nil {
			t.Fatalf("%s: %v", bend, err)
		}
		var refused *dialect.ProofError
		if err := b.dialect.Settings(t.Context(), conn); !errors.As(err, &refused) || !strings.Contains(err.Error(), ": "+name+";") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", bend, err)
		}
		discard(conn)
		_ = conn.Close()
	}
}
