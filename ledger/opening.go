package ledger

import (
	"context"

	"flashgate/sale"
)

// Opening returns the names of SKUs that are open, not cold, and whose sale opens in
// (from, to], ms on the ledger's clock: those that open first, and no more than limit. It
// leaves out SKUs whose orders are being counted: they are loaded when that is done.
// Errors wrap sale.ErrUnavailable.
func (db *DB) Opening(ctx context.Context, from, to int64, limit int) ([]string, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	rows, err := read(ctx, db.pools.control, "SELECT sku FROM skus"+db.dialect.ByIndex("skus_opens_at")+
		" WHERE opens_at > ? AND opens_at <= ? AND state = ? AND counting = 0 AND heat <> ? ORDER BY opens_at LIMIT ?",
		from, to, sale.StateOpen.String(), sale.HeatCold.String(), limit)
	names, err := scanAll(rows, err, scanName)
	if err != nil {
		return nil, db.away(ctx, err)
	}
	db.noteErr(nil)
	return names, nil
}
