package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// check is one invariant as a query for what breaks it. Its columns are the SKU, the
// order id or an empty one, and figures for the detail.
type check struct {
	name, promise string
	query         string
	detail        string // with %s for each figure
	figures       int
}

const live = "('reserved','paid')"

// stockDiffers finds the stock rows, as s, whose sold is not what live orders hold, as
// l.units, and archived ones; buyersDiffer does so for buyers, grouped as u, and for those
// whose orders are being counted as far as that has come.
func (c scope) stockDiffers() string {
	return ` FROM stock s
		LEFT JOIN (SELECT o.sku, o.segment, SUM(o.quantity) AS units FROM orders o WHERE o.status IN ` + live + c.orders("o") + ` GROUP BY o.sku, o.segment) l
		ON l.sku = s.sku AND l.segment = s.segment WHERE s.sold <> s.archived + COALESCE(l.units, 0)` + c.names("s.sku")
}

func (c scope) buyersDiffer() string {
	return ` FROM (
		SELECT b.sku, b.user_id, b.units AS held, 0 AS live FROM buyers b JOIN skus k ON k.sku = b.sku LEFT JOIN buyer_work w ON w.sku = b.sku
		WHERE k.per_user_limit > 0 AND k.archive = 'none' AND (k.counting = 0 OR w.cleared = 1)` + c.names("b.sku") + `
		UNION ALL
		SELECT o.sku, o.user_id, 0, o.quantity FROM orders o JOIN skus k ON k.sku = o.sku LEFT JOIN buyer_work w ON w.sku = o.sku
		WHERE k.per_user_limit > 0 AND k.archive = 'none' AND o.status IN ` + live + ` AND (k.counting = 0 OR w.counted_id >= o.order_id)` + c.orders("o") + `
		) u GROUP BY u.sku, u.user_id HAVING SUM(u.held) <> SUM(u.live)`
}

// checks are the invariants that a query can judge alone, of the SKUs in scope. None of them
// loads a table into this process; what they sort and group is the database's.
func (c scope) checks(now int64, outboxAge time.Duration) []check {
	return []check{
		{
			name: "stock_sold", promise: "sold is what live and archived orders hold, per stock row",
			query:  `SELECT s.sku, '', s.segment, s.sold, COALESCE(l.units, 0), s.archived` + c.stockDiffers(),
			detail: "segment %s has sold %s, its live orders hold %s and its archived ones %s", figures: 4,
		},
		{
			name: "stock_bounds", promise: "never more is sold than total - reserved",
			query: `SELECT sku, '', segment, total, reserved, sold FROM stock
				WHERE (total < 0 OR reserved < 0 OR sold < 0 OR sold > total - reserved OR archived < 0 OR archived > sold)` + c.names("sku"),
			detail: "segment %s has total %s, reserved %s, sold %s", figures: 4,
		},
		{
			name: "buyer_units", promise: "buyers' units are what their live orders hold, where the SKU has a limit",
			query:  `SELECT u.sku, '', u.user_id, SUM(u.held), SUM(u.live)` + c.buyersDiffer(),
			detail: "user %s has %s units, their live orders hold %s", figures: 3,
		},
		{
			name: "buyer_limit", promise: "no buyer holds more than the limit they bought under",
			query:  `SELECT sku, '', user_id, units, unit_limit FROM buyers WHERE (units < 0 OR (unit_limit <> 0 AND units > unit_limit))` + c.names("sku"),
			detail: "user %s has %s units of at most %s", figures: 3,
		},
		{
			name: "order_log", promise: "the log's entries of an order add up to its status",
			query: `SELECT l.sku, l.order_id, l.status, l.quantity, l.moved FROM (SELECT o.sku, o.order_id, o.status, o.quantity,
				COALESCE((SELECT SUM(m.delta) FROM stock_moves m WHERE m.order_id = o.order_id AND m.sku = o.sku AND m.segment = o.segment), 0) AS moved
				FROM orders o WHERE 1=1` + c.orders("o") + `) l WHERE l.moved <> CASE WHEN l.status IN ` + live + ` THEN 0 ELSE l.quantity END`,
			detail: "the order is %s and has %s units, of which the log gave back %s", figures: 3,
		},
		{
			name: "log_orders", promise: "every entry of the log is an order's or an operator's",
			query: `SELECT m.sku, m.order_id, m.reason, m.delta FROM stock_moves m
				WHERE m.reason <> '` + operatorReason + `' AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.order_id = m.order_id)` + c.ids("m.order_id"),
			detail: "an entry (%s) of %s units belongs to no order", figures: 2,
		},
		{
			name: "order_stock", promise: "every order draws from a stock row",
			query: `SELECT o.sku, o.order_id, o.status, o.segment FROM orders o
				WHERE NOT EXISTS (SELECT 1 FROM stock s WHERE s.sku = o.sku AND s.segment = o.segment)` + c.orders("o"),
			detail: "the order is %s, and there is no stock row for segment %s", figures: 2,
		},
		{
			name: "archived_units", promise: "what is archived of a stock row's units is what the archive's paid orders hold",
			query: `SELECT s.sku, '', s.segment, s.archived, COALESCE(l.units, 0) FROM stock s JOIN skus k ON k.sku = s.sku AND k.archive NOT IN ('dropping', 'dropped')
				LEFT JOIN (SELECT a.sku, a.segment, SUM(a.quantity) AS units FROM orders_archive a WHERE a.status = 'paid'` + c.orders("a") + ` GROUP BY a.sku, a.segment) l
				ON l.sku = s.sku AND l.segment = s.segment WHERE s.archived <> COALESCE(l.units, 0)` + c.names("s.sku"),
			detail: "segment %s has %s units archived, the paid orders of the archive hold %s", figures: 3,
		},
		{
			name: "archived_orders", promise: "what is archived has ended, is of a SKU that stays closed, and is there once",
			query: `SELECT a.sku, a.order_id, a.status FROM orders_archive a LEFT JOIN skus k ON k.sku = a.sku
				WHERE (a.status = 'reserved' OR k.archive IS NULL OR k.archive NOT IN ('archiving', 'archived', 'dropping') OR k.state <> 'closed'
				OR EXISTS (SELECT 1 FROM orders o WHERE o.order_id = a.order_id))` + c.orders("a"),
			detail: "the order is %s, and does not belong into the archive", figures: 1,
		},
		{
			name: "outbox_age", promise: "events are published soon",
			query:  `SELECT sku, '', id, kind, ` + fmt.Sprint(now) + ` - at FROM outbox WHERE at < ` + fmt.Sprint(now-outboxAge.Milliseconds()) + c.names("sku"),
			detail: "row %s (%s) has waited for %s ms", figures: 3,
		},
		{
			name: "payment_orders", promise: "every payment belongs to an order",
			query: `SELECT '', p.order_id, p.event_id, p.outcome FROM payments p
				WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.order_id = p.order_id)
				AND NOT EXISTS (SELECT 1 FROM orders_archive a WHERE a.order_id = p.order_id)` + c.ids("p.order_id"),
			detail: "payment %s (%s) belongs to no order", figures: 2,
		},
		{
			name: "paid_orders", promise: "every paid order was paid by an event",
			query: `SELECT o.sku, o.order_id, o.version FROM orders o WHERE o.status = 'paid'
				AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.order_id = o.order_id AND p.status = '` + paymentSucceeded + `')` + c.orders("o"),
			detail: "the order (version %s) is paid, and no payment succeeded", figures: 1,
		},
		{
			name: "payments_applied", promise: "what an order got of payments is one payment, and the order is paid",
			query: `SELECT o.sku, o.order_id, o.status, COUNT(*) FROM payments p JOIN orders o ON o.order_id = p.order_id
				WHERE p.outcome IN ('paid','retaken')` + c.ids("p.order_id") + c.orders("o") + ` GROUP BY o.sku, o.order_id, o.status HAVING COUNT(*) > 1 OR o.status <> 'paid'`,
			detail: "the order is %s and got %s payments", figures: 2,
		},
	}
}

