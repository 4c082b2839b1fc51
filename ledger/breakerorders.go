package ledger

import (
	"context"
	"database/sql"
	"fmt"

	"flashgate/sale"
)

// GiveBreakerOrder keeps an operator's order for all gateways in the place of the one
// before it, and returns all that stand, this one with the time at which it was given.
// Errors wrap sale.ErrUnavailable: the order stands or not, and may be given again.
func (db *DB) GiveBreakerOrder(ctx context.Context, o sale.BreakerOrder) ([]sale.BreakerOrder, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	d := db.dialect
	// A clock that was set back must not make a newer order look like an older one.
	at := d.Inserted("given_at")
	text := fmt.Sprintf("INSERT INTO breaker_orders (name, mode, until, reason, given_by, given_at) VALUES (?, ?, ?, ?, ?, ?)%s"+
		"mode=%s, until=%s, reason=%s, given_by=%s, given_at=CASE WHEN given_at < %s THEN %s ELSE given_at + 1 END",
		d.OnConflict("name"), d.Inserted("mode"), d.Inserted("until"), d.Inserted("reason"), d.Inserted("given_by"), at, at)
	var orders []sale.BreakerOrder
	err := db.transact(ctx, db.pools.leases, func(ctx context.Context, conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, text, o.Name, o.Mode.String(), o.Until, o.Reason, o.By, db.Now())
		if err != nil {
			return err
		}
		if err := db.enter(ctx, conn, "breaker.set", o.Name, "", o.Record()); err != nil {
			return err
		}
		rows, err := conn.QueryContext(ctx, selectBreakerOrders)
		orders, err = scanAll(rows, err, scanBreakerOrder)
		return err
	})
	if err != nil {
		return nil, db.away(ctx, err)
	}
	return orders, nil
}

// BreakerOrders returns the orders for all gateways, also those that are over. Errors
// wrap sale.ErrUnavailable.
func (db *DB) BreakerOrders(ctx context.Context) ([]sale.BreakerOrder, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	ctx, cancel := context.WithTimeout(ctx, db.times.call)
	defer cancel()
	rows, err := read(ctx, db.pools.leases, selectBreakerOrders)
	orders, err := scanAll(rows, err, scanBreakerOrder)
	if err != nil {
		return nil, db.away(ctx, err)
	}
	return orders, nil
}

const selectBreakerOrders = "SELECT name, mode, until, reason, given_by, given_at FROM breaker_orders ORDER BY name"

func scanBreakerOrder(r scanner) (o sale.BreakerOrder, err error) {
	var mode string
	if err = r.Scan(&o.Name, &mode, &o.Until, &o.Reason, &o.By, &o.At); err == nil {
		o.Mode, err = sale.ParseBreakerMode(mode)
	}
	return o, err
}
