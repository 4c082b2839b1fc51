package ledger

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"flashgate/sale"
)

// settleGroup decides the batches as one group and returns their results.
func settleGroup(t *testing.T, db *DB, batches ...sale.CommitBatch) []sale.CommitResult {
	t.Helper()
	c := db.newCommitter(shared)
	defer c.drop()
	group := make([]*call, len(batches))
	for i, b := range batches {
		w, err := newCall(b)
		if err != nil {
			t.Fatal(err)
		}
		group[i] = w
	}
	c.settle(group)
	results := make([]sale.CommitResult, len(group))
	for i, w := range group {
		select {
		case r := <-w.done:
			if r.err != nil {
				t.Fatalf("batch %d: %v", i, r.err)
			}
			results[i] = r.result
		default:
			t.Fatalf("batch %d has no reply", i)
		}
	}
	return results
}

func expect(t *testing.T, r sale.CommitResult, contradicted bool, want ...string) {
	t.Helper()
	if got := outcomes(r); !slices.Equal(got, want) || r.Contradicted != contradicted {
		t.Fatalf("got %v, contradicted %v; want %v, %v", got, r.Contradicted, want, contradicted)
	}
}

func count(t *testing.T, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

func TestPoisonedClaimCostsOneRegroup(t *testing.T) {
	poisons := map[string]func(b *bed, db *DB, sku *sale.SKU) ([]*sale.Claim, string){
		"sold out": func(b *bed, _ *DB, sku *sale.SKU) ([]*sale.Claim, string) {
			b.exec("UPDATE stock SET total = 0 WHERE sku = ?", sku.Name)
			return claims(sku, "u", 1), "sold_out"
		},
		"limit": func(b *bed, db *DB, sku *sale.SKU) ([]*sale.Claim, string) {
			settleGroup(b.t.(*testing.T), db, admitted(sku, claim(sku, "ann", "1", 2)))
			return []*sale.Claim{claim(sku, "ann", "2", 1)}, "limit_reached"
		},
		"repeat": func(b *bed, db *DB, sku *sale.SKU) ([]*sale.Claim, string) {
			settleGroup(b.t.(*testing.T), db, admitted(sku, claim(sku, "ann", "1", 1)))
			return []*sale.Claim{claim(sku, "ann", "1", 1)}, "duplicate"
		},
	}
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		round := 0
		for name, poison := range poisons {
			t.Run(name, func(t *testing.T) {
				b.t = t
				round++
				var batches []sale.CommitBatch
				for i := range 6 {
					sku := b.sku(fmt.Sprintf("s-%d-%d", round, i), 100, 2)
					list, want := claims(sku, "x", 10), "reserved"
					if i == 3 {
						list, want = poison(b, db, sku)
					}
					_ = want
					batches = append(batches, admitted(sku, list...))
				}
				regroups, locked := count(t, db.metrics.regroups), count(t, db.metrics.groups.WithLabelValues("lock_first"))
				optimistic := count(t, db.metrics.groups.WithLabelValues("optimistic"))
				for i, r := range settleGroup(t, db, batches...) {
					if i == 3 {
						if r.Verdicts[0].Outcome == sale.Reserved || !r.Contradicted {
							t.Errorf("the poisoned claim: %+v", r)
						}
						continue
					}
					for _, v := range r.Verdicts {
						if v.Outcome != sale.Reserved || r.Contradicted {
							t.Errorf("batch %d: %+v", i, r)
						}
					}
				}
				regroups = count(t, db.metrics.regroups) - regroups
				locked = count(t, db.metrics.groups.WithLabelValues("lock_first")) - locked
				optimistic = count(t, db.metrics.groups.WithLabelValues("optimistic")) - optimistic
				if regroups != 1 || locked != 1 || optimistic != 1 {
					t.Errorf("%v regroups, %v optimistic and %v locked transactions; want one each", regroups, optimistic, locked)
				}
				b.checkInvariants()
			})
		}
	})
}

func TestTwoPoisonsFindTheirWay(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		gone, full, fine := b.sku("gone", 0, 0), b.sku("full", 100, 1), b.sku("fine", 100, 0)
		settleGroup(t, db, admitted(full, claim(full, "ann", "1", 1)))
		r := settleGroup(t, db,
			admitted(gone, claims(gone, "u", 2)...),
			admitted(full, claim(full, "bob", "1", 1), claim(full, "ann", "2", 1)),
			admitted(fine, claims(fine, "u", 2)...))
		expect(t, r[0], true, "sold_out", "sold_out")
		expect(t, r[1], true, "reserved", "limit_reached")
		expect(t, r[2], false, "reserved", "reserved")
		b.checkInvariants()
	})
}

func TestStaleRules(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		old := b.sku("shoe", 10, 0)
		change := func(set string) {
			b.exec("UPDATE skus SET version = version + 1, " + set + " WHERE sku = 'shoe'")
			b.exec("UPDATE stock SET sku_version = sku_version + 1 WHERE sku = 'shoe'")
		}
		// A new price: sold at it, and nobody is contradicted.
		change("unit_price = 500")
		r := settleGroup(t, db, admitted(old, claim(old, "ann", "1", 2)))
		expect(t, r[0], false, "reserved")
		if got := r[0].Verdicts[0].Order.Amount; got != 1000 {
			t.Errorf("sold for %d", got)
		}
		// A new limit: it counts although the gateway knows of none.
		b.exec("INSERT INTO buyers (sku, user_id, units, unit_limit) VALUES ('shoe', 'ann', 2, 2)")
		change("per_user_limit = 2")
		r = settleGroup(t, db, admitted(old, claim(old, "ann", "2", 1), claim(old, "bob", "1", 2)))
		expect(t, r[0], true, "limit_reached", "reserved")
		change("state = 'paused'")
		r = settleGroup(t, db, admitted(old, claim(old, "cid", "1", 1), claim(old, "ann", "1", 2)))
		expect(t, r[0], true, "paused", "duplicate")
		change("state = 'closed'")
		r = settleGroup(t, db, admitted(old, claim(old, "cid", "1", 1)))
		expect(t, r[0], false, "closed")
		b.checkInvariants()
	})
}