// AuditChecks holds every invariant of the ledger against one consistent snapshot of
// it, and hands fn each of them, in a fixed order, with the findings against it, at most
// bound of each. It looks at the SKUs that are named, or, where skus is nil, at everything.
// An error of fn ends it and is returned as it is; others wrap sale.ErrUnavailable. It takes
// no locks, and may run beside a sale; a long one makes the database keep old versions of
// rows. It has a connection of its own, without the time limits of the others.
func (db *DB) AuditChecks(ctx context.Context, bound int, skus []string, fn func(sale.Checked) error) error {
	var found []sale.Checked
	scopes := []scope{{db.dialect, nil}}
	if skus != nil {
		scopes = []scope{{db.dialect, []string{""}}} // which is nobody's name: every check is made
		for some := range slices.Chunk(skus, scopeChunk) {
			scopes = append(scopes, scope{db.dialect, some})
		}
	}
	err := db.InSnapshot(ctx, func(state *Snapshot) error {
		for i, c := range scopes {
			checked, err := db.checkScope(ctx, state.conn, bound, c)
			if err != nil {
				return err
			}
			if i == 0 {
				found = checked
				continue
			}
			for n := range checked {
				found[n].Add(checked[n], bound)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range found {
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

// checkScope makes all checks of some SKUs.
func (db *DB) checkScope(ctx context.Context, conn *sql.Conn, bound int, of scope) ([]sale.Checked, error) {
	var all []sale.Checked
	for _, c := range of.checks(db.Now(), db.times.outboxAge) {
		found, err := c.run(ctx, conn, bound)
		if err != nil {
			return nil, db.away(ctx, fmt.Errorf("check %s: %w", c.name, err))
		}
		all = append(all, found)
	}
	found, err := of.checkDue(ctx, conn, bound)
	if err != nil {
		return nil, db.away(ctx, fmt.Errorf("check %s: %w", found.Check, err))
	}
	return append(all, found), nil
}

func (c *check) run(ctx context.Context, conn *sql.Conn, bound int) (sale.Checked, error) {
	found := sale.Checked{Check: c.name, Promise: c.promise}
	rows, err := conn.QueryContext(ctx, fmt.Sprintf("%s LIMIT %d", c.query, bound+1))
	if err != nil {
		return found, err
	}
	for rows.Next() {
		if len(found.Findings) == bound {
			found.More = true
			break
		}
		f := sale.Finding{Check: c.name}
		var id []byte
		figures := make([]any, c.figures)
		texts := make([]sql.NullString, c.figures)
		dest := []any{&f.SKU, &id}
		for i := range texts {
			dest = append(dest, &texts[i])
		}
		if err = rows.Scan(dest...); err != nil {
			break
		}
		for i := range texts {
			figures[i] = texts[i].String
		}
		copy(f.OrderID[:], id)
		f.Detail = fmt.Sprintf(c.detail, figures...)
		found.Findings = append(found.Findings, f)
	}
	return found, dialect.CloseRows(rows, err)
}
