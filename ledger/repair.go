package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"flashgate/sale"
)

// Orders are the truth of which stock and buyers are sums. A sum that is wrong, because
// somebody wrote to the tables by hand or a constraint was off, can be computed anew;
// what a repair never does is change an order.

// repairPage is how many wrong rows are looked up at once.
const repairPage = 10_000

// beginLocking begins a transaction on a connection that the server ends soon after this
// process freezes. The caller throws the connection away.
func (db *DB) beginLocking(ctx context.Context, conn *sql.Conn) error {
	if !db.dialect.singleWriter() {
		if _, err := conn.ExecContext(ctx, "SET SESSION wait_timeout=3"); err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, db.dialect.begin())
	return err
}

// Repair computes anew the sums that disagree with the orders they are sums of, counts
// them and says so. Errors: as RepairStock's.
func (db *DB) Repair(ctx context.Context) error {
	var errs []error
	for table, repair := range map[string]func(context.Context) (sale.Repairs, error){
		"stock": db.RepairStock, "buyers": db.RepairBuyers,
	} {
		done, err := repair(ctx)
		errs = append(errs, err)
		db.metrics.repaired.WithLabelValues(table, "repaired").Add(float64(done.Repaired))
		db.metrics.repaired.WithLabelValues(table, "left").Add(float64(done.Left))
		if done != (sale.Repairs{}) {
			db.log.Warn("the ledger's sums disagreed with its orders", "table", table, "repaired", done.Repaired, "left", done.Left)
		}
	}
	return errors.Join(errs...)
}

// RepairStock sets sold to what live orders hold, wherever it differs from that and
// still does on a second look, under the lock that every purchase takes last. Rows
// whose live orders hold more than there is are left. It may run beside a sale, whose
// purchases of a wrong SKU wait for it. Errors wrap sale.ErrUnavailable; what was
// repaired before one is counted and stays.
func (db *DB) RepairStock(ctx context.Context) (sale.Repairs, error) {
	var done sale.Repairs
	after := stockKey{segment: -1}
	for {
		var wrong []stockKey
		err := db.listWrong(ctx, `SELECT s.sku, s.segment`+stockDiffers+` AND (s.sku > ? OR (s.sku = ? AND s.segment > ?)) ORDER BY s.sku, s.segment LIMIT ?`,
			[]any{after.sku, after.sku, after.segment, repairPage}, func(r scanner) error {
				var k stockKey
				err := r.Scan(&k.sku, &k.segment)
				wrong = append(wrong, k)
				return err
			})
		if err != nil || len(wrong) == 0 {
			return done, err
		}
		after = wrong[len(wrong)-1]
		for _, k := range wrong {
			if err := db.repairStock(ctx, k, &done); err != nil {
				return done, err
			}
		}
	}
}

// repairStock looks again at one row.
func (db *DB) repairStock(ctx context.Context, k stockKey, done *sale.Repairs) error {
	differed, fits := false, true
	err := db.insist(ctx, func(ctx context.Context, on *try) error {
		defer discard(on.conn)
		if err := db.beginLocking(ctx, on.conn); err != nil {
			return err
		}
		rows, err := db.lockStock(ctx, on.conn, k.sku)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(rows, func(r segmentStock) bool { return r.segment == k.segment })
		if i < 0 {
			return nil
		}
		var units int64
		err = on.conn.QueryRowContext(ctx, "SELECT COALESCE(SUM(quantity), 0) FROM orders WHERE sku = ? AND segment = ? AND status IN "+live, k.sku, k.segment).Scan(&units)
		if err != nil {
			return err
		}
		fits = units <= rows[i].Total-rows[i].Reserved
		if units == rows[i].Sold || !fits {
			return nil
		}
		on.sent, differed = true, true
		if _, err := on.conn.ExecContext(ctx, "UPDATE stock SET sold = ?, raises = raises + 1 WHERE sku = ? AND segment = ?", units, k.sku, k.segment); err != nil {
			return err
		}
		_, err = on.conn.ExecContext(ctx, "COMMIT")
		return err
	})
	switch {
	case err != nil:
		return err
	case !fits:
		done.Left++
	case differed:
		done.Repaired++
	}
	return nil
}

