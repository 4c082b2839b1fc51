package ledger

import (
	"slices"
	"testing"

	"flashgate/sale"
)

func TestVerdicts(t *testing.T) { onEach(t, verdicts) }

func verdicts(t *testing.T, b *bed) {
	db := b.open()
	sku := b.sku("shoe", 5, 2)
	commit := func(batch sale.CommitBatch, want ...string) sale.CommitResult {
		t.Helper()
		r, err := db.Commit(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		if got := outcomes(r); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		return r
	}
	first := claim(sku, "ann", "1", 1)
	r := commit(admitted(sku, first, claim(sku, "bob", "1", 1)), "reserved", "reserved")
	if r.Contradicted || r.Left != nil {
		t.Errorf("an undisputed batch: %+v", r)
	}
	o := r.Verdicts[0].Order
	if o.SKU != "shoe" || o.User != "ann" || o.Amount != 1999 || o.Status != sale.StatusReserved || o.PayBy != o.ReservedAt+900_000 || o.Version != 1 {
		t.Errorf("order %+v", o)
	}
	stored, err := db.Order(t.Context(), first.ID)
	if err != nil || stored != *o {
		t.Errorf("stored %+v, %v; answered %+v", stored, err, *o)
	}
	// The shield forgot: the ledger knows.
	r = commit(admitted(sku, first), "duplicate")
	if !r.Contradicted || *r.Verdicts[0].Order != stored {
		t.Errorf("%+v", r)
	}
	other := *first
	other.Quantity, other.Hash = 2, sale.HashRequest(2, "")
	commit(direct(sku, &other), "conflict")
	commit(direct(sku, first, claim(sku, "ann", "2", 2), claim(sku, "ann", "3", 1)), "duplicate", "limit_reached", "reserved")
	r = commit(admitted(sku, claim(sku, "cid", "1", 2), claim(sku, "dan", "1", 1)), "reserved", "sold_out")
	if !r.Contradicted || r.Left[0] != 0 || len(r.Left) != 1 {
		t.Errorf("%+v", r)
	}
	b.checkInvariants()
}
