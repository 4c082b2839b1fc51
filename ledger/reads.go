package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// orderColumns is what scanOrder reads, in its order.
const orderColumns = "order_id, sku, segment, user_id, quantity, amount, currency, coupon, status, request_hash, reserved_at, pay_by, version"

func scanOrder(r scanner) (sale.Order, error) {
	var o sale.Order
	var id, hash []byte
	var status string
	if err := r.Scan(&id, &o.SKU, &o.Segment, &o.User, &o.Quantity, &o.Amount, &o.Currency, &o.Coupon,
		&status, &hash, &o.ReservedAt, &o.PayBy, &o.Version); err != nil {
		return o, err
	}
	if len(id) != len(o.ID) || len(hash) != len(o.Hash) {
		return o, fmt.Errorf("an order row has a key of %d and a hash of %d bytes", len(id), len(hash))
	}
	copy(o.ID[:], id)
	copy(o.Hash[:], hash)
	var err error
	o.Status, err = sale.ParseStatus(status)
	return o, err
}

// Ping asks the ledger for next to nothing. Errors wrap sale.ErrUnavailable.
func (db *DB) Ping(ctx context.Context) error {
	_, err := db.find(ctx, db.pools.probe, []sale.OrderID{{}}, "orders")
	return err
}

// findChunk is how many ids one read asks for.
const findChunk = 1000

// Find returns those of the orders that have a row. Errors wrap sale.ErrUnavailable.
func (db *DB) Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return db.find(ctx, db.pools.lookups, ids, "orders")
}

// find looks in the tables, all as of one moment.
func (db *DB) find(ctx context.Context, pool *sql.DB, ids []sale.OrderID, tables ...string) (map[sale.OrderID]sale.Order, error) {
	found := make(map[sale.OrderID]sale.Order)
	if !db.Ready() {
		return nil, db.notReady()
	}
	for len(ids) > 0 {
		n := min(len(ids), findChunk)
		if err := db.findChunk(ctx, pool, ids[:n], tables, found); err != nil {
			return nil, db.away(ctx, err)
		}
		ids = ids[n:]
	}
	db.noteErr(nil)
	return found, nil
}

func (db *DB) findChunk(ctx context.Context, pool *sql.DB, ids []sale.OrderID, tables []string, found map[sale.OrderID]sale.Order) error {
	s := dialect.NewScript(db.dialect)
	for i, table := range tables {
		if i > 0 {
			s.Raw(" UNION ALL ")
		}
		s.Raw("SELECT " + orderColumns + " FROM " + table + " WHERE order_id IN (")
		s.IDs(ids)
		s.Raw(")")
	}
	rows, err := read(ctx, pool, string(s.Text))
	if err != nil {
		return err
	}
	return scanOrders(rows, found)
}

// scanOrders reads the result set to its end and closes it.
func scanOrders(rows dialect.ResultSet, found map[sale.OrderID]sale.Order) error {
	return each(rows, nil, func(r scanner) error {
		o, err := scanOrder(r)
		if err == nil {
			found[o.ID] = o
		}
		return err
	})
}

// Order returns one order, also of the archive, or sale.ErrUnknownOrder.
func (db *DB) Order(ctx context.Context, id sale.OrderID) (sale.Order, error) {
	found, err := db.find(ctx, db.pools.edge, []sale.OrderID{id}, "orders", "orders_archive")
	if err != nil {
		return sale.Order{}, err
	}
	o, ok := found[id]
	if !ok {
		return sale.Order{}, sale.ErrUnknownOrder
	}
	return o, nil
}

// Stock returns the SKU's units by segment: an empty map when it has no rows.
func (db *DB) Stock(ctx context.Context, sku string) (map[int]sale.Stock, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	rows, err := read(ctx, db.pools.edge, "SELECT segment, total, reserved, sold FROM stock WHERE sku = ?", sku)
	if err != nil {
		return nil, db.away(ctx, err)
	}
	out := make(map[int]sale.Stock)
	for rows.Next() {
		var seg int
		var s sale.Stock
		if err = rows.Scan(&seg, &s.Total, &s.Reserved, &s.Sold); err != nil {
			break
		}
		out[seg] = s
	}
	if err := dialect.CloseRows(rows, err); err != nil {
		return nil, db.away(ctx, err)
	}
	db.noteErr(nil)
	return out, nil
}

