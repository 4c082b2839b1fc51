package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// holdingsChunk is how many SKUs one read asks for. Each is two members of a union, of
// which SQLite takes 500.
const holdingsChunk = 128

// Holdings returns what is held of those of the SKUs that have stock, each with up to
// most orders that a copy has to know, and buyers: one that has more is Partial. Orders are read before buyers, and
// stock last, so that what is committed meanwhile is missing from the orders and not from
// the stock. Errors wrap sale.ErrUnavailable.
func (s Source) Holdings(ctx context.Context, skus []string, most int) (map[string]*sale.Holdings, error) {
	if !s.Ready() {
		return nil, s.notReady()
	}
	held := make(map[string]*sale.Holdings, len(skus))
	for _, name := range skus {
		held[name] = &sale.Holdings{}
	}
	for some := range slices.Chunk(skus, holdingsChunk) {
		if err := s.readHoldings(ctx, some, most, held); err != nil {
			return nil, s.away(ctx, err)
		}
	}
	for name, h := range held {
		if len(h.Stock) == 0 {
			delete(held, name)
			continue
		}
		h.Partial = len(h.Orders) > most || len(h.Users) > most
	}
	s.noteErr(nil)
	return held, nil
}

// Stocks returns units by segment, of those of the SKUs that have stock. Errors wrap
// sale.ErrUnavailable.
func (s Source) Stocks(ctx context.Context, skus []string) (map[string]map[int]sale.Stock, error) {
	if !s.Ready() {
		return nil, s.notReady()
	}
	stocks := make(map[string]map[int]sale.Stock, len(skus))
	text := dialect.NewScript(s.dialect)
	appendStocks(text, skus)
	conn, err := connOf(ctx, s.pools.control)
	if err != nil {
		return nil, s.away(ctx, err)
	}
	err = s.dialect.Query(ctx, conn, text, func(r *sql.Rows) error { return scanStockOf(r, stocks) })
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, s.away(ctx, err)
	}
	s.noteErr(nil)
	return stocks, nil
}

func appendStocks(s *dialect.Script, skus []string) {
	s.Raw("SELECT sku, segment, total, reserved, sold FROM stock WHERE sku IN (")
	s.Strs(skus)
	s.Raw(")")
	s.EndWith(dialect.Selects, 0)
}

func scanStockOf(r *sql.Rows, stocks map[string]map[int]sale.Stock) error {
	var sku string
	var segment int
	var st sale.Stock
	if err := r.Scan(&sku, &segment, &st.Total, &st.Reserved, &st.Sold); err != nil {
		return err
	}
	if stocks[sku] == nil {
		stocks[sku] = make(map[int]sale.Stock)
	}
	stocks[sku][segment] = st
	return nil
}

func (s Source) readHoldings(ctx context.Context, skus []string, most int, held map[string]*sale.Holdings) error {
	text := dialect.NewScript(s.dialect)
	copied := s.copied()
	appendSomeOfEach(text, "sku, order_id, segment, status NOT IN "+live, skus, most+1, func(sku string) {
		text.Raw(s.ordersOf(sku))
		text.Raw(copied)
	})
	appendSomeOfEach(text, "sku, user_id, units", skus, most+1, func(sku string) {
		text.Raw(" FROM buyers WHERE units > 0 AND sku = ")
		text.Str(sku)
	})
	appendStocks(text, skus)
	stocks := make(map[string]map[int]sale.Stock, len(skus))
	conn, err := connOf(ctx, s.pools.control)
	if err != nil {
		return err
	}
	err = s.dialect.Query(ctx, conn, text,
		func(r *sql.Rows) error { return scanHeldOrder(r, held) },
		func(r *sql.Rows) error { return scanHeldUnits(r, held) },
		func(r *sql.Rows) error { return scanStockOf(r, stocks) })
	for name, stock := range stocks {
		held[name].Stock = stock
	}
	return errors.Join(err, conn.Close())
}

// appendSomeOfEach appends a statement that reads columns of up to limit rows of each SKU, of
// which from says where they stand.
func appendSomeOfEach(s *dialect.Script, columns string, skus []string, limit int, from func(sku string)) {
	for i, name := range skus {
		if i > 0 {
			s.Raw(" UNION ALL ")
		}
		s.Raw("SELECT * FROM (SELECT " + columns)
		from(name)
		s.Raw(" LIMIT ")
		s.Int(int64(limit))
		s.Raw(") AS t")
		s.Int(int64(i))
	}
	s.EndWith(dialect.Selects, 0)
}

func scanHeldOrder(r *sql.Rows, held map[string]*sale.Holdings) error {
	var sku string
	var id sql.RawBytes
	var o sale.HeldOrder
	if err := r.Scan(&sku, &id, &o.Segment, &o.Ended); err != nil {
		return err
	}
	if len(id) != len(sale.OrderID{}) {
		return fmt.Errorf("an order row has a key of %d bytes", len(id))
	}
	if h := held[sku]; h != nil {
		o.ID = sale.OrderID(id)
		h.Orders = append(h.Orders, o)
	}
	return nil
}

func scanHeldUnits(r *sql.Rows, held map[string]*sale.Holdings) error {
	var sku, user string
	var units int64
	if err := r.Scan(&sku, &user, &units); err != nil {
		return err
	}
	if h := held[sku]; h != nil {
		h.Users, h.Units = append(h.Users, user), append(h.Units, units)
	}
	return nil
}
