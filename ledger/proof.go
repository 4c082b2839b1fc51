package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"

	"flashgate/ledger/dialect"
)

// prove checks the schema's version, the server's settings, and that each constraint
// bites, in a transaction that is rolled back.
func (db *DB) prove(ctx context.Context) error {
	conn, err := db.pools.control.Conn(ctx)
	if err != nil {
		return err
	}
	// A connection that was discarded says so again.
	defer func() { _ = conn.Close() }()
	if err := checkMigrated(ctx, conn); err != nil {
		return err
	}
	if err := db.dialect.Settings(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, db.dialect.Begin()); err != nil {
		return err
	}
	if err := db.proveConstraints(ctx, conn); err != nil {
		discard(conn)
		return err
	}
	_, err = conn.ExecContext(ctx, "ROLLBACK")
	return err
}

// proveConstraints offers what must be refused. The SKU's name is not a valid one, so
// that no real row is touched, and random, so that gateways that start together do
// not wait for each other.
func (db *DB) proveConstraints(ctx context.Context, conn *sql.Conn) error {
	name := "?" + rand.Text()
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	const stock = "INSERT INTO stock (sku, segment, total, reserved, sold, sku_version) VALUES (%s, 0, %s, 1)"
	const buyer = "INSERT INTO buyers (sku, user_id, units, unit_limit) VALUES (%s, 'u', %s)"
	const order = "INSERT INTO orders (order_id, sku, segment, user_id, quantity, amount, currency, coupon, request_hash, reserved_at, pay_by) VALUES (%s, %s, 0, 'u', 1, 0, 'XXX', '', x'0000000000000000', 1, 1)"
	sku := string(db.dialect.AppendString(nil, name))
	oid := string(db.dialect.AppendBytes(nil, id[:]))
	steps := []struct {
		promise, sql string
		refused      bool
	}{
		{"the CHECK on stock refuses to sell more than there is", fmt.Sprintf(stock, sku, "1, 0, 2"), true},
		{"the CHECK on stock refuses to sell what is reserved", fmt.Sprintf(stock, sku, "2, 1, 2"), true},
		{"the CHECK on stock refuses sold below zero", fmt.Sprintf(stock, sku, "1, 0, -1"), true},
		{"the CHECK on stock refuses a total below zero", fmt.Sprintf(stock, sku, "-1, 0, 0"), true},
		{"the CHECK on stock refuses reserved below zero", fmt.Sprintf(stock, sku, "1, -1, 0"), true},
		{"stock takes a good row", fmt.Sprintf(stock, sku, "1, 0, 1"), false},
		{"the CHECK on stock refuses an update", "UPDATE stock SET sold = sold + 1 WHERE sku = " + sku, true},
		{"stock has one row per SKU and segment", fmt.Sprintf(stock, sku, "1, 0, 0"), true},
		{"the CHECK on buyers refuses units beyond the limit", fmt.Sprintf(buyer, sku, "2, 1"), true},
		{"the CHECK on buyers refuses units below zero", fmt.Sprintf(buyer, sku, "-1, 0"), true},
		{"buyers takes a good row", fmt.Sprintf(buyer, sku, "1, 1"), false},
		{"the CHECK on buyers refuses an update", "UPDATE buyers SET units = units + 1 WHERE sku = " + sku, true},
		{"buyers has one row per SKU and user", fmt.Sprintf(buyer, sku, "1, 0"), true},
		{"orders takes a good row", fmt.Sprintf(order, oid, sku), false},
		{"orders has one row per order id", fmt.Sprintf(order, oid, sku), true},
	}
	for _, s := range steps {
		_, err := conn.ExecContext(ctx, s.sql)
		switch f := db.dialect.Classify(err); {
		case f == dialect.Violated && s.refused, f == dialect.NoFailure && !s.refused:
		case f == dialect.NoFailure || f == dialect.Otherwise || f == dialect.Violated:
			return &dialect.ProofError{What: fmt.Sprintf("it was to hold that %s, but the database answered: %v", s.promise, orAccepted(err))}
		default:
			return err
		}
	}
	return nil
}

func orAccepted(err error) any {
	if err == nil {
		return "accepted"
	}
	return err
}