// ordersOf says how the orders of one SKU are read: a range of the primary key, in which
// those of a SKU whose hash begins alike may lie too.
func (db *DB) ordersOf(sku string) string {
	first, last := sale.OrderIDsOf(sku)
	s := dialect.NewScript(db.dialect)
	s.Raw(" FROM orders" + db.dialect.ByPrimaryKey() + " WHERE order_id >= ")
	s.Bytes(first[:])
	s.Raw(" AND order_id <= ")
	s.Bytes(last[:])
	s.Raw(" AND sku = ")
	s.Str(sku)
	return string(s.Text)
}

// eachChunk is how many rows EachOrder and EachBuyer hand over at once.
const eachChunk = 5000

// copied selects the orders that a copy has to know: live ones, and those that ended so
// lately that a repeat of the give-back may come (sale.RepeatsFor).
func (db *DB) copied() string {
	return " AND (status IN " + live + " OR pay_by > " + strconv.FormatInt(db.Now()-sale.RepeatsFor.Milliseconds(), 10) + ")"
}

// EachOrder streams the orders of the SKU that a copy has to know, in the order of ids, in
// chunks that fn must not keep. Orders committed while it runs may be missing. An
// error of fn ends it and is returned as it is.
func (db *DB) EachOrder(ctx context.Context, sku string, fn func([]sale.HeldOrder) error) error {
	orders := make([]sale.HeldOrder, 0, eachChunk)
	flush := func() error {
		if len(orders) == 0 {
			return nil
		}
		err := fn(orders)
		orders = orders[:0]
		return err
	}
	var id sql.RawBytes
	var o sale.HeldOrder
	of := db.ordersOf(sku)
	return db.stream(ctx, "SELECT order_id, segment, status NOT IN "+live+of+db.copied(), nil, []any{&id, &o.Segment, &o.Ended}, func() error {
		if len(id) != len(sale.OrderID{}) {
			return fmt.Errorf("an order row has a key of %d bytes", len(id))
		}
		o.ID = sale.OrderID(id)
		if orders = append(orders, o); len(orders) < eachChunk {
			return nil
		}
		return flush()
	}, flush)
}

// EachBuyer streams the buyers of the SKU that hold units, and how many, in chunks
// that fn must not keep. It is empty for SKUs without a limit.
func (db *DB) EachBuyer(ctx context.Context, sku string, fn func(users []string, units []int64) error) error {
	users := make([]string, 0, eachChunk)
	units := make([]int64, 0, eachChunk)
	flush := func() error {
		if len(users) == 0 {
			return nil
		}
		err := fn(users, units)
		users, units = users[:0], units[:0]
		return err
	}
	var user string
	var n int64
	return db.stream(ctx, "SELECT user_id, units FROM buyers WHERE sku = ? AND units > 0", []any{sku}, []any{&user, &n}, func() error {
		users, units = append(users, user), append(units, n)
		if len(users) < eachChunk {
			return nil
		}
		return flush()
	}, flush)
}

// stream reads a result set row by row into dest, and ends with last.
func (db *DB) stream(ctx context.Context, text string, args, dest []any, row, last func() error) error {
	if !db.Ready() {
		return db.notReady()
	}
	rows, err := read(ctx, db.pools.control, text, args...)
	if err != nil {
		return db.away(ctx, err)
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return db.away(ctx, dialect.CloseRows(rows, err))
		}
		if err := row(); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	if err := dialect.CloseRows(rows, nil); err != nil {
		return db.away(ctx, err)
	}
	return last()
}

func (db *DB) notReady() error {
	if err := db.Err(); err != nil {
		return fmt.Errorf("%w: the ledger has not been reached yet: %w", sale.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: the ledger has not been proved yet", sale.ErrUnavailable)
}
