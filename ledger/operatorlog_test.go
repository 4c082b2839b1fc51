package ledger

import (
	"testing"

	"flashgate/sale"
)

// Every change by an operator is in the log once, with who, what, how it was and is, and why;
// what was refused, or changed nothing, is not.
func TestOperatorLog(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		ctx := sale.WithOperator(t.Context(), sale.Operator{Name: "alice", Why: "a drill"})
		wished, stock := b.wish("shoe", 10)
		for range 2 { // the second changes nothing
			if _, _, _, err := db.PutSKU(ctx, wished, stock, sale.Expect{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := db.PatchSKU(ctx, "shoe", sale.SKUPatch{State: to(sale.StatePaused), Title: to("Other")}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second is the first again
			if _, _, _, err := db.AddStock(ctx, "shoe", 5, "key"); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, _, err := db.AddStock(ctx, "shoe", -100, ""); err == nil {
			t.Fatal("more was taken than there is")
		}
		if _, err := db.GiveBreakerOrder(ctx, sale.BreakerOrder{Name: "redis", Mode: sale.BreakerForcedOpen, Reason: "a drill", By: "gateway"}); err != nil {
			t.Fatal(err)
		}
		if err := db.NoteOperator(t.Context(), "breaker.set", "nats", `{"mode":"auto"}`); err != nil {
			t.Fatal(err)
		}
		entries, err := db.OperatorLog(t.Context(), "", 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		want := []sale.LogEntry{
			{By: nobody, Action: "breaker.set", Target: "nats", After: `{"mode":"auto"}`},
			{By: "alice", Why: "a drill", Action: "breaker.set", Target: "redis", After: `{"mode":"forced_open","reason":"a drill","until":""}`},
			{By: "alice", Why: "a drill", Action: "stock.add", Target: "shoe", Before: `{"total":10}`, After: `{"total":15}`},
			{By: "alice", Why: "a drill", Action: "sku.patch", Target: "shoe", Before: `{"state":"open","title":"` + wished.Title + `"}`, After: `{"state":"paused","title":"Other"}`},
			{By: "alice", Why: "a drill", Action: "sku.put", Target: "shoe", After: `{"archive":"none","closes_at":"","currency":"EUR","heat":"auto","opens_at":"","pay_within_ms":900000,"per_user_limit":0,"reserved":0,"segments":1,"state":"open","title":"` + wished.Title + `","total":10,"unit_price":500}`},
		}
		if len(entries) != len(want) {
			t.Fatalf("%d entries: %+v", len(entries), entries)
		}
		for i, e := range entries {
			if e.ID == 0 || e.At == 0 || i > 0 && e.ID >= entries[i-1].ID {
				t.Errorf("%+v", e)
			}
			if e.ID, e.At = 0, 0; e != want[i] {
				t.Errorf("got %+v, want %+v", e, want[i])
			}
		}
		page, err := db.OperatorLog(t.Context(), "shoe", entries[1].ID, 2)
		if err != nil || len(page) != 2 || page[0].Action != "stock.add" || page[1].Action != "sku.patch" {
			t.Errorf("%+v, %v", page, err)
		}
	})
}
