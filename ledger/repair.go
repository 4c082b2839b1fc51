package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"flashgate/sale"
)

// Orders are the truth of which stock (with what is archived of it) and buyers are sums. A sum that is wrong, because
// somebody wrote to the tables by hand or a constraint was off, can be computed anew;
// what a repair never does is change an order.

// repairPage is how many wrong rows are looked up at once.
const repairPage = 10_000

// beginLocking begins a transaction on a connection that the server ends soon after this
// process freezes. The caller throws the connection away.
func (db *DB) beginLocking(ctx context.Context, conn *sql.Conn) error {
	if !db.dialect.SingleWriter() {
		if _, err := conn.ExecContext(ctx, "SET SESSION wait_timeout=3"); err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, db.dialect.Begin())
	return err
}

// Repair computes anew the sums that disagree with the orders they are sums of, counts
// them and says so. It reads every order, and is for an operator to ask for. Errors wrap
// sale.ErrUnavailable.
func (db *DB) Repair(ctx context.Context) error {
	var errs []error
	for table, repair := range map[string]func(context.Context) (sale.Repairs, error){
		"stock": db.repairStock, "buyers": db.repairBuyers,
	} {
		done, err := repair(ctx)
		errs = append(errs, err)
		db.noteRepairs(table, done)
	}
	return errors.Join(errs...)
}

// noteRepairs counts repairs, and says so.
func (db *DB) noteRepairs(table string, done sale.Repairs) {
	db.metrics.repaired.WithLabelValues(table, "repaired").Add(float64(done.Repaired))
	db.metrics.repaired.WithLabelValues(table, "left").Add(float64(done.Left))
	if done != (sale.Repairs{}) {
		db.log.Warn("the ledger's sums disagreed with its orders", "table", table, "repaired", done.Repaired, "left", done.Left)
	}
}

// repairSKU looks for rows of one SKU that are wrong, without a lock, and again at those
// that it finds.
func (db *DB) repairSKU(ctx context.Context, sku string) error {
	var segments []int
	of := db.ordersOf(sku)
	err := db.listWrong(ctx, `SELECT s.segment FROM stock s LEFT JOIN (SELECT segment, SUM(quantity) AS units`+of+` AND status IN `+live+` GROUP BY segment) l
		ON l.segment = s.segment WHERE s.sku = ? AND s.sold <> s.archived + COALESCE(l.units, 0)`, []any{sku}, func(r scanner) error {
		segments = append(segments, 0)
		return r.Scan(&segments[len(segments)-1])
	})
	if err != nil {
		return err
	}
	var stock, buyers sale.Repairs
	err = db.repairStockOf(ctx, sku, segments, &stock)
	db.noteRepairs("stock", stock)
	if err != nil {
		return err
	}
	var users []string
	err = db.listWrong(ctx, `SELECT u.user_id FROM (SELECT b.user_id, b.units AS held, 0 AS live FROM buyers b WHERE b.sku = ?
		UNION ALL SELECT user_id, 0, quantity`+of+` AND status IN `+live+`) u
		GROUP BY u.user_id HAVING SUM(u.held) <> SUM(u.live) ORDER BY u.user_id LIMIT ?`, []any{sku, repairPage}, func(r scanner) error {
		users = append(users, "")
		return r.Scan(&users[len(users)-1])
	})
	if err != nil || len(users) == 0 {
		return err
	}
	// Of a SKU without a limit, or whose buyers are being counted, it repairs none.
	buyers.Repaired, err = db.repairBuyersOf(ctx, sku, users)
	db.noteRepairs("buyers", buyers)
	return err
}

