package ledger

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// TestManyLedgersOneDatabase lets several gateways' ledgers loose on one database,
// with few SKUs, few buyers, repeats across gateways, stale rules, and (MariaDB)
// connections that break. Whatever they were told must be true in the end.
func TestManyLedgersOneDatabase(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		var proxy *testenv.Proxy
		ledgers, callers, rounds := 3, 4, 60
		if b.cfg.Driver == "sqlite" {
			ledgers, callers, rounds = 2, 2, 25
		} else {
			b, proxy = proxied(t)
		}
		skus := []*sale.SKU{
			b.sku("a-limit", 400, 3), b.sku("b-free", 600, 0), b.sku("c-few", 30, 2),
			b.sku("d-wide", 400, 4, func(s *sale.SKU) { s.Segments = 4 }), b.sku("e-gone", 0, 0),
		}
		h := &history{t: t, proxy: proxy, offered: map[sale.OrderID]*sale.Claim{}, reserved: map[sale.OrderID]int{}, refused: map[sale.OrderID]bool{}}
		var wg sync.WaitGroup
		for l := range ledgers {
			db := b.open(func(c *Config) { c.MaxGroup = 64 })
			for caller := range callers {
				rng := rand.New(rand.NewPCG(uint64(l), uint64(caller)))
				wg.Go(func() {
					for range rounds {
						h.round(db, rng, skus)
					}
				})
			}
		}
		wg.Wait()
		b.checkInvariants()
		h.check(b)
	})
}

// history is everything that all gateways were told.
type history struct {
	t     *testing.T
	proxy *testenv.Proxy // or nil

	mu       sync.Mutex
	rounds   int
	offered  map[sale.OrderID]*sale.Claim
	reserved map[sale.OrderID]int
	refused  map[sale.OrderID]bool // for stock or limit, and never reserved before
	unsure   int
}

func (h *history) round(db *DB, rng *rand.Rand, skus []*sale.SKU) {
	sku := skus[rng.IntN(len(skus))]
	if rng.IntN(10) == 0 {
		stale := *sku
		stale.Version--
		sku = &stale
	}
	list := make([]*sale.Claim, 1+rng.IntN(12))
	segments := make([]int, len(list))
	for i := range list {
		user, key := fmt.Sprintf("u%d", rng.IntN(150)), fmt.Sprintf("k%d", rng.IntN(4))
		// The quantity follows from the key, so that the same id is the same order,
		// except once in a while.
		quantity := 1 + int64(key[1]-'0')%2
		if rng.IntN(50) == 0 {
			quantity = 3
		}
		list[i] = claim(sku, user, key, quantity)
		segments[i] = rng.IntN(sku.Segments)
	}
	batch := sale.CommitBatch{SKU: sku, Claims: list, Segments: segments}
	if rng.IntN(3) == 0 {
		batch.Segments, batch.LockFirst = nil, true
	}
	r, err := db.Commit(h.t.Context(), batch)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disturb()
	if err != nil {
		h.unsure++
		return
	}
	for i, v := range r.Verdicts {
		id := list[i].ID
		h.offered[id] = list[i]
		switch v.Outcome {
		case sale.Reserved:
			h.reserved[id]++
			fallthrough
		case sale.Duplicate:
			if v.Order == nil || v.Order.ID != id || v.Order.User != list[i].User || v.Order.Quantity != list[i].Quantity {
				h.t.Errorf("claim %+v was answered with %+v", list[i], v.Order)
			}
		case sale.Conflict, sale.LimitReached, sale.SoldOut:
			h.refused[id] = true
		default:
			h.t.Errorf("verdict %v, %v", v.Outcome, v.Err)
		}
	}
}

// disturb breaks connections after every few rounds, and so never more often than the
// ledgers get on: all of them, wherever they are, or one before or after a COMMIT.
func (h *history) disturb() {
	if h.rounds++; h.proxy == nil || h.rounds%8 != 0 {
		return
	}
	switch h.rounds / 8 % 4 {
	case 0, 1:
		h.proxy.Cut()
	case 2:
		h.proxy.CutBefore(";COMMIT;")
	case 3:
		h.proxy.SwallowReply(";COMMIT;")
	}
}

func (h *history) check(b *bed) {
	twice := 0
	for id, n := range h.reserved {
		if n > 1 {
			twice++
		}
		if b.number("SELECT COUNT(*) FROM orders WHERE order_id = ?", id[:]) != 1 {
			h.t.Errorf("order %v was reserved and is not there", id)
		}
	}
	if twice > 0 {
		h.t.Errorf("%d orders were reserved more than once", twice)
	}
	if h.unsure == 0 {
		if n := b.number("SELECT COUNT(*) FROM orders"); n != int64(len(h.reserved)) {
			h.t.Errorf("%d orders, %d were reserved", n, len(h.reserved))
		}
	}
	h.t.Logf("%d orders reserved, %d ids refused at least once, %d calls without a verdict", len(h.reserved), len(h.refused), h.unsure)
}
