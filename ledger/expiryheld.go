package ledger

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// heldDue remembers the rows for which an expiry left SKUs, because somebody held them, so
// that the next looks before it waits for them again.
type heldDue struct {
	mu   sync.Mutex
	rows map[string]wanted // by SKU
}

// stillHeld returns the SKUs whose rows the expiry before left and somebody still holds,
// and forgets the others.
func (db *DB) stillHeld(ctx context.Context) map[string]error {
	db.heldDue.mu.Lock()
	defer db.heldDue.mu.Unlock()
	broken := make(map[string]error)
	if len(db.heldDue.rows) == 0 {
		return broken
	}
	held := db.heldAmong(ctx, slices.Collect(maps.Values(db.heldDue.rows)))
	for sku := range db.heldDue.rows {
		if _, still := held[sku]; still {
			broken[sku] = heldError(sku, nil)
		} else {
			delete(db.heldDue.rows, sku)
		}
	}
	return broken
}

// leaveHeld adds to broken the SKUs whose rows somebody holds, of those that the last
// attempt was to end orders of, and reports whether there are any.
func (e *expiry) leaveHeld(ctx context.Context) bool {
	wants := make(map[string]wanted)
	for _, row := range e.tried {
		w := wants[row.SKU]
		w.sku, w.orders, w.users = row.SKU, append(w.orders, row.ID), append(w.users, row.User)
		wants[row.SKU] = w
	}
	held := e.db.heldAmong(ctx, slices.Collect(maps.Values(wants)))
	e.db.heldDue.mu.Lock()
	defer e.db.heldDue.mu.Unlock()
	for sku, rows := range held {
		e.broken[sku] = heldError(sku, nil)
		e.db.heldDue.rows[sku] = rows
		e.db.log.Warn("another transaction holds rows of a SKU: its orders expire later", "sku", sku)
	}
	return len(held) > 0
}

// heldAmong is findHeld on a connection of the jobs. What cannot be seen is not held.
func (db *DB) heldAmong(ctx context.Context, wants []wanted) map[string]wanted {
	conn, err := connOf(ctx, db.pools.control)
	if err != nil {
		return nil
	}
	// A connection that was discarded reports so again; there is nothing to do about it.
	defer func() { _ = conn.Close() }()
	held, err := db.findHeld(ctx, conn, wants)
	if err != nil {
		discard(conn)
		return nil
	}
	return held
}
