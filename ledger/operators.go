package ledger

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// operatorReason is what the inventory log says of operators' changes of stock.
const operatorReason = "operator"

// PutSKU creates the SKU, or replaces all that is said of it, Total and Reserved of
// the stock included; Ordinal, Version, ChangedAt and Sold are the ledger's. It may be
// repeated: what is as wished is left alone. Errors: *sale.StockBelowSoldError,
// sale.ErrPrecondition where it is not as expected before, sale.ErrArchived, or one that wraps sale.ErrInvalid
// or sale.ErrUnavailable.
func (db *DB) PutSKU(ctx context.Context, sku sale.SKU, stock sale.Stock, expect sale.Expect) (sale.SKU, sale.Stock, bool, error) {
	// A replacement is a patch that names every field, so that both keep to one rule.
	p := sale.SKUPatch{
		Title: &sku.Title, UnitPrice: &sku.UnitPrice, Currency: &sku.Currency, PerUserLimit: &sku.PerUserLimit,
		OpensAt: &sku.OpensAt, ClosesAt: &sku.ClosesAt, PayWithin: &sku.PayWithin, State: &sku.State, Heat: &sku.Heat,
		Segments: &sku.Segments, Total: &stock.Total, Reserved: &stock.Reserved, Expect: expect,
	}
	c := &skuChange{name: sku.Name, action: "sku.put", create: true, limit: p.PerUserLimit, apply: p.Apply}
	err := db.change(ctx, c)
	return c.sku, c.stock, c.created, err
}

// PatchSKU changes what the patch names and leaves the rest. Errors: as PutSKU's, and
// sale.ErrUnknownSKU.
func (db *DB) PatchSKU(ctx context.Context, name string, p sale.SKUPatch) (sale.SKU, sale.Stock, error) {
	c := &skuChange{name: name, action: "sku.patch", limit: p.PerUserLimit, apply: p.Apply}
	err := db.change(ctx, c)
	return c.sku, c.stock, err
}

// AddStock adds units to the total, or takes them away, which is refused with a
// *sale.StockBelowSoldError below what is sold and reserved. Other errors: as
// PatchSKU's. One call adds once, whatever happens to its connections, and so do all calls
// of a SKU that have the same key, "" being none: replayed says that an earlier one had
// added. With another delta a key is sale.ErrKeyReused.
func (db *DB) AddStock(ctx context.Context, name string, delta int64, key string) (sku sale.SKU, stock sale.Stock, replayed bool, err error) {
	c := &skuChange{name: name, action: "stock.add", delta: delta, apply: func(sku sale.SKU, stock sale.Stock) (sale.SKU, sale.Stock, error) {
		if delta > sale.MaxStock-stock.Total {
			return sku, stock, fmt.Errorf("%w: total must be 0..%d", sale.ErrInvalid, int64(sale.MaxStock))
		}
		if free := max(0, stock.Available()); delta < -free {
			return sku, stock, &sale.StockBelowSoldError{MaxReduction: free}
		}
		stock.Total += delta
		return sku, stock, nil
	}}
	if key != "" {
		c.keyed = true
		sum := sha256.Sum256([]byte("stock\x00" + name + "\x00" + key))
		copy(c.id[:], sum[:])
	}
	err = db.change(ctx, c)
	return c.sku, c.stock, c.replayed, err
}

