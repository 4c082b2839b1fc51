package ledger

import (
	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// scanner is what a row of either kind offers.
type scanner interface{ Scan(dest ...any) error }

// each hands fn the rows of a query, whose own error it passes on, and closes them.
func each(rows dialect.ResultSet, err error, fn func(r scanner) error) error {
	if err != nil {
		return err
	}
	for rows.Next() {
		if err = fn(rows); err != nil {
			break
		}
	}
	return dialect.CloseRows(rows, err)
}

// scanAll is what scan makes of the rows of a query.
func scanAll[T any](rows dialect.ResultSet, err error, scan func(r scanner) (T, error)) ([]T, error) {
	var all []T
	err = each(rows, err, func(r scanner) error {
		v, err := scan(r)
		if err == nil {
			all = append(all, v)
		}
		return err
	})
	return all, err
}

// eachPage goes through a table in the order of a key, so many rows at a time: read reads
// those behind the last of the page before, which is nil at the beginning. No result set is
// open while fn works. Errors are read's and fn's.
func eachPage[T any](size int, read func(last *T) ([]T, error), fn func(page []T) error) error {
	for last := (*T)(nil); ; {
		page, err := read(last)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := fn(page); err != nil || len(page) < size {
			return err
		}
		last = &page[len(page)-1]
	}
}

// scanName reads a row of one column of text.
func scanName(r scanner) (name string, err error) { return name, r.Scan(&name) }

// scanOrderID reads a row of one order id.
func scanOrderID(r scanner) (id sale.OrderID, err error) {
	var b []byte
	err = r.Scan(&b)
	copy(id[:], b)
	return id, err
}
