package ledger

import (
	"cmp"
	"context"
	"database/sql"

	"flashgate/sale"
)

// nobody is who changes something by itself: a job.
const nobody = "flashgate"

// enter writes what an operator changed into the log, in the transaction that changes it.
func (db *DB) enter(ctx context.Context, conn *sql.Conn, action, target, was, became string) error {
	o := sale.OperatorOf(ctx)
	_, err := conn.ExecContext(ctx, "INSERT INTO operator_log (at, by_name, action, target, was, became, why) VALUES (?, ?, ?, ?, ?, ?, ?)",
		db.Now(), cmp.Or(o.Name, nobody), action, target, was, became, o.Why)
	return err
}

// OperatorLog returns up to limit entries, the latest first: of everything or, where target
// is not "", of that SKU or breaker; before an id, 0 being the end. Errors wrap
// sale.ErrUnavailable.
func (db *DB) OperatorLog(ctx context.Context, target string, before int64, limit int) ([]sale.LogEntry, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	if before == 0 {
		before = 1<<63 - 1
	}
	query, args := "SELECT id, at, by_name, action, target, was, became, why FROM operator_log WHERE id < ?", []any{before}
	if target != "" {
		query, args = query+" AND target = ?", append(args, target)
	}
	rows, err := read(ctx, db.pools.control, query+" ORDER BY id DESC LIMIT ?", append(args, limit)...)
	entries, err := scanAll(rows, err, func(r scanner) (e sale.LogEntry, err error) {
		return e, r.Scan(&e.ID, &e.At, &e.By, &e.Action, &e.Target, &e.Before, &e.After, &e.Why)
	})
	if err != nil {
		return nil, db.away(ctx, err)
	}
	db.noteErr(nil)
	return entries, nil
}

// NoteOperator enters what is kept nowhere in the ledger: an order to one gateway's breaker.
// Errors wrap sale.ErrUnavailable.
func (db *DB) NoteOperator(ctx context.Context, action, target, became string) error {
	if !db.Ready() {
		return db.notReady()
	}
	return db.away(ctx, db.transact(ctx, db.pools.control, func(ctx context.Context, conn *sql.Conn) error {
		return db.enter(ctx, conn, action, target, "", became)
	}))
}
