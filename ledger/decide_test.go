package ledger

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// modelLedger is the ledger without any cleverness: one claim at a time, sums
// computed anew from the list of all orders.
type modelLedger struct {
	sku    *sale.SKU
	stock  sale.Stock // all segments together; Sold counts only orders from before
	orders []sale.Order
	before map[string]int64
}

func (m *modelLedger) offer(c *sale.Claim, now int64) sale.Outcome {
	for _, o := range m.orders {
		if o.ID == c.ID {
			if o.Hash == c.Hash && o.User == c.User && o.SKU == c.SKU {
				return sale.Duplicate
			}
			return sale.Conflict
		}
	}
	if g := m.sku.Gate(now); g != sale.Reserved {
		return g
	}
	sold, bought := m.stock.Sold, m.before[c.User]
	for _, o := range m.orders {
		if o.Version == 0 { // made by this model
			sold += o.Quantity
			if o.User == c.User {
				bought += o.Quantity
			}
		}
	}
	if m.sku.PerUserLimit > 0 && bought+c.Quantity > m.sku.PerUserLimit {
		return sale.LimitReached
	}
	if sold+c.Quantity > m.stock.Total-m.stock.Reserved {
		return sale.SoldOut
	}
	m.orders = append(m.orders, sale.Order{ID: c.ID, SKU: c.SKU, User: c.User, Hash: c.Hash, Quantity: c.Quantity})
	return sale.Reserved
}

func TestDecideAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const now = 1_000_000
		segments := rapid.IntRange(1, 4).Draw(t, "segments")
		sku := &sale.SKU{
			Name: "s", UnitPrice: 7, Currency: "EUR", PayWithin: 1000, Segments: segments, Version: 3,
			PerUserLimit: rapid.Int64Range(0, 4).Draw(t, "limit"),
			State:        rapid.SampledFrom([]sale.SaleState{sale.StateOpen, sale.StateOpen, sale.StateOpen, sale.StatePaused, sale.StateClosed}).Draw(t, "state"),
			OpensAt:      rapid.SampledFrom([]int64{0, 0, 0, now, now + 1}).Draw(t, "opens"),
			ClosesAt:     rapid.SampledFrom([]int64{0, 0, 0, now, now + 1}).Draw(t, "closes"),
		}
		k := &knowledge{now: now, sku: sku, orders: map[sale.OrderID]sale.Order{}, units: map[string]int64{}}
		model := &modelLedger{sku: sku, before: k.units}
		for i := range segments {
			total := rapid.Int64Range(0, 8).Draw(t, "total")
			reserved := rapid.Int64Range(0, total).Draw(t, "reserved")
			st := sale.Stock{Total: total, Reserved: reserved, Sold: rapid.Int64Range(0, total-reserved).Draw(t, "sold")}
			k.stock = append(k.stock, segmentStock{segment: i, Stock: st})
			model.stock.Total += st.Total
			model.stock.Reserved += st.Reserved
			model.stock.Sold += st.Sold
		}
		asks := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ask {
			user := fmt.Sprintf("u%d", rapid.IntRange(0, 3).Draw(t, "user"))
			c := claim(sku, user, fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "key")), rapid.Int64Range(1, 3).Draw(t, "quantity"))
			return ask{claim: c, segment: rapid.IntRange(anySegment, segments).Draw(t, "segment")}
		}), 0, 12).Draw(t, "asks")
		// Some of the claims were decided long ago.
		for i := range asks {
			if rapid.IntRange(0, 4).Draw(t, "known") == 0 {
				o := sale.NewOrder(asks[i].claim, sku, 0, now-5000)
				k.orders[o.ID] = o
			}
		}
		for _, o := range k.orders {
			model.orders = append(model.orders, o)
		}
		for u := range 4 {
			k.units[fmt.Sprintf("u%d", u)] = rapid.Int64Range(0, 3).Draw(t, "units")
		}

		r := decide(now, k, asks)

		placed := map[int]int64{}
		for i, a := range asks {
			if want := model.offer(a.claim, now); r.verdicts[i].Outcome != want {
				t.Fatalf("claim %d: %v, the model says %v", i, r.verdicts[i].Outcome, want)
			}
			switch v := r.verdicts[i]; v.Outcome {
			case sale.Reserved:
				placed[v.Order.Segment] += v.Order.Quantity
				if v.Order.ID != a.claim.ID || v.Order.ReservedAt != now {
					t.Fatalf("claim %d got the order %+v", i, v.Order)
				}
			case sale.Duplicate:
				if v.Order == nil || v.Order.ID != a.claim.ID {
					t.Fatalf("claim %d is a repeat of %+v", i, v.Order)
				}
			default:
				if v.Order != nil {
					t.Fatalf("claim %d: a refusal with an order", i)
				}
			}
		}
		checkRuling(t, k, &r, placed)
	})
}

// checkRuling holds what is to be written against what was decided.
func checkRuling(t *rapid.T, k *knowledge, r *ruling, placed map[int]int64) {
	var total, reserved int64
	for i, s := range r.stock {
		before := k.stock[i]
		if s.Available() < 0 || s.Total < 0 || s.Sold < 0 || s.Reserved != before.Reserved {
			t.Fatalf("stock row %+v was %+v", s, before)
		}
		if s.Sold != before.Sold+placed[s.segment] {
			t.Fatalf("segment %d sold %d, was %d, placed %d", s.segment, s.Sold, before.Sold, placed[s.segment])
		}
		if !s.changed && s.Stock != before.Stock {
			t.Fatalf("row %+v changed unnoticed", s)
		}
		total += s.Total - before.Total
		reserved += s.Reserved - before.Reserved
	}
	if total != 0 || reserved != 0 {
		t.Fatalf("moving between segments made %d units", total)
	}
	users := map[string]int64{}
	for _, o := range r.orders {
		if k.sku.PerUserLimit > 0 {
			users[o.User] += o.Quantity
		}
	}
	if fmt.Sprint(users) != fmt.Sprint(map[string]int64(r.units)) && len(users)+len(r.units) > 0 {
		t.Fatalf("units %v to write, orders hold %v", r.units, users)
	}
	soldOut := false
	for _, v := range r.verdicts {
		soldOut = soldOut || v.Outcome == sale.SoldOut
	}
	if soldOut != (r.left != nil) {
		t.Fatalf("left is %v, sold out: %v", r.left, soldOut)
	}
	for _, s := range r.stock {
		if soldOut && r.left[s.segment] != s.Available() {
			t.Fatalf("left of segment %d is %d, the row has %d", s.segment, r.left[s.segment], s.Available())
		}
	}
}

func TestDecideUnknownSKU(t *testing.T) {
	sku := &sale.SKU{Name: "s"}
	r := decide(1, &knowledge{}, []ask{{claim: claim(sku, "a", "1", 1)}})
	if r.verdicts[0].Err != sale.ErrUnknownSKU || len(r.orders) != 0 {
		t.Fatalf("%+v", r)
	}
}
