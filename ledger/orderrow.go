package ledger

import (
	"context"
	"database/sql"
	"errors"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// orderRow is an order as it was read, with the version of its stock row at that
// time: operators' changes raise it, so a transaction that finds it again has been
// disturbed by none, and the SKU's limit is still as it was read.
type orderRow struct {
	sale.Order
	stockVersion int64 // -1: there is no such row
	limit        int64 // of the SKU, per user; 0 where nobody's units are kept, as of archived ones
	counting     bool  // its orders are being counted for the limit
}

// readOrders reads those of the orders that exist, in key order.
func (db *DB) readOrders(ctx context.Context, conn *sql.Conn, ids []sale.OrderID) ([]orderRow, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	s := dialect.NewScript(db.dialect)
	s.Raw("SELECT " + qualified("o", orderColumns) + ", COALESCE(s.sku_version, -1), COALESCE(CASE WHEN k.archive = 'none' THEN k.per_user_limit END, 0), COALESCE(k.counting, 0)" +
		" FROM orders o" + db.dialect.ByPrimaryKey() + " LEFT JOIN stock s ON s.sku = o.sku AND s.segment = o.segment" +
		" LEFT JOIN skus k ON k.sku = o.sku WHERE o.order_id IN (")
	s.IDs(ids)
	s.Raw(") ORDER BY o.order_id")
	rows, err := conn.QueryContext(ctx, string(s.Text))
	return scanAll(rows, err, func(r scanner) (row orderRow, err error) {
		row.Order, err = scanOrder(widerRow{r, []any{&row.stockVersion, &row.limit, &row.counting}})
		return row, err
	})
}

// qualified puts a table's alias before each column of a list.
func qualified(alias, columns string) string {
	b := []byte(alias + ".")
	for i := range len(columns) {
		b = append(b, columns[i])
		if columns[i] == ' ' {
			b = append(b, alias+"."...)
		}
	}
	return string(b)
}

// readOrdersLocked reads those of the orders that exist, in key order, and locks them.
func (db *DB) readOrdersLocked(ctx context.Context, conn *sql.Conn, ids []sale.OrderID) ([]sale.Order, error) {
	s := dialect.NewScript(db.dialect)
	s.Raw("SELECT " + orderColumns + " FROM orders" + db.dialect.ByPrimaryKey() + " WHERE order_id IN (")
	s.IDs(ids)
	s.Raw(") ORDER BY order_id" + db.dialect.ForUpdate())
	rows, err := conn.QueryContext(ctx, string(s.Text))
	return scanAll(rows, err, scanOrder)
}

// archivedOrder reads one order of the archive, as readOrders does one that is not: nobody
// can change it, nor are its buyer's units kept.
func (db *DB) archivedOrder(ctx context.Context, conn *sql.Conn, id sale.OrderID) ([]orderRow, error) {
	o, err := scanOrder(conn.QueryRowContext(ctx, "SELECT "+orderColumns+" FROM orders_archive WHERE order_id = ?", id[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return []orderRow{{Order: o, stockVersion: -1}}, err
}
