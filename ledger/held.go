package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// Somebody else's transaction may hold rows of a SKU for long: an operator's, or a
// back-fill. Whoever has waited for a row in vain looks which SKUs that is about, so that
// the others go on without them.

// lookApart is the time between two looks at rows. Shorter, and rows that many gateways
// sell of seem to be held by one; longer, and the others wait that much longer.
const lookApart = 100 * time.Millisecond

// errHeld says that another transaction holds rows of a SKU. Neither the database nor
// this gateway has failed.
var errHeld = fmt.Errorf("another transaction holds its rows: %w", sale.ErrOverloaded)

// wanted is what a transaction locks of one SKU, besides its stock rows.
type wanted struct {
	sku    string
	orders []sale.OrderID
	users  []string // whose rows of buyers
}

// wantedBy is what a group locks.
func wantedBy(jobs []*job) []wanted {
	wants := make([]wanted, len(jobs))
	for i, j := range jobs {
		wants[i].sku = j.sku.Name
		for _, a := range j.asks() {
			wants[i].orders = append(wants[i].orders, a.claim.ID)
		}
		if j.sku.PerUserLimit > 0 {
			wants[i].users = usersOf(j)
		}
	}
	return wants
}

// lockedRow names a row that somebody held when it was looked at.
type lockedRow struct {
	sku, key string
	table    int
}

// The tables, in the order in which they are looked at.
const (
	stockTable = iota
	ordersTable
	buyersTable
)

// sight is the locked rows of one look. Of stock rows it has the figures too.
type sight map[lockedRow]stockState

// findHeld returns, by SKU, those of the rows that one transaction holds: locked at two
// looks, and unchanged between them. A row that gateways sell of is locked at most looks,
// but it changes.
func (db *DB) findHeld(ctx context.Context, conn *sql.Conn, wants []wanted) (map[string]wanted, error) {
	before, err := db.look(ctx, conn, wants)
	if err != nil || len(before) == 0 {
		return nil, err
	}
	time.Sleep(lookApart)
	now, err := db.look(ctx, conn, wants)
	if err != nil {
		return nil, err
	}
	held := make(map[string]wanted)
	for row, state := range now {
		if was, ok := before[row]; !ok || was != state {
			continue
		}
		w := held[row.sku]
		w.sku = row.sku
		switch row.table {
		case ordersTable:
			w.orders = append(w.orders, sale.OrderID([]byte(row.key)))
		case buyersTable:
			w.users = append(w.users, row.key)
		}
		held[row.sku] = w
	}
	return held, nil
}

// look finds the rows that are locked: a read that skips those is compared with a plain
// one. It waits for no row, and holds what it locks for no longer than it reads.
func (db *DB) look(ctx context.Context, conn *sql.Conn, wants []wanted) (sight, error) {
	s := dialect.NewScript(db.dialect)
	free := make(map[lockedRow]bool)
	locked := make(sight)
	var readers []func(*sql.Rows) error
	for _, tail := range []string{db.dialect.SkipLocked(), ""} {
		for table, appendLook := range []func(*dialect.Script, []wanted){stockTable: appendStockLook, ordersTable: appendOrdersLook, buyersTable: appendBuyersLook} {
			appendLook(s, wants)
			s.Raw(tail)
			s.EndWith(dialect.Selects, 0)
			readers = append(readers, func(r *sql.Rows) error {
				row := lockedRow{table: table}
				var st stockState
				err := r.Scan(&row.sku, &row.key, &st.total, &st.reserved, &st.sold, &st.raises)
				switch {
				case tail != "":
					free[row] = true
				case !free[row]:
					locked[row] = st
				}
				return err
			})
		}
	}
	return locked, db.dialect.Query(ctx, conn, s, readers...)
}

func appendStockLook(s *dialect.Script, wants []wanted) {
	s.Raw("SELECT sku, segment, total, reserved, sold, raises FROM stock" + s.Dialect.ByPrimaryKey() + " WHERE sku IN (")
	for i := range wants {
		s.Comma(i)
		s.Str(wants[i].sku)
	}
	s.Raw(") ORDER BY sku, segment")
}

func appendOrdersLook(s *dialect.Script, wants []wanted) {
	s.Raw("SELECT sku, order_id, 0, 0, 0, 0 FROM orders" + s.Dialect.ByPrimaryKey() + " WHERE order_id IN (''")
	for i := range wants {
		if len(wants[i].orders) > 0 {
			s.Raw(",")
			s.IDs(wants[i].orders)
		}
	}
	s.Raw(") ORDER BY order_id")
}

func appendBuyersLook(s *dialect.Script, wants []wanted) {
	s.Raw("SELECT sku, user_id, 0, 0, 0, 0 FROM buyers" + s.Dialect.ByPrimaryKey() + " WHERE sku=''")
	for i := range wants {
		if len(wants[i].users) > 0 {
			s.Raw(" OR (sku=")
			s.Str(wants[i].sku)
			s.Raw(" AND user_id IN (")
			s.Strs(wants[i].users)
			s.Raw("))")
		}
	}
	s.Raw(" ORDER BY sku, user_id")
}

// heldError is errHeld of the SKU, with what else there is to say.
func heldError(sku string, cause error) error {
	if cause == nil {
		return fmt.Errorf("SKU %s: %w", sku, errHeld)
	}
	return fmt.Errorf("SKU %s: %w: %w", sku, errHeld, cause)
}
