package ledger

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// A switchover makes the primary read-only and leaves its connections open: whoever
// keeps writing on them never reaches the new primary, and whoever reads on them does
// not see what it commits.
func TestPrimaryIsDemoted(t *testing.T) {
	needServers(t)
	old, next := testenv.OwnMariaDB(t), testenv.OwnMariaDB(t)
	before := demotionBed(t, old, old.Database)
	after := demotionBed(t, next, old.Database)
	sku := before.sku("shoe", 100, 1)
	after.sku("shoe", 100, 1)
	p := testenv.NewProxy(t, old.Addr)
	gateway := *before
	gateway.cfg.DSN = strings.Replace(strings.Replace(before.cfg.DSN, old.Addr, p.Addr, 1), "root@", "app:app@", 1)
	db := gateway.new(func(c *Config) { c.Committers = 1 })
	db.times.connLifetime = time.Second // which is waited for
	gateway.run(db)
	if _, err := db.Commit(t.Context(), admitted(sku, claims(sku, "a", 10)...)); err != nil {
		t.Fatal(err)
	}
	late := claims(sku, "b", 10)
	readBySeveral(t, db, late) // so that connections lie idle

	p.Retarget(next.Addr)
	before.exec("SET GLOBAL read_only = 1")
	testenv.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := db.Commit(ctx, admitted(sku, late...))
		return err == nil
	}, "the ledger commits on the new primary")
	if n := after.number("SELECT COUNT(*) FROM orders"); n != 10 {
		t.Errorf("%d orders on the new primary, want 10", n)
	}
	testenv.Eventually(t, func() bool { return readBySeveral(t, db, late) == len(late) }, "reads are of the new primary")
}

// readBySeveral looks the claims up on several connections at a time and returns the
// least that any of them found.
func readBySeveral(t *testing.T, db *DB, claims []*sale.Claim) int {
	ids := make([]sale.OrderID, len(claims))
	for i, c := range claims {
		ids[i] = c.ID
	}
	var readers sync.WaitGroup
	var mu sync.Mutex
	least := len(ids)
	for range 8 {
		readers.Go(func() {
			for range 20 {
				found, err := db.Find(t.Context(), ids)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				least = min(least, len(found))
				mu.Unlock()
			}
		})
	}
	readers.Wait()
	return least
}

// demotionBed is a bed in the server with a user who may not write to a replica.
func demotionBed(t *testing.T, s *testenv.MariaDBServer, database string) *bed {
	if s.Database != database {
		raw := newBed(t, Config{Driver: "mysql", DSN: s.DSN})
		raw.exec("CREATE DATABASE " + database)
	}
	b := newBed(t, Config{Driver: "mysql", DSN: strings.Replace(s.DSN, "/"+s.Database, "/"+database, 1)})
	b.exec("CREATE USER app@'%' IDENTIFIED BY 'app'")
	b.exec("GRANT SELECT, INSERT, UPDATE, DELETE ON " + database + ".* TO app@'%'")
	return b
}
