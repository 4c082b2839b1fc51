package ledger

import (
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// A purchase that was begun in time and waits for its stock row until the sale is over is
// not made any more: whoever was told meanwhile that the sale is over was told the truth.
func TestNoSaleIsMadeBehindItsEnd(t *testing.T) {
	needServers(t)
	b := mariaBed(t)
	db, other := b.open(), b.open()
	now := func() int64 {
		return b.number("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000")
	}
	closes := now() + 400
	sku := b.sku("shoe", 10, 0, func(s *sale.SKU) { s.ClosesAt = closes })
	same := claim(sku, "ann", "1", 1)
	holder := b.lockStock(sku.Name)
	first := make(chan sale.CommitResult, 1)
	go func() { // its answer is waited for below
		r, err := db.Commit(t.Context(), admitted(sku, same))
		if err != nil {
			t.Error(err)
		}
		first <- r
	}()
	b.executing("stock")
	testenv.Eventually(t, func() bool { return now() >= closes }, "the sale is over")
	second := make(chan sale.CommitResult, 1)
	go func() {
		r, err := other.Commit(t.Context(), direct(sku, same))
		if err != nil {
			t.Error(err)
		}
		second <- r
	}()
	b.executing("FOR UPDATE")
	holder.exec("ROLLBACK")
	for _, got := range []sale.CommitResult{<-first, <-second} {
		if len(got.Verdicts) != 1 || got.Verdicts[0].Outcome != sale.Closed {
			t.Errorf("after the end: %+v", got.Verdicts)
		}
	}
	if n := b.number("SELECT COUNT(*) FROM orders"); n != 0 {
		t.Errorf("%d orders were made", n)
	}
}

// Until its end a sale goes on, in groups, with others that have no end.
func TestSalesThatCloseSoon(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		soon := b.sku("soon", 10, 0, func(s *sale.SKU) { s.ClosesAt = time.Now().Add(closingSoon / 2).UnixMilli() })
		over := b.sku("over", 10, 0, func(s *sale.SKU) { s.ClosesAt = time.Now().UnixMilli() - 1 })
		never := b.sku("never", 10, 0)
		for _, r := range settleGroup(t, db, admitted(soon, claims(soon, "v", 2)...), admitted(never, claims(never, "v", 2)...)) {
			if r.Contradicted || r.Verdicts[0].Outcome != sale.Reserved {
				t.Errorf("in one group: %+v", r)
			}
		}
		for want, sku := range map[sale.Outcome]*sale.SKU{sale.Reserved: soon, sale.Closed: over} {
			r, err := db.Commit(t.Context(), admitted(sku, claims(sku, "u", 2)...))
			if err != nil || r.Verdicts[0].Outcome != want || r.Verdicts[1].Outcome != want {
				t.Errorf("%s: %+v, %v", sku.Name, r.Verdicts, err)
			}
		}
		b.checkInvariants()
	})
}

// A gateway whose measure of the clock is of before it was set, by an hour in either
// direction, makes no order by it, and soon measures anew.
func TestNoOrderIsMadeByAWrongClock(t *testing.T) {
	needServers(t)
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		b := mariaBed(t)
		db := b.open()
		sku := b.sku("shoe", 100, 2)
		settleGroup(t, db, admitted(sku, claims(sku, "before", 10)...))
		db.clock.offset.Add(ahead.Microseconds())
		settleGroup(t, db, admitted(sku, claims(sku, "wrong", 10)...))
		now := b.number("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000")
		if n := b.number("SELECT COUNT(*) FROM orders WHERE ABS(reserved_at - ?) < 60000 AND pay_by = reserved_at + 900000", now); n != 20 {
			t.Errorf("%v ahead: %d of 20 orders are of now", ahead, n)
		}
		testenv.Eventually(t, func() bool {
			now := b.number("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000")
			apart := db.Now() - now
			return max(apart, -apart) < atWithin
		}, "the clock is measured anew")
		b.clean(db)
	}
}
