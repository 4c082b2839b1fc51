package ledger

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	"flashgate/sale"
)

// buyersChunk is how many buyers one statement writes.
const buyersChunk = 2000

// writeBuyers makes the buyers' rows agree with a changed limit. It runs while the
// stock rows are locked: no order can be committed meanwhile, and those committed
// before are seen. A limit that only moves needs nothing: every purchase writes its
// own.
func (db *DB) writeBuyers(ctx context.Context, conn *sql.Conn, before, after *sale.SKU) error {
	switch {
	case before.PerUserLimit > 0 && after.PerUserLimit == 0:
		// Rows that purchases made since the first look would be wrong soon: without a
		// limit nobody keeps them.
		return db.deleteBuyers(ctx, conn, after.Name)
	case before.PerUserLimit == 0 && after.PerUserLimit > 0 && before.Version > 0:
		units, err := liveUnits(ctx, conn, after.Name)
		if err != nil {
			return err
		}
		return db.insertBuyers(ctx, conn, after, units)
	}
	return nil
}

// deleteBuyers deletes the rows of the SKU that are committed, by their keys: a delete by
// range would wait for purchases that are under way, which wait for the stock rows.
func (db *DB) deleteBuyers(ctx context.Context, conn *sql.Conn, sku string) error {
	for {
		users, err := someBuyers(ctx, conn, sku)
		if err != nil || len(users) == 0 {
			return err
		}
		s := newScript(db.dialect)
		s.raw("DELETE FROM buyers WHERE sku = ")
		s.str(sku)
		s.raw(" AND user_id IN (")
		s.strs(users)
		s.raw(")")
		if _, err := conn.ExecContext(ctx, string(s.text)); err != nil {
			return err
		}
	}
}

func someBuyers(ctx context.Context, conn *sql.Conn, sku string) ([]string, error) {
	rows, err := conn.QueryContext(ctx, "SELECT user_id FROM buyers WHERE sku = ? ORDER BY user_id LIMIT ?", sku, buyersChunk)
	if err != nil {
		return nil, err
	}
	var users []string
	for rows.Next() {
		var user string
		if err = rows.Scan(&user); err != nil {
			break
		}
		users = append(users, user)
	}
	return users, closeRows(rows, err)
}

// liveUnits is what each buyer's live orders of the SKU hold.
func liveUnits(ctx context.Context, conn *sql.Conn, sku string) (map[string]int64, error) {
	rows, err := conn.QueryContext(ctx, "SELECT user_id, quantity FROM orders WHERE sku = ? AND status IN "+live, sku)
	if err != nil {
		return nil, err
	}
	units := make(map[string]int64)
	for rows.Next() {
		var user string
		var n int64
		if err = rows.Scan(&user, &n); err != nil {
			break
		}
		units[user] += n
	}
	return units, closeRows(rows, err)
}

// insertBuyers writes what every buyer holds. Who holds more than the limit keeps it,
// and can buy no more.
func (db *DB) insertBuyers(ctx context.Context, conn *sql.Conn, sku *sale.SKU, units map[string]int64) error {
	buyers := make([]buyerUnits, 0, len(units))
	for _, user := range slices.Sorted(maps.Keys(units)) {
		buyers = append(buyers, buyerUnits{sku.Name, user, units[user], max(sku.PerUserLimit, units[user])})
	}
	for chunk := range slices.Chunk(buyers, buyersChunk) {
		s := newScript(db.dialect)
		appendUpsertBuyers(s, chunk, "")
		if _, err := conn.ExecContext(ctx, string(s.text)); err != nil {
			return err
		}
	}
	return nil
}
