package ledger

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// occupy takes every connection of a pool until the test ends.
func occupy(t *testing.T, pool *sql.DB) {
	t.Helper()
	for range pool.Stats().MaxOpenConnections - pool.Stats().InUse {
		conn, err := pool.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

// uses are one call of each kind, by the pool that it needs.
var uses = map[string]func(ctx context.Context, db *DB, sku *sale.SKU, id sale.OrderID) error{
	"lookups": func(ctx context.Context, db *DB, sku *sale.SKU, id sale.OrderID) error {
		_, err := db.Find(ctx, []sale.OrderID{id})
		_, _, other := db.FindExhausted(ctx, sku.Name, []sale.OrderID{id})
		return errors.Join(err, other)
	},
	"edge": func(ctx context.Context, db *DB, sku *sale.SKU, id sale.OrderID) error {
		_, err := db.Order(ctx, id)
		_, stock := db.Stock(ctx, sku.Name)
		_, cancel := db.Cancel(ctx, id, "nobody")
		if errors.Is(err, sale.ErrUnknownOrder) && errors.Is(cancel, sale.ErrUnknownOrder) {
			return stock
		}
		return errors.Join(err, stock, cancel)
	},
	"control": func(ctx context.Context, db *DB, sku *sale.SKU, _ sale.OrderID) error {
		_, list := db.ListSKUs(ctx, "", 1)
		_, _, _, add := db.AddStock(ctx, sku.Name, 1, "")
		_, stock := db.Source().Stocks(ctx, []string{sku.Name})
		_, outbox := db.PendingOutbox(ctx, 0, 0, 1, nil)
		return errors.Join(list, add, stock, outbox, db.Expire(ctx, 0))
	},
	"leases": func(ctx context.Context, db *DB, _ *sale.SKU, _ sale.OrderID) error {
		_, _, err := db.Leases().Acquire(ctx, "j", "me", leaseMost)
		return err
	},
	"probe": func(ctx context.Context, db *DB, _ *sale.SKU, _ sale.OrderID) error { return db.Ping(ctx) },
}

func (p *pools) named(name string) *sql.DB {
	return map[string]*sql.DB{"lookups": p.lookups, "edge": p.edge, "control": p.control, "leases": p.leases, "probe": p.probe}[name]
}

// However many use the ledger for one thing, it serves the others; and that no connection
// was free for the one is this gateway's failure, not the ledger's.
func TestNoUseOfTheLedgerStarvesAnother(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		for crowded := range uses {
			t.Run(crowded, func(t *testing.T) {
				db := b.open()
				sku := b.sku("shoe-"+crowded, 10, 0)
				id := sale.DeriveOrderID(sku.Name, "nobody", "none")
				settleGroup(t, db, direct(sku, claim(sku, "ann", "1", 1))) // the committers have their connections
				occupy(t, db.pools.named(crowded))
				for name, use := range uses {
					if name == crowded {
						continue
					}
					ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
					if err := use(ctx, db, sku, id); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					cancel()
				}
				settleGroup(t, db, direct(sku, claim(sku, "bob", "1", 1)))
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				if err := uses[crowded](ctx, db, sku, id); !errors.Is(err, sale.ErrOverloaded) || !errors.Is(err, sale.ErrUnavailable) {
					t.Errorf("%s without a free connection: %v", crowded, err)
				}
				if err := db.Err(); err != nil {
					t.Errorf("the ledger is said to have failed: %v", err)
				}
			})
		}
	})
}

// A call that gives up behind others has met a failure of the ledger only where that
// accepted nothing meanwhile.
func TestGivenUpInTheGroupQueue(t *testing.T) {
	for _, accepted := range []bool{false, true} {
		db := sqliteBed(t).new() // nobody runs it: what is put in line stays there
		db.ready.Store(true)
		sku := &sale.SKU{Name: "shoe", Currency: "EUR", Segments: 1}
		ctx, cancel := context.WithCancel(t.Context())
		given := make(chan error, 1)
		go func() {
			_, err := db.Commit(ctx, direct(sku, claim(sku, "bob", "1", 1)))
			given <- err
		}()
		testenv.Eventually(t, func() bool {
			db.queue.mu.Lock()
			defer db.queue.mu.Unlock()
			return len(db.queue.waiting.calls) == 1
		}, "it is in line")
		if accepted {
			db.queue.commits.Add(1)
		}
		cancel()
		if err := <-given; !errors.Is(err, sale.ErrUnavailable) || errors.Is(err, sale.ErrOverloaded) != accepted {
			t.Errorf("others accepted meanwhile %t: %v", accepted, err)
		}
		if err := db.pools.close(); err != nil {
			t.Error(err)
		}
	}
}
