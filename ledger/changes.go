package ledger

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// Changes of SKUs are numbered: each raises the counter and gives its SKU the new
// position in the packet that ends with its COMMIT. Until that the counter's row is
// locked, so that positions have the order of the commits: whoever has seen a position
// finds every other change behind it, however long that took and whatever clocks say.

const (
	// lookPeriod is how often changes by other gateways are looked for.
	lookPeriod = 300 * time.Millisecond
	// changesPage is how many changes one look reads at once: names and figures.
	changesPage = 1000
)

// appendPosition gives the SKU, whose row is locked, the next position, and commits.
// Nothing is locked after the counter, and nothing between it and the COMMIT: a gateway
// that freezes holds up no other's changes.
func appendPosition(s *dialect.Script, sku *sale.SKU) {
	s.Raw("UPDATE change_counter SET position=position+1 WHERE id=1")
	s.Dialect.EndExactly(s, 1)
	s.Raw("UPDATE skus SET position=(SELECT position FROM change_counter WHERE id=1),changed_at=")
	s.Int(sku.ChangedAt)
	s.Raw(" WHERE sku=")
	s.Str(sku.Name)
	s.Dialect.EndExactly(s, 1)
	s.Statement("COMMIT")
}

// position is that of the latest change.
func (db *DB) position(ctx context.Context) (position int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, db.times.call)
	defer cancel()
	rows, err := read(ctx, db.pools.control, "SELECT position FROM change_counter WHERE id = 1")
	if err != nil {
		return 0, err
	}
	if !rows.Next() {
		return 0, dialect.CloseRows(rows, sql.ErrNoRows)
	}
	return position, dialect.CloseRows(rows, rows.Scan(&position))
}

// changed is a SKU as a look finds it.
type changed struct {
	name     string
	position int64
}

// changesAfter reads the changes behind a position, in their order. Of a SKU that was
// changed again there is only the last.
func (db *DB) changesAfter(ctx context.Context, position int64) ([]changed, error) {
	ctx, cancel := context.WithTimeout(ctx, db.times.call)
	defer cancel()
	rows, err := read(ctx, db.pools.control, "SELECT sku, position FROM skus"+db.dialect.ByIndex("skus_position")+
		" WHERE position > ? ORDER BY position LIMIT ?", position, changesPage)
	return scanAll(rows, err, func(r scanner) (c changed, err error) { return c, r.Scan(&c.name, &c.position) })
}

// changeWatch is how far one gateway has followed the changes. It belongs to one
// goroutine.
type changeWatch struct {
	db   *DB
	last int64 // the position up to which everything has been seen
	// anew says that positions alone do not suffice: the ledger was away, and what came
	// back may have lost changes that were seen here, and made others under their numbers.
	anew bool
}

// watchChanges follows the changes of SKUs until ctx ends. While the database is away
// what is remembered stays.
func (db *DB) watchChanges(ctx context.Context) {
	ticker := time.NewTicker(db.times.look)
	defer ticker.Stop()
	w := &changeWatch{db: db, last: -1, anew: true}
	for {
		if err := w.look(ctx); err != nil && ctx.Err() == nil {
			db.log.Debug("changes of SKUs cannot be read", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look reads what has changed since the last one. The counter is read first: whatever
// has its position or a lower one is there to be read afterwards.
func (w *changeWatch) look(ctx context.Context) error {
	err := w.follow(ctx)
	w.db.metrics.seen.Set(float64(w.last))
	// That this gateway has no connection to spare says nothing about the ledger.
	if err != nil && !errors.Is(err, sale.ErrOverloaded) {
		w.anew = true
	}
	return err
}

func (w *changeWatch) follow(ctx context.Context) error {
	top, err := w.db.position(ctx)
	if err != nil {
		return err
	}
	for w.last >= 0 && w.last < top {
		page, err := w.db.changesAfter(ctx, w.last)
		if err == nil {
			err = w.db.heed(ctx, page)
		}
		if err != nil {
			return err
		}
		if len(page) < changesPage {
			w.last = top
		}
		if len(page) > 0 {
			w.last = max(w.last, page[len(page)-1].position)
		}
	}
	if !w.anew && w.last <= top {
		return nil
	}
	if err := w.db.rememberAnew(ctx); err != nil {
		return err
	}
	w.last, w.anew = top, false
	return nil
}

// heed reads again what is remembered of SKUs that have changed, and tells of them.
func (db *DB) heed(ctx context.Context, page []changed) error {
	var names []string
	for _, c := range page {
		if db.catalog.concerns(c.name) {
			names = append(names, c.name)
		}
	}
	return db.eachSKU(ctx, names, func(_ string, sku *sale.SKU) {
		if sku != nil {
			db.heard(db.catalog.store(sku), sku)
		}
	})
}

// rememberAnew reads everything again that is remembered, and believes it, whatever
// versions it has.
func (db *DB) rememberAnew(ctx context.Context) error {
	return db.eachSKU(ctx, db.catalog.known.names(), func(name string, sku *sale.SKU) {
		before, ok := db.catalog.known.get(name)
		switch {
		case !ok:
		case sku == nil:
			db.catalog.known.drop(name)
		case *before != *sku:
			db.catalog.known.put(name, sku, func(*sale.SKU) bool { return true })
			db.heard(before, sku)
		}
	})
}

// eachSKU reads the SKUs, some at a time, and hands fn each; nil is one that the ledger
// does not have.
func (db *DB) eachSKU(ctx context.Context, names []string, fn func(name string, sku *sale.SKU)) error {
	for len(names) > 0 {
		n := min(len(names), catalogBatch)
		found, err := db.readSKUs(ctx, names[:n])
		if err != nil {
			return err
		}
		for _, name := range names[:n] {
			fn(name, found[name])
		}
		names = names[n:]
	}
	return nil
}