// ListSKUs returns up to limit SKUs with their stock, in order of name, beginning
// after a name ("" = with the first). Errors wrap sale.ErrUnavailable.
func (db *DB) ListSKUs(ctx context.Context, after string, limit int) ([]sale.Listing, error) {
	if !db.Ready() {
		return nil, db.notReady()
	}
	const sum = ", (SELECT COALESCE(SUM(%[1]s), 0) FROM stock WHERE stock.sku = skus.sku) AS sum_%[1]s"
	rows, err := read(ctx, db.pools.control, "SELECT "+skuColumns+fmt.Sprintf(sum, "total")+fmt.Sprintf(sum, "reserved")+
		fmt.Sprintf(sum, "sold")+" FROM skus WHERE sku > ? ORDER BY sku LIMIT ?", after, limit)
	list, err := scanAll(rows, err, func(r scanner) (l sale.Listing, err error) {
		sku, err := scanSKU(widerRow{r, []any{&l.Stock.Total, &l.Stock.Reserved, &l.Stock.Sold}})
		if err == nil {
			l.SKU = *sku
		}
		return l, err
	})
	if err != nil {
		return nil, db.away(ctx, err)
	}
	db.noteErr(nil)
	return list, nil
}

// widerRow is a row that has more columns behind those that its reader knows.
type widerRow struct {
	scanner
	rest []any
}

func (r widerRow) Scan(dest ...any) error { return r.scanner.Scan(slices.Concat(dest, r.rest)...) }

// skuChange is one operator's change of one SKU, under an id of its own.
type skuChange struct {
	name   string
	action string // as the operators' log calls it
	create bool   // make the SKU where there is none
	limit  *int64 // the per-user limit that it will set
	// counted is the version that asked for orders to be counted, where this change says
	// that they are; else 0.
	counted int64
	apply   func(sale.SKU, sale.Stock) (sale.SKU, sale.Stock, error)

	id     [16]byte // of its row in stock_moves, which every change has
	keyed  bool     // the id is of an operator's key: another call may have been this change
	delta  int64    // of the total, where it is keyed
	unsure bool     // an earlier attempt may have been committed
	made   bool     // that attempt was to create the SKU

	// The result: one of refusal and the others.
	refusal error
	sku     sale.SKU
	stock   sale.Stock
	created bool
	// replayed says that another call under the same key had made the change.
	replayed bool
	// What it changed, for the hook: nothing, where it is as wished already.
	changed bool
	before  *sale.SKU // nil: it was made
	moved   bool      // stock
}

// errAbandon ends a transaction that has nothing to commit.
var errAbandon = errors.New("nothing to commit")

// change carries the change out, and again under the same id while it is unknown
// whether it was committed.
func (db *DB) change(ctx context.Context, c *skuChange) error {
	if err := sale.ValidateSKUName(c.name); err != nil {
		if !c.create {
			return sale.ErrUnknownSKU
		}
		return fmt.Errorf("%w: %w", sale.ErrInvalid, err)
	}
	if !c.keyed {
		_, _ = rand.Read(c.id[:]) // which never fails
	}
	c.id = sale.OrderID(c.id).Beside(c.name)
	on := terms{refused: maxRefused, sku: keyOfSKU(c.name)} // refused: somebody else made it in between
	err := db.insist(ctx, db.pools.control, on, func(ctx context.Context, on *try) error {
		if on.unsure {
			c.unsure, c.made = true, c.made || c.created
		}
		if _, err := on.conn.ExecContext(ctx, db.dialect.Begin()); err != nil {
			return err
		}
		on.sent = true
		err := db.changeLocked(ctx, on.conn, c)
		if errors.Is(err, errAbandon) {
			rollback(on.conn)
			return nil
		}
		return err
	})
	if err != nil || c.refusal != nil {
		return cmp.Or(err, c.refusal)
	}
	shared := c.sku
	db.catalog.store(&shared)
	if c.changed && db.hooks.Changed != nil {
		db.hooks.Changed(c.before, &shared, c.moved)
	}
	return nil
}