// repairStock sets sold to what live orders hold, wherever it differs from that and
// still does on a second look, under the lock that every purchase takes last. Rows
// whose live orders hold more than there is are left, and SKUs whose rows somebody holds or
// that refuse it: after all others, the error is sale.ErrPartly then. It may run beside a
// sale, whose purchases of a wrong SKU wait for it. Errors wrap sale.ErrUnavailable; what
// was repaired before one is counted and stays.
func (db *DB) repairStock(ctx context.Context) (done sale.Repairs, err error) {
	err = eachWrong(ctx, db, `SELECT s.sku, s.segment`+scope{}.stockDiffers()+` AND (s.sku > ? OR (s.sku = ? AND s.segment > ?)) ORDER BY s.sku, s.segment LIMIT ?`,
		-1, &done, func(sku string, segments []int) error { return db.repairStockOf(ctx, sku, segments, &done) })
	return done, err
}

// repairStockOf looks again at some rows of one SKU.
func (db *DB) repairStockOf(ctx context.Context, sku string, segments []int, done *sale.Repairs) error {
	for _, segment := range segments {
		if err := db.repairStockRow(ctx, sku, segment, done); err != nil {
			return err
		}
	}
	return nil
}

// repairStockRow looks again at one row.
func (db *DB) repairStockRow(ctx context.Context, sku string, segment int, done *sale.Repairs) error {
	differed, fits := false, true
	err := db.repairLocked(ctx, func(ctx context.Context, on *try) (bool, error) {
		rows, err := db.lockStock(ctx, on.conn, sku)
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(rows, func(r segmentStock) bool { return r.segment == segment })
		if i < 0 {
			return false, nil
		}
		var units int64
		of := db.ordersOf(sku)
		err = on.conn.QueryRowContext(ctx, "SELECT (SELECT archived FROM stock WHERE sku = ? AND segment = ?) + COALESCE(SUM(quantity), 0)"+of+
			" AND segment = ? AND status IN "+live, sku, segment, segment).Scan(&units)
		if err != nil {
			return false, err
		}
		fits = units <= rows[i].Total-rows[i].Reserved
		if units == rows[i].Sold || !fits {
			return false, nil
		}
		on.sent, differed = true, true
		_, err = on.conn.ExecContext(ctx, "UPDATE stock SET sold = ?, raises = raises + 1 WHERE sku = ? AND segment = ?", units, sku, segment)
		return true, err
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

// repairBuyers sets buyers' units to what their live orders hold, for SKUs that have a
// limit, wherever they differ and still do on a second look under locks. Who holds
// more than the limit keeps it and can buy no more. Else it is as repairStock.
func (db *DB) repairBuyers(ctx context.Context) (done sale.Repairs, err error) {
	err = eachWrong(ctx, db, `SELECT u.sku, u.user_id`+scope{}.buyersDiffer()+` AND (u.sku > ? OR (u.sku = ? AND u.user_id > ?)) ORDER BY u.sku, u.user_id LIMIT ?`,
		"", &done, func(sku string, users []string) error {
			n, err := db.repairBuyersOf(ctx, sku, users)
			done.Repaired += n
			return err
		})
	return done, err
}

// repairBuyersOf looks again at some buyers of one SKU, in key order.
func (db *DB) repairBuyersOf(ctx context.Context, sku string, users []string) (repaired int, err error) {
	err = db.repairLocked(ctx, func(ctx context.Context, on *try) (bool, error) {
		have, err := db.buyerFigures(ctx, on.conn, "SELECT user_id, units FROM buyers"+db.dialect.ByPrimaryKey()+" WHERE sku = ?", []any{sku}, users, " ORDER BY user_id"+db.dialect.ForUpdate())
		if err != nil {
			return false, err
		}
		if _, err := db.lockStock(ctx, on.conn, sku); err != nil {
			return false, err
		}
		rules, err := scanSKU(on.conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?", sku))
		if errors.Is(err, sql.ErrNoRows) || (err == nil && (rules.PerUserLimit == 0 || rules.Counting || rules.Archived())) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		of := db.ordersOf(sku)
		units, err := db.buyerFigures(ctx, on.conn, "SELECT user_id, SUM(quantity)"+of, nil, users, " AND status IN "+live+" GROUP BY user_id")
		if err != nil {
			return false, err
		}
		wrong := make(map[string]int64)
		for _, user := range users {
			if have[user] != units[user] {
				wrong[user] = units[user]
			}
		}
		if len(wrong) == 0 {
			return false, nil
		}
		on.sent, repaired = true, len(wrong)
		return true, db.insertBuyers(ctx, on.conn, rules, wrong)
	})
	if err != nil {
		return 0, err
	}
	return repaired, nil
}

// repairLocked runs fn in a transaction that locks before it reads, and commits what it
// wrote, if it did.
func (db *DB) repairLocked(ctx context.Context, fn func(ctx context.Context, on *try) (wrote bool, err error)) error {
	return db.insist(ctx, db.pools.control, terms{refused: maxRefused, waited: 1}, func(ctx context.Context, on *try) error {
		defer discard(on.conn)
		if err := db.beginLocking(ctx, on.conn); err != nil {
			return err
		}
		wrote, err := fn(ctx, on)
		if err != nil || !wrote {
			return err
		}
		_, err = on.conn.ExecContext(ctx, "COMMIT")
		return err
	})
}

// wrongRow is the key of a row that a query found.
type wrongRow[K any] struct {
	sku string
	key K
}

// eachWrong hands fn the keys of the rows that the query finds, SKU by SKU. The query
// reads pages, each after the last key of the one before; all keys are behind least. A SKU
// whose rows cannot be repaired, because somebody holds them or they refuse it, is counted
// as left and holds up no other.
func eachWrong[K any](ctx context.Context, db *DB, query string, least K, done *sale.Repairs, fn func(sku string, keys []K) error) error {
	read := func(last *wrongRow[K]) (page []wrongRow[K], err error) {
		if last == nil {
			last = &wrongRow[K]{"", least}
		}
		err = db.listWrong(ctx, query, []any{last.sku, last.sku, last.key, repairPage}, func(r scanner) error {
			var row wrongRow[K]
			err := r.Scan(&row.sku, &row.key)
			page = append(page, row)
			return err
		})
		return page, err
	}
	var left []error
	err := eachPage(repairPage, read, func(page []wrongRow[K]) error {
		for len(page) > 0 {
			sku := page[0].sku
			var keys []K
			for len(page) > 0 && page[0].sku == sku {
				keys, page = append(keys, page[0].key), page[1:]
			}
			err := fn(sku, keys)
			switch {
			case errors.Is(err, errHeld), errors.Is(err, errRefused):
				done.Left += len(keys)
				left = append(left, fmt.Errorf("SKU %s: %w", sku, err))
			case err != nil:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return notRepaired(left)
}

// notRepaired is the error where some SKUs are left, one error of each.
func notRepaired(left []error) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("%w: rows of %d SKUs cannot be repaired, as of %w", sale.ErrPartly, len(left), left[0])
}

// buyerFigures reads one figure per buyer of the SKU.
func (db *DB) buyerFigures(ctx context.Context, conn *sql.Conn, query string, args []any, users []string, tail string) (map[string]int64, error) {
	query += " AND user_id IN (''" + strings.Repeat(",?", len(users)) + ")" + tail
	args = slices.Clone(args)
	for _, user := range users {
		args = append(args, user)
	}
	rows, err := conn.QueryContext(ctx, query, args...)
	return addUp(rows, err)
}

// listWrong runs a query over large tables and reads its few rows.
func (db *DB) listWrong(ctx context.Context, query string, args []any, read func(scanner) error) error {
	if !db.Ready() {
		return db.notReady()
	}
	return db.unhurried(ctx, func(conn *sql.Conn) error {
		rows, err := conn.QueryContext(ctx, query, args...)
		if err := each(rows, err, read); err != nil {
			return db.away(ctx, fmt.Errorf("look for wrong rows: %w", err))
		}
		return nil
	})
}
