package ledger

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// buyersChunk is how many orders of a SKU are counted, and how many buyers written or
// deleted, in one transaction. Buyers wait for it where it is done under the locks of a
// sale; fewer make the counting of many orders slow.
const buyersChunk = 2000

// limitBegins reports whether a limit is the SKU's first, or takes its limit away. One
// that only moves needs nothing: every purchase writes its own.
func limitBegins(before *sale.SKU, limit int64) bool {
	return before.Version > 0 && (before.PerUserLimit > 0) != (limit > 0)
}

// fewOrders reports whether the SKU has so few orders, and so buyers, that a change of
// its limit can be carried out at once.
func (db *DB) fewOrders(ctx context.Context, conn *sql.Conn, sku string) (bool, error) {
	var n int
	of := db.ordersOf(sku)
	err := conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1"+of+" LIMIT ?) AS few", db.buyersChunk+1).Scan(&n)
	return n <= db.buyersChunk, err
}

// lockBuyers prepares a change that is going to touch the buyers' rows, and reports
// whether they are few. It locks the work on them, and deletes rows that would have to
// wait for purchases once the stock is locked.
func (db *DB) lockBuyers(ctx context.Context, conn *sql.Conn, c *skuChange, before *sale.SKU) (few bool, err error) {
	if c.counted != 0 {
		return false, db.takeCounted(ctx, conn, c)
	}
	if c.limit == nil || !limitBegins(before, *c.limit) {
		return false, nil
	}
	if _, err := conn.ExecContext(ctx, "UPDATE buyer_work SET steps = steps + 1 WHERE sku = ?", c.name); err != nil {
		return false, err
	}
	few, err = db.fewOrders(ctx, conn, c.name)
	if err == nil && few && *c.limit == 0 {
		err = db.deleteBuyers(ctx, conn, c.name)
	}
	return few, err
}

// writeBuyers makes the buyers' rows agree with a limit that is the SKU's first, or was
// its last. It runs while the stock rows are locked: no order can be committed meanwhile,
// and those committed before are seen. Where there are many orders, it only asks for the
// work: the rows of a limit that is gone are deleted while the sale goes on, and until
// the orders are counted for a new one nobody can buy (after.Counting).
func (db *DB) writeBuyers(ctx context.Context, conn *sql.Conn, after *sale.SKU, few bool) error {
	if !few {
		return db.askForBuyerWork(ctx, conn, after)
	}
	// Without a limit nobody keeps rows: those that are there are of former limits.
	if err := db.deleteBuyers(ctx, conn, after.Name); err != nil {
		return err
	}
	if after.PerUserLimit > 0 {
		units, err := db.liveUnits(ctx, conn, after.Name)
		if err != nil {
			return err
		}
		if err := db.insertBuyers(ctx, conn, after, units); err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, "DELETE FROM buyer_work WHERE sku = ?", after.Name)
	return err
}

// deleteBuyers deletes the rows of the SKU that are committed, by their keys: a delete by
// range would wait for purchases that are under way, which wait for the stock rows.
func (db *DB) deleteBuyers(ctx context.Context, conn *sql.Conn, sku string) error {
	for {
		users, err := db.someBuyers(ctx, conn, sku, db.buyersChunk)
		if err != nil || len(users) == 0 {
			return err
		}
		s := dialect.NewScript(db.dialect)
		appendDeleteBuyers(s, sku, users)
		if err := db.dialect.Exec(ctx, conn, s); err != nil {
			return err
		}
	}
}

func appendDeleteBuyers(s *dialect.Script, sku string, users []string) {
	s.Raw("DELETE FROM buyers WHERE sku = ")
	s.Str(sku)
	s.Raw(" AND user_id IN (")
	s.Strs(users)
	s.Raw(")")
	s.End()
}

func (db *DB) someBuyers(ctx context.Context, conn *sql.Conn, sku string, most int) ([]string, error) {
	rows, err := conn.QueryContext(ctx, "SELECT user_id FROM buyers WHERE sku = ? ORDER BY user_id LIMIT ?", sku, most)
	return scanAll(rows, err, scanName)
}

// liveUnits is what each buyer's live orders of the SKU hold.
func (db *DB) liveUnits(ctx context.Context, conn *sql.Conn, sku string) (map[string]int64, error) {
	of := db.ordersOf(sku)
	rows, err := conn.QueryContext(ctx, "SELECT user_id, quantity"+of+" AND status IN "+live)
	return addUp(rows, err)
}

// addUp reads rows of a user and a figure, and adds those of each.
func addUp(rows dialect.ResultSet, err error) (map[string]int64, error) {
	figures := make(map[string]int64)
	return figures, each(rows, err, func(r scanner) error {
		var user string
		var n int64
		err := r.Scan(&user, &n)
		figures[user] += n
		return err
	})
}

// insertBuyers writes what every buyer holds. Who holds more than the limit keeps it,
// and can buy no more.
func (db *DB) insertBuyers(ctx context.Context, conn *sql.Conn, sku *sale.SKU, units map[string]int64) error {
	buyers := make([]buyerUnits, 0, len(units))
	for _, user := range slices.Sorted(maps.Keys(units)) {
		buyers = append(buyers, buyerUnits{sku.Name, user, units[user], max(sku.PerUserLimit, units[user])})
	}
	for chunk := range slices.Chunk(buyers, buyersChunk) {
		s := dialect.NewScript(db.dialect)
		appendUpsertBuyers(s, chunk, "")
		if _, err := conn.ExecContext(ctx, string(s.Text)); err != nil {
			return err
		}
	}
	return nil
}