// changeLocked is the transaction, to its COMMIT. The SKU's row makes operators take
// turns; the stock rows, which every purchase locks last, stop the sale of this SKU for
// the moment in which its rules change, so that whoever holds them reads rules that are
// exact.
func (db *DB) changeLocked(ctx context.Context, conn *sql.Conn, c *skuChange) error {
	c.refusal, c.created = nil, false
	before, err := db.lockSKU(ctx, conn, c.name)
	switch {
	case errors.Is(err, sql.ErrNoRows) && c.create:
		c.created = true
		before = &sale.SKU{Name: c.name, Archive: sale.ArchiveNone}
	case errors.Is(err, sql.ErrNoRows):
		c.refusal = sale.ErrUnknownSKU
		return errAbandon
	case err != nil:
		return err
	}
	// Buyers, and the work on them, come before stock in the order of all locks.
	few, err := db.lockBuyers(ctx, conn, c, before)
	if err != nil {
		return err
	}
	rows, err := db.lockStock(ctx, conn, c.name)
	if err != nil {
		return err
	}
	had := total(rows)
	if c.unsure || c.keyed {
		done, delta, err := db.changeDone(ctx, conn, c)
		if err != nil {
			return err
		}
		if done {
			c.sku, c.stock, c.created = *before, had, c.made && before.Version == 1
			if c.keyed && delta != c.delta {
				c.refusal = sale.ErrKeyReused
			}
			c.replayed = !c.unsure
			c.changed = c.changed && c.unsure // by an attempt before, whose outcome was unknown
			return errAbandon
		}
	}
	after, stock, err := c.apply(*before, had)
	if err != nil {
		c.refusal = err
		return errAbandon
	}
	stock.Sold = had.Sold
	after.Name, after.Ordinal, after.Version, after.ChangedAt = before.Name, before.Ordinal, before.Version, before.ChangedAt
	begins := limitBegins(before, after.PerUserLimit)
	if begins {
		after.Counting = after.PerUserLimit > 0 && !few
	}
	if after == *before && stock == had {
		c.sku, c.stock, c.created, c.changed = *before, had, c.made && before.Version == 1, false
		return errAbandon
	}
	if stock != had {
		after.ChangedAt = db.Now()
	}
	rowsAfter := distribute(rows, after.Segments, stock, after.Segments != before.Segments)
	if err := db.writeSKU(ctx, conn, before, &after, c.created); err != nil {
		return err
	}
	if begins {
		if err := db.writeBuyers(ctx, conn, &after, few); err != nil {
			return err
		}
	}
	if err := db.writeMove(ctx, conn, c, stock.Total-had.Total); err != nil {
		return err
	}
	if err := db.enterChange(ctx, conn, c, before, had, &after, stock); err != nil {
		return err
	}
	c.sku, c.stock = after, stock
	c.changed, c.moved, c.before = true, stock != had, before
	if c.created {
		c.before = nil
	}
	return db.writeStock(ctx, conn, &after, rows, rowsAfter)
}

func (db *DB) lockSKU(ctx context.Context, conn *sql.Conn, name string) (*sale.SKU, error) {
	return scanSKU(conn.QueryRowContext(ctx, "SELECT "+skuColumns+" FROM skus WHERE sku = ?"+db.dialect.ForUpdate(), name))
}

func (db *DB) lockStock(ctx context.Context, conn *sql.Conn, name string) ([]segmentStock, error) {
	rows, err := conn.QueryContext(ctx, "SELECT segment, total, reserved, sold FROM stock"+db.dialect.ByPrimaryKey()+
		" WHERE sku = ? ORDER BY segment"+db.dialect.ForUpdate(), name)
	return scanAll(rows, err, func(r scanner) (s segmentStock, err error) {
		return s, r.Scan(&s.segment, &s.Total, &s.Reserved, &s.Sold)
	})
}

// changeDone reports whether an earlier attempt at this change was committed, and by how
// much it changed the total. It is asked under the SKU's lock, which such an attempt held
// until it ended.
func (db *DB) changeDone(ctx context.Context, conn *sql.Conn, c *skuChange) (done bool, delta int64, err error) {
	err = conn.QueryRowContext(ctx, "SELECT delta FROM stock_moves WHERE order_id = ? AND reason = ?", c.id[:], operatorReason).Scan(&delta)
	if errors.Is(err, sql.ErrNoRows) {
		return false, 0, nil
	}
	return err == nil, delta, err
}

