package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"slices"
	"strings"
	"sync"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// ackList holds the outbox ids that the world has acknowledged, until their rows are
// deleted.
type ackList struct {
	mu  sync.Mutex
	ids []int64
}

func (l *ackList) put(ids []int64) {
	l.mu.Lock()
	l.ids = append(l.ids, ids...)
	l.mu.Unlock()
}

// drain removes and returns at most limit ids in key order.
func (l *ackList) drain(limit int) []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(limit, len(l.ids))
	if n == 0 {
		return nil
	}
	drained := slices.Clone(l.ids[:n])
	l.ids = slices.Delete(l.ids, 0, n)
	slices.Sort(drained)
	return drained
}

// ackChunk is how many acknowledged rows one transaction deletes.
const ackChunk = 4000

// ackPeriod is how often acknowledged rows are deleted. They have transactions of
// their own: one flush more in a period costs nothing, while a group that deletes rows
// waits for the rows that other groups are inserting next to them, because a server
// reads a small table from end to end whatever index it is offered.
const ackPeriod = 500 * time.Millisecond

// Acked says that these outbox rows were published and acknowledged. It never blocks;
// the rows are deleted within about a second. Deleting twice does nothing.
func (db *DB) Acked(ids []int64) { db.acks.put(ids) }

// runAcks deletes acknowledged rows until ctx ends.
func (db *DB) runAcks(ctx context.Context) {
	tick := time.NewTicker(ackPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			// What is left is published again after the next start, under the same ids.
			return
		case <-tick.C:
		}
		for ids := db.acks.drain(ackChunk); len(ids) > 0; ids = db.acks.drain(ackChunk) {
			err := db.transact(ctx, db.pools.control, func(ctx context.Context, conn *sql.Conn) error {
				s := dialect.NewScript(db.dialect)
				s.Raw("DELETE FROM outbox WHERE id IN (")
				for i, id := range ids {
					s.Comma(i)
					s.Int(id)
				}
				s.Raw(")")
				s.End()
				return db.dialect.Exec(ctx, conn, s)
			})
			if err != nil {
				db.acks.put(ids)
				_ = db.away(ctx, err)
				break
			}
		}
	}
}

// appendInsertOutbox inserts the rows, whose ids exec learns.
func appendInsertOutbox(s *dialect.Script, rows []sale.OutboxRow) {
	if len(rows) == 0 {
		return
	}
	s.Raw("INSERT INTO outbox (msg_id,sku,kind,payload,at) VALUES ")
	for i := range rows {
		r := &rows[i]
		s.Row(i, r.MsgID[:], r.SKU, string(r.Kind), packPayload(&s.Packing, r.Payload), r.At)
	}
	s.EndWith(dialect.OutboxInsert, len(rows))
}

// newOutboxRow makes a row that has no id yet.
func (db *DB) newOutboxRow(sku string, kind sale.Kind, orders []sale.Order, at int64) sale.OutboxRow {
	r := sale.OutboxRow{SKU: sku, Kind: kind, At: at, Payload: db.cfg.Encode(kind, orders)}
	// crypto/rand.Read never fails on the supported systems: it ends the program instead.
	_, _ = rand.Read(r.MsgID[:])
	return r
}

// outboxAhead is by how much gateways' measures of the database's clock may differ. A row
// of a later time was written before that clock was set back, or by another server's.
const outboxAhead = time.Second

// outboxBytes bounds what one page of the outbox says, as it is stored: packed payloads
// are several times as large in memory. Less costs more reads.
const outboxBytes = 4 << 20

// PendingOutbox returns up to limit rows in row order, after the row afterID, but none of
// the SKUs in except: what nobody has acknowledged so far. It ends before the first row that
// is not older than olderThan, so that no later one can overtake that: rows are told apart
// by their position, and only by it. It ends as well where the payloads have outboxBytes, but
// not before the first row. A row that cannot be read has its Damage.
func (db *DB) PendingOutbox(ctx context.Context, olderThan time.Duration, afterID int64, limit int, except []string) ([]sale.OutboxRow, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	now := db.Now()
	but := " AND sku NOT IN (''" + strings.Repeat(",?", len(except)) + ")"
	page := []any{afterID}
	for _, sku := range except {
		page = append(page, sku)
	}
	// The first row of the page that is young, or too much, without reading what it says.
	args := slices.Concat(page, []any{limit, now - olderThan.Milliseconds(), now + outboxAhead.Milliseconds(), outboxBytes}, page, []any{limit})
	rows, err := read(ctx, db.pools.control, "SELECT id, msg_id, sku, kind, payload, at FROM outbox WHERE id < COALESCE("+
		"(SELECT MIN(id) FROM (SELECT id, at, SUM(size) OVER (ORDER BY id) - size AS ahead FROM "+
		"(SELECT id, at, LENGTH(payload) AS size FROM outbox WHERE id > ?"+but+" ORDER BY id LIMIT ?) page) sized WHERE at > ? AND at <= ? OR ahead >= ?), 9223372036854775807)"+
		" AND id > ?"+but+" ORDER BY id LIMIT ?", args...)
	out, err := scanAll(rows, err, scanOutbox)
	if err != nil {
		return nil, db.away(ctx, err)
	}
	db.noteErr(nil)
	return out, nil
}

// scanOutbox reads one row. A payload that cannot be read is its row's trouble, not that of
// the rows behind it.
func scanOutbox(r scanner) (row sale.OutboxRow, err error) {
	var msg []byte
	var kind string
	if err = r.Scan(&row.ID, &msg, &row.SKU, &kind, &row.Payload, &row.At); err != nil {
		return row, err
	}
	row.Payload, row.Damage = unpackPayload(row.Payload)
	copy(row.MsgID[:], msg)
	row.Kind = sale.Kind(kind)
	return row, nil
}