func TestGateAtTheLedger(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		soon := b.sku("soon", 10, 0, func(s *sale.SKU) { s.OpensAt = db.Now() + 3_600_000 })
		over := b.sku("over", 10, 0, func(s *sale.SKU) { s.ClosesAt = db.Now() - 1 })
		r := settleGroup(t, db, admitted(soon, claims(soon, "u", 1)...), admitted(over, claims(over, "u", 1)...))
		expect(t, r[0], false, "not_open")
		expect(t, r[1], false, "closed")
		if n := b.number("SELECT COUNT(*) FROM orders"); n != 0 {
			t.Errorf("%d orders", n)
		}
	})
}

func TestMissingRows(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 10, 0)
		// A segment that does not exist must not come into being.
		batch := admitted(sku, claims(sku, "u", 2)...)
		batch.Segments = []int{7, 0}
		expect(t, settleGroup(t, db, batch)[0], false, "reserved", "reserved")
		if n := b.number("SELECT COUNT(*) FROM stock"); n != 1 {
			t.Errorf("%d stock rows", n)
		}
		ghost := *sku
		ghost.Name = "ghost"
		r := settleGroup(t, db, admitted(&ghost, claims(&ghost, "u", 1)...), admitted(sku, claims(sku, "v", 1)...), direct(&ghost, claims(&ghost, "w", 1)...))
		expect(t, r[0], false, "error")
		expect(t, r[1], false, "reserved")
		expect(t, r[2], false, "error")
		if r[0].Verdicts[0].Err != sale.ErrUnknownSKU {
			t.Errorf("error %v", r[0].Verdicts[0].Err)
		}
		b.checkInvariants()
	})
}

func TestSameOrderIDTwiceInAGroup(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku, fine := b.sku("shoe", 10, 1), b.sku("fine", 10, 0)
		other := claim(sku, "ann", "1", 1)
		other.Hash = sale.HashRequest(1, "coupon")
		r := settleGroup(t, db,
			admitted(sku, claim(sku, "ann", "1", 1), claim(sku, "ann", "1", 1)),
			admitted(fine, claims(fine, "u", 3)...),
			admitted(sku, claim(sku, "ann", "1", 1), other))
		expect(t, r[0], true, "reserved", "duplicate")
		expect(t, r[1], false, "reserved", "reserved", "reserved")
		expect(t, r[2], true, "duplicate", "conflict")
		b.checkInvariants()
	})
}

func TestSegments(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 12, 0, func(s *sale.SKU) { s.Segments = 4 })
		// Admitted: each from the segment it names.
		batch := admitted(sku, claims(sku, "a", 4)...)
		batch.Segments = []int{3, 3, 1, 0}
		r := settleGroup(t, db, batch)
		expect(t, r[0], false, "reserved", "reserved", "reserved", "reserved")
		for i, v := range r[0].Verdicts {
			if v.Order.Segment != batch.Segments[i] {
				t.Errorf("order %d is of segment %d", i, v.Order.Segment)
			}
		}
		// Left: 2, 2, 3, 1. Direct claims fill up what is fullest, and three units come
		// together from rows of which none has them.
		r = settleGroup(t, db, direct(sku, claim(sku, "x", "1", 3), claim(sku, "y", "1", 3), claim(sku, "z", "1", 3), claim(sku, "z", "2", 2)))
		expect(t, r[0], false, "reserved", "reserved", "sold_out", "reserved")
		sum := int64(0)
		for _, n := range r[0].Left {
			sum += n
		}
		if len(r[0].Left) != 4 || sum != 0 {
			t.Errorf("left %v", r[0].Left)
		}
		stock, err := db.Stock(t.Context(), "shoe")
		if err != nil {
			t.Fatal(err)
		}
		var all sale.Stock
		for _, s := range stock {
			all.Total += s.Total
			all.Sold += s.Sold
		}
		if all.Total != 12 || all.Sold != 12 {
			t.Errorf("stock %v", stock)
		}
		b.checkInvariants()
	})
}

func TestInvalidClaimsDoNotSpoilTheBatch(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		sku := b.sku("shoe", 10, 0)
		bad := claim(sku, "a b\x00'", "1", 1)
		none := claim(sku, "ann", "1", 0)
		stray := claim(&sale.SKU{Name: "other"}, "ann", "1", 1)
		r, err := db.Commit(t.Context(), admitted(sku, bad, claim(sku, "o'neil\\", "1", 1), none, stray))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, false, "error", "reserved", "error", "error")
		o, err := db.Order(t.Context(), r.Verdicts[1].Order.ID)
		if err != nil || o.User != "o'neil\\" {
			t.Errorf("%+v, %v", o, err)
		}
		if _, err := db.Commit(t.Context(), sale.CommitBatch{SKU: sku, Claims: claims(sku, "u", 2), Segments: []int{0}}); err == nil {
			t.Error("a batch with too few segments was accepted")
		}
	})
}
