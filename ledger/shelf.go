package ledger

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"flashgate/sale"
)

// shelf is the stock of one SKU as orders draw from it outside of a sale: those that
// come back after their end, or after they were lost. The SKU's state and times do not
// matter.
type shelf struct {
	rules    *sale.SKU // nil: there is no such SKU
	before   []segmentStock
	versions []int64 // of the rules, as the stock rows know them
	stock    []segmentStock
	raised   []bool           // parallel to stock: units came back, or orders that need none came
	units    map[string]int64 // buyers'
}

// newShelf reads the SKU's rules behind its stock rows: a transaction that insists on
// the rows' versions has rules that are no older.
func newShelf(ctx context.Context, conn *sql.Conn, sku string) (*shelf, error) {
	rows, err := conn.QueryContext(ctx, "SELECT segment, total, reserved, sold, sku_version FROM stock WHERE sku = ? ORDER BY segment", sku)
	f := &shelf{units: make(map[string]int64)}
	err = each(rows, err, func(r scanner) error {
		var s segmentStock
		var version int64
		err := r.Scan(&s.segment, &s.Total, &s.Reserved, &s.Sold, &version)
		f.before, f.versions = append(f.before, s), append(f.versions, version)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.stock, f.raised = slices.Clone(f.before), make([]bool, len(f.before))
	f.rules, err = scanSKU(conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?", sku))
	if errors.Is(err, sql.ErrNoRows) {
		return f, nil
	}
	if err == nil && f.rules.Archived() {
		f.rules.PerUserLimit = 0 // nobody's units are kept any more
	}
	return f, err
}

// row is the index of a segment's stock row, or -1.
func (f *shelf) row(segment int) int {
	return slices.IndexFunc(f.stock, func(s segmentStock) bool { return s.segment == segment })
}

// withinLimit reports whether the buyer may hold so many units more. A limit whose
// buyers are being counted is not in force: who holds more when it is keeps it.
func (f *shelf) withinLimit(user string, units int64) bool {
	return f.rules.PerUserLimit == 0 || f.rules.Counting || f.units[user]+units <= f.rules.PerUserLimit
}

// draw takes units from just this segment, where the order's log entries are, and
// moves units of the others there when it has too few. It reports whether there were
// enough.
func (f *shelf) draw(user string, segment int, units int64) bool {
	i := f.row(segment)
	free := int64(0)
	for _, s := range f.stock {
		free += max(0, s.Available())
	}
	if i < 0 || free < units {
		return false
	}
	if missing := units - f.stock[i].Available(); missing > 0 {
		gather(f.stock, i, missing)
	}
	f.stock[i].Sold += units
	f.units[user] += units
	return true
}

// give puts units back.
func (f *shelf) give(user string, segment int, units int64) {
	if i := f.row(segment); i >= 0 {
		f.stock[i].Sold -= units
		f.raised[i] = true
	}
	f.units[user] -= units
}

// deltas are the changes of the stock rows.
func (f *shelf) deltas() []stockDelta {
	var deltas []stockDelta
	for i, was := range f.before {
		d := stockDelta{
			sku: f.rules.Name, segment: was.segment, version: f.versions[i],
			total: f.stock[i].Total - was.Total, sold: f.stock[i].Sold - was.Sold,
		}
		if f.raised[i] {
			d.raises = 1
		}
		if d.total != 0 || d.sold != 0 || d.raises != 0 {
			deltas = append(deltas, d)
		}
	}
	return deltas
}