// RepairBuyers sets buyers' units to what their live orders hold, for SKUs that have a
// limit, wherever they differ and still do on a second look under locks. Who holds
// more than the limit keeps it and can buy no more. Else it is as RepairStock.
func (db *DB) RepairBuyers(ctx context.Context) (sale.Repairs, error) {
	type buyer struct{ sku, user string }
	var done sale.Repairs
	var after buyer
	for {
		var wrong []buyer
		err := db.listWrong(ctx, `SELECT u.sku, u.user_id`+buyersDiffer+` AND (u.sku > ? OR (u.sku = ? AND u.user_id > ?)) ORDER BY u.sku, u.user_id LIMIT ?`,
			[]any{after.sku, after.sku, after.user, repairPage}, func(r scanner) error {
				var b buyer
				err := r.Scan(&b.sku, &b.user)
				wrong = append(wrong, b)
				return err
			})
		if err != nil || len(wrong) == 0 {
			return done, err
		}
		after = wrong[len(wrong)-1]
		for len(wrong) > 0 {
			var users []string
			sku := wrong[0].sku
			for len(wrong) > 0 && wrong[0].sku == sku {
				users = append(users, wrong[0].user)
				wrong = wrong[1:]
			}
			n, err := db.repairBuyers(ctx, sku, users)
			done.Repaired += n
			if err != nil {
				return done, err
			}
		}
	}
}

// repairBuyers looks again at some buyers of one SKU, in key order.
func (db *DB) repairBuyers(ctx context.Context, sku string, users []string) (repaired int, err error) {
	err = db.insist(ctx, func(ctx context.Context, on *try) error {
		defer discard(on.conn)
		if err := db.beginLocking(ctx, on.conn); err != nil {
			return err
		}
		held, err := db.buyerFigures(ctx, on.conn, "SELECT user_id, units FROM buyers"+db.dialect.byPrimaryKey(), sku, users, " ORDER BY user_id"+db.dialect.forUpdate())
		if err != nil {
			return err
		}
		if _, err := db.lockStock(ctx, on.conn, sku); err != nil {
			return err
		}
		rules, err := scanSKU(on.conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?", sku))
		if errors.Is(err, sql.ErrNoRows) || (err == nil && rules.PerUserLimit == 0) {
			return nil
		}
		if err != nil {
			return err
		}
		units, err := db.buyerFigures(ctx, on.conn, "SELECT user_id, SUM(quantity) FROM orders", sku, users, " AND status IN "+live+" GROUP BY user_id")
		if err != nil {
			return err
		}
		wrong := make(map[string]int64)
		for _, user := range users {
			if n, ok := held[user]; n != units[user] || (!ok && units[user] > 0) {
				wrong[user] = units[user]
			}
		}
		if len(wrong) == 0 {
			return nil
		}
		on.sent, repaired = true, len(wrong)
		if err := db.insertBuyers(ctx, on.conn, rules, wrong); err != nil {
			return err
		}
		_, err = on.conn.ExecContext(ctx, "COMMIT")
		return err
	})
	if err != nil {
		return 0, err
	}
	return repaired, nil
}

// buyerFigures reads one figure per buyer of the SKU.
func (db *DB) buyerFigures(ctx context.Context, conn *sql.Conn, query, sku string, users []string, tail string) (map[string]int64, error) {
	s := newScript(db.dialect)
	s.raw(query + " WHERE sku = ")
	s.str(sku)
	s.raw(" AND user_id IN (")
	s.strs(users)
	s.raw(")" + tail)
	rows, err := conn.QueryContext(ctx, string(s.text))
	if err != nil {
		return nil, err
	}
	figures := make(map[string]int64)
	for rows.Next() {
		var user string
		var n int64
		if err = rows.Scan(&user, &n); err != nil {
			break
		}
		figures[user] = n
	}
	return figures, closeRows(rows, err)
}

// listWrong runs a query over large tables and reads its few rows.
func (db *DB) listWrong(ctx context.Context, query string, args []any, read func(scanner) error) error {
	if !db.Ready() {
		return db.notReady()
	}
	return db.unhurried(ctx, func(conn *sql.Conn) error {
		rows, err := conn.QueryContext(ctx, query, args...)
		if err != nil {
			return db.away(ctx, fmt.Errorf("look for wrong rows: %w", err))
		}
		for rows.Next() {
			if err = read(rows); err != nil {
				break
			}
		}
		if err := closeRows(rows, err); err != nil {
			return db.away(ctx, fmt.Errorf("look for wrong rows: %w", err))
		}
		return nil
	})
}
