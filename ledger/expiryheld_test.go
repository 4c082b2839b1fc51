package ledger

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// TestExpiryOfHeldRows has SKUs whose rows somebody else's transaction holds among others,
// in the same rows of the due list and in rows of their own: the others' orders end.
func TestExpiryOfHeldRows(t *testing.T) {
	for what, query := range map[string]string{
		"stock":    "SELECT * FROM stock WHERE sku LIKE 'm-held-%' FOR UPDATE",
		"orders":   "SELECT * FROM orders WHERE sku LIKE 'm-held-%' AND user_id = 'group-1' FOR UPDATE",
		"buyers":   "SELECT * FROM buyers WHERE sku LIKE 'm-held-%' AND user_id = 'own-2' FOR UPDATE",
		"nothing":  "SELECT 1",
		"due list": "SELECT * FROM due FOR UPDATE",
	} {
		t.Run(what, func(t *testing.T) {
			b := mariaBed(t)
			db := b.open()
			token := b.lead(db)
			skus := b.others(4, 2)
			for i := range 3 {
				skus = append(skus, b.sku(fmt.Sprintf("m-held-%d", i), 100, 2))
			}
			var batches []sale.CommitBatch
			for _, sku := range skus {
				batches = append(batches, admitted(sku, claims(sku, "group", 3)...))
				settleGroup(t, db, admitted(sku, claims(sku, "own", 3)...))
			}
			settleGroup(t, db, batches...)
			b.overdue(db)
			s := b.session()
			s.exec("START TRANSACTION", query)
			ends, leaves := 4*6, 3
			if what == "nothing" || what == "due list" {
				ends, leaves = 7*6, 0
			}
			for round := range 2 {
				waits, began := count(t, db.metrics.retries.WithLabelValues("held")), time.Now()
				got, err := db.expireDue(t.Context(), token, 1000, db.Now())
				testenv.Took(t, 3*time.Second, time.Since(began), "round %d", round)
				waits = count(t, db.metrics.retries.WithLabelValues("held")) - waits
				if len(got) != ends || (err != nil) != (what != "nothing") {
					t.Errorf("round %d: %d ended, %v", round, len(got), err)
				}
				if err != nil && (!errors.Is(err, sale.ErrPartly) || !errors.Is(err, errHeld)) {
					t.Errorf("round %d: %v", round, err)
				}
				if n := b.number("SELECT COUNT(*) FROM orders WHERE status = 'reserved'"); n != int64(leaves*6) {
					t.Errorf("round %d: %d orders are left", round, n)
				}
				if round > 0 && leaves > 0 && waits > 0 {
					t.Errorf("round %d: it waited %v times for rows that it knew to be held", round, waits)
				}
				ends = 0
			}
			if err := db.Err(); err != nil {
				t.Errorf("the ledger is said to have failed: %v", err)
			}
			s.exec("ROLLBACK")
			if got, err := db.expireDue(t.Context(), token, 1000, db.Now()); err != nil || len(got) != leaves*6 {
				t.Errorf("once they are free: %d ended, %v", len(got), err)
			}
			if n := b.number("SELECT COUNT(*) FROM due"); n != 0 {
				t.Errorf("%d rows are left on the due list", n)
			}
			b.clean(db)
		})
	}
}

// TestExpiryBesideAHotRow: a row that gateways sell of while it is looked at is not taken
// for one that is held, and its orders expire though another SKU's rows are.
func TestExpiryBesideAHotRow(t *testing.T) {
	b := mariaBed(t)
	db := b.open()
	token := b.lead(db)
	hot, held := b.sku("hot", 1_000_000, 0), b.sku("held", 100, 0)
	settleGroup(t, db, admitted(hot, claims(hot, "old", 50)...), admitted(held, claims(held, "old", 50)...))
	b.overdue(db)
	lock := b.lockStock("held")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for seller := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := db.Commit(t.Context(), admitted(hot, claims(hot, fmt.Sprintf("%d-%d", seller, i), 20)...)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	got, err := db.expireDue(t.Context(), token, 1000, db.Now())
	close(stop)
	wg.Wait()
	if len(got) != 50 || got[0].SKU != "hot" || !errors.Is(err, errHeld) {
		t.Errorf("%d ended, %v", len(got), err)
	}
	lock.exec("COMMIT")
	if got, err := db.expireDue(t.Context(), token, 1000, db.Now()); err != nil || len(got) != 50 {
		t.Errorf("once it is free: %d ended, %v", len(got), err)
	}
	b.clean(db)
}