// writeSKU writes the SKU's row where its rules changed, and its new version.
func (db *DB) writeSKU(ctx context.Context, conn *sql.Conn, before, after *sale.SKU, created bool) error {
	rules := *after
	if rules.ChangedAt = before.ChangedAt; rules == *before {
		return nil // the stock's change is noted with its position
	}
	after.Version = before.Version + 1
	after.ChangedAt = db.Now()
	values := []any{after.Title, after.UnitPrice, after.Currency, after.PerUserLimit, after.OpensAt, after.ClosesAt,
		after.PayWithin, after.State.String(), after.Heat.String(), after.Counting, after.Archive.String(), after.Segments, after.Version, after.ChangedAt, after.Name}
	if !created {
		_, err := conn.ExecContext(ctx, `UPDATE skus SET title = ?, unit_price = ?, currency = ?, per_user_limit = ?, opens_at = ?, closes_at = ?,
			pay_within_ms = ?, state = ?, heat = ?, counting = ?, archive = ?, segments = ?, version = ?, changed_at = ? WHERE sku = ?`, values...)
		return err
	}
	res, err := conn.ExecContext(ctx, `INSERT INTO skus (title, unit_price, currency, per_user_limit, opens_at, closes_at,
		pay_within_ms, state, heat, counting, archive, segments, version, changed_at, sku) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, values...)
	if err != nil {
		return err
	}
	after.Ordinal, err = res.LastInsertId()
	return err
}

// writeMove enters the change of the total into the inventory log. A change of nothing but
// rules has an entry too, of no units: by that it is found when its outcome is unknown.
func (db *DB) writeMove(ctx context.Context, conn *sql.Conn, c *skuChange, delta int64) error {
	_, err := conn.ExecContext(ctx, "INSERT INTO stock_moves (order_id, reason, sku, segment, delta, at) VALUES (?, ?, ?, 0, ?, ?)",
		c.id[:], operatorReason, c.name, delta, db.Now())
	return err
}

// enterChange writes the change into the operators' log.
func (db *DB) enterChange(ctx context.Context, conn *sql.Conn, c *skuChange, before *sale.SKU, had sale.Stock, after *sale.SKU, stock sale.Stock) error {
	is := sale.RecordOf(after, stock)
	was := new(sale.SKURecord)
	if *was = sale.RecordOf(before, had); c.created {
		was = nil
	}
	old, new := sale.LogOf(was, &is)
	return db.enter(ctx, conn, c.action, c.name, old, new)
}

// writeStock writes the stock rows with the SKU's version, and counts it where units
// became available. It ends the transaction.
func (db *DB) writeStock(ctx context.Context, conn *sql.Conn, sku *sale.SKU, before, after []segmentStock) error {
	raised := int64(0)
	free := make(map[int]int64, len(before))
	for _, r := range before {
		free[r.segment] = r.Available()
	}
	for _, r := range after {
		if r.Available() > free[r.segment] {
			raised = 1
		}
	}
	s := dialect.NewScript(db.dialect)
	s.Raw("INSERT INTO stock (sku, segment, total, reserved, sold, sku_version, raises) VALUES ")
	for i, r := range after {
		s.Row(i, sku.Name, r.segment, r.Total, r.Reserved, r.Sold, sku.Version, raised)
	}
	s.Raw(db.dialect.OnConflict("sku,segment"))
	for i, column := range []string{"total", "reserved", "sku_version"} {
		s.Comma(i)
		s.Raw(column + "=" + db.dialect.Inserted(column))
	}
	s.Raw(",raises=stock.raises+" + db.dialect.Inserted("raises"))
	s.End()
	appendPosition(s, sku)
	return db.dialect.Exec(ctx, conn, s)
}
