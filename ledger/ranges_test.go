package ledger

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// ownBed is a bed on a server of its own, whose settings a test may change.
func ownBed(t testing.TB) *bed {
	needServers(t)
	return newBed(t, Config{Driver: "mysql", DSN: testenv.OwnMariaDB(t).DSN})
}

var parentheses = regexp.MustCompile(`\([^()]*\)`)

// Every statement that reads or changes orders, in all that is done with one SKU, is planned
// as a range of the primary key, or as rows of given ids: none walks over what other SKUs
// ever sold.
func TestStatementsTouchTheirSKUsOrders(t *testing.T) {
	b := ownBed(t)
	const each = 600
	db := b.new(func(c *Config) {})
	db.buyersChunk = 100
	b.run(db)
	var shoe *sale.SKU
	for i := range 6 {
		sku := b.sku(fmt.Sprintf("sku-%d", i), 100_000, 0)
		for n := 0; n < each; n += 200 {
			settleGroup(t, db, admitted(sku, claims(sku, fmt.Sprintf("u%d-", n), 200)...))
		}
		shoe = sku
	}
	b.exec("ANALYZE TABLE orders, stock_moves, buyers")
	b.exec("SET GLOBAL log_output = 'TABLE'")
	b.exec("SET GLOBAL general_log = ON")
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Everything that is done with one SKU.
	must(db.EachOrder(ctx, shoe.Name, func([]sale.HeldOrder) error { return nil }))
	_, err := db.Source().Holdings(ctx, []string{shoe.Name}, 10_000)
	must(err)
	_, _, err = db.FindExhausted(ctx, shoe.Name, []sale.OrderID{sale.DeriveOrderID(shoe.Name, "nobody", "")})
	must(err)
	b.exec("UPDATE stock SET sold = sold + 1 WHERE sku = ?", shoe.Name)
	must(db.repairSKU(ctx, shoe.Name))
	limit := int64(3)
	_, _, err = db.PatchSKU(ctx, shoe.Name, sale.SKUPatch{PerUserLimit: &limit})
	must(err)
	must(db.CountBuyers(ctx))
	b.exec("UPDATE buyers SET units = units + 1 WHERE sku = ?", shoe.Name)
	must(db.repairSKU(ctx, shoe.Name))
	limited, err := db.SKU(ctx, shoe.Name)
	must(err)
	o := b.reserve(db, limited, "late", "1", 1)
	b.cancel(db, &o)
	o = b.reserve(db, limited, "late", "2", 1)
	_, err = db.Pay(ctx, paymentOf(&o, "event"))
	must(err)
	must(db.AuditChecks(ctx, 10, []string{shoe.Name}, func(sale.Checked) error { return nil }))
	must(db.InSnapshot(ctx, func(s *Snapshot) error {
		return s.EachChanged(ctx, shoe.Name, db.Now()-1000, func([]sale.Changed) error { return nil })
	}))
	b.close(db, limited.Name)
	must(db.Retain(ctx, keepArchive))
	b.exec("SET GLOBAL general_log = OFF")

	rows, err := b.raw.Query("SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log WHERE command_type IN ('Query', 'Execute') AND argument LIKE '%orders%'")
	must(err)
	var said []string
	for rows.Next() {
		var text string
		must(rows.Scan(&text))
		said = append(said, text)
	}
	must(rows.Close())
	planned := map[string]bool{}
	for _, text := range said {
		for _, statement := range strings.Split(text, ";") {
			b.checkPlan(ctx, statement, 6*each, planned)
		}
	}
	if len(planned) < 20 {
		t.Errorf("only %d statements were found", len(planned))
	}
}

var ofOrders = regexp.MustCompile(`(?i)\b(FROM|UPDATE|JOIN)\s+orders\b`)

// checkPlan has the server plan a statement as it was sent.
func (b *bed) checkPlan(ctx context.Context, statement string, total int, planned map[string]bool) {
	b.t.Helper()
	shape := statement
	for prev := ""; prev != shape; {
		prev, shape = shape, parentheses.ReplaceAllString(shape, "")
	}
	if !ofOrders.MatchString(statement) || planned[shape] || strings.HasPrefix(strings.TrimSpace(statement), "EXPLAIN") {
		return
	}
	rows, err := b.raw.QueryContext(ctx, "EXPLAIN "+statement)
	if err != nil {
		return // cut at a semicolon of a literal
	}
	defer func() { _ = rows.Close() }()
	columns, _ := rows.Columns()
	for rows.Next() {
		fields := make([]any, len(columns))
		for i := range fields {
			fields[i] = new(*string)
		}
		if err := rows.Scan(fields...); err != nil {
			b.t.Fatal(err)
		}
		plan := map[string]string{}
		for i, c := range columns {
			if v := *fields[i].(**string); v != nil {
				plan[c] = *v
			}
		}
		if plan["table"] != "orders" && plan["table"] != "o" {
			continue
		}
		planned[shape] = true
		var n int
		_, _ = fmt.Sscan(plan["rows"], &n)
		if plan["type"] == "ALL" || plan["type"] == "index" || plan["key"] != "PRIMARY" || n > total/2 {
			b.t.Errorf("%s by %q, %d rows: %s", plan["type"], plan["key"], n, statement)
		}
	}
}

// A ledger with orders whose ids have no prefix is refused, in one line; an empty one is
// brought up to date.
func TestLedgersOfBeforeTheIDs(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		p, err := migrationsOf(b.dialect, b.raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.DownTo(t.Context(), idsVersion-1); err != nil {
			t.Fatal(err)
		}
		insert := "INSERT INTO orders (order_id, sku, segment, user_id, quantity, amount, currency, coupon, request_hash, reserved_at, pay_by) VALUES (" + order(b, 7) + ", 'shoe', 0, 'ann', 1, 1, 'EUR', '', " + order(b, 7)[:18] + "', 1, 1)"
		b.exec(insert)
		err = Migrate(t.Context(), b.cfg)
		if err == nil || !strings.Contains(err.Error(), "ids an earlier version made") || strings.Contains(err.Error(), "\n") {
			t.Errorf("with an order of before: %v", err)
		}
		b.exec("DELETE FROM orders")
		if err := Migrate(t.Context(), b.cfg); err != nil {
			t.Errorf("without orders: %v", err)
		}
		b.open()
	})
}

// A ledger mints one identity, however many gateways ask at once, and keeps it until it is
// told another.
func TestInstallation(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		var dbs []*DB
		for range 4 {
			db := b.new()
			if db.Installation() != "" {
				t.Error("an identity is known before the database is")
			}
			dbs = append(dbs, db)
			b.run(db)
		}
		id := dbs[0].Installation()
		for _, db := range dbs {
			if got := db.Installation(); got != id || len(got) != installationLen {
				t.Errorf("%q and %q", got, id)
			}
		}
		if err := dbs[0].Adopt(t.Context(), "short"); !errors.Is(err, sale.ErrInvalid) {
			t.Errorf("adopt nonsense: %v", err)
		}
		other := strings.Repeat("X", installationLen)
		if err := dbs[0].Adopt(t.Context(), other); err != nil {
			t.Error(err)
		}
		if got := b.open().Installation(); got != other {
			t.Errorf("%q after it was told %q", got, other)
		}
	})
}
