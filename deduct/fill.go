package deduct

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

// loadChunk is how many fields go into one HSET.
const loadChunk = 500

// fill reads the ledger and writes everything but the units left, which it returns by
// segment. The order of the reads is what keeps a copy from being too poor: buyers and
// stock before the look at what became of the batches that were still tentative.
func (s *Shield) fill(ctx context.Context, sku *sale.SKU, loads []*load) (map[int]int64, error) {
	if err := s.fillOrders(ctx, sku, loads); err != nil {
		return nil, err
	}
	if sku.PerUserLimit > 0 {
		if err := s.fillBuyers(ctx, sku, loads); err != nil {
			return nil, err
		}
	}
	all, err := s.unitsLeft(ctx, []*sale.SKU{sku})
	if err != nil {
		return nil, err
	}
	left := all[sku.Name]
	if left == nil {
		left = make(map[int]int64)
	}
	if err := s.judgeCarried(ctx, loads); err != nil {
		return nil, err
	}
	for _, l := range loads {
		for _, t := range l.carried {
			left[l.segment] -= t.quantity
		}
		if err := s.writeCarried(ctx, sku, l); err != nil {
			return nil, err
		}
	}
	return left, nil
}

func (s *Shield) fillOrders(ctx context.Context, sku *sale.SKU, loads []*load) error {
	bySegment := make(map[int]*load, len(loads))
	for _, l := range loads {
		bySegment[l.segment] = l
	}
	fields := make(map[*load][]any, len(loads))
	err := s.ledger.EachOrder(ctx, sku.Name, func(orders []sale.HeldOrder) error {
		for i := range orders {
			if l := bySegment[inFamily(orders[i].Segment, segmentsOf(sku))]; l != nil {
				fields[l] = append(fields[l], "o:"+string(orders[i].ID[:]), standsFor(orders[i].Ended))
			}
		}
		for _, l := range loads {
			if err := s.write(ctx, l, fields[l]); err != nil {
				return err
			}
			fields[l] = fields[l][:0]
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("deduct: loading orders of %s: %w", sku.Name, err)
	}
	return nil
}

// standsFor is what an order's id stands for in a copy that is loaded: whose units were
// given back has none to give, however often that is told.
func standsFor(ended bool) string {
	if ended {
		return "released"
	}
	return "ledger"
}

// fillBuyers gives every segment all of a buyer's units, so that a limit reached in one
// counts in all; what is bought later counts only where it was bought.
func (s *Shield) fillBuyers(ctx context.Context, sku *sale.SKU, loads []*load) error {
	var fields []any
	err := s.ledger.EachBuyer(ctx, sku.Name, func(users []string, units []int64) error {
		fields = fields[:0]
		for i, u := range users {
			if units[i] > 0 {
				fields = append(fields, "u:"+u, units[i])
			}
		}
		for _, l := range loads {
			if err := s.write(ctx, l, fields); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("deduct: loading buyers of %s: %w", sku.Name, err)
	}
	return nil
}

// write adds fields and values to a new generation's hash. The hash gets its time to
// live with every write: a loader that was stopped for a minute and goes on writing
// leaves nothing behind for good.
func (s *Shield) write(ctx context.Context, l *load, fields []any) error {
	if len(fields) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	key := hashKey(l.tag, l.gen.name)
	var added []*redis.IntCmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for len(fields) > 0 {
			n := min(len(fields), 2*loadChunk)
			added = append(added, p.HSet(ctx, key, fields[:n]...))
			fields = fields[n:]
		}
		p.PExpire(ctx, key, unfinishedTTL)
		return nil
	})
	if err != nil {
		return away(err)
	}
	for _, a := range added {
		l.fields += a.Val()
	}
	return nil
}

// unitsLeft is, by SKU and segment, the formula (a - b) - ledger's log, less what is
// promised to claims in the backlog. The backlog is read last: what leaves it meanwhile is
// in neither. SKUs that the ledger does not have are left out.
func (s *Shield) unitsLeft(ctx context.Context, skus []*sale.SKU) (map[string]map[int]int64, error) {
	names := make([]string, len(skus))
	for i, sku := range skus {
		names[i] = sku.Name
	}
	stocks, err := s.ledger.Stocks(ctx, names)
	if err != nil {
		return nil, fmt.Errorf("deduct: stock of %d SKUs, as of %s: %w", len(names), names[0], err)
	}
	parked, err := s.parked(ctx, names)
	if err != nil {
		return nil, err
	}
	left := make(map[string]map[int]int64, len(stocks))
	for _, sku := range skus {
		if stock, ok := stocks[sku.Name]; ok {
			left[sku.Name] = available(sku, stock, parked[sku.Name])
		}
	}
	return left, nil
}

// available is the units left by segment, less those that are promised to claims in the
// backlog.
func available(sku *sale.SKU, stock map[int]sale.Stock, parked int64) map[int]int64 {
	left := make(map[int]int64)
	for segment, st := range stock {
		left[inFamily(segment, segmentsOf(sku))] += st.Available()
	}
	for segment := 0; segment < segmentsOf(sku) && parked > 0; segment++ {
		n := min(parked, max(0, left[segment]))
		left[segment] -= n
		parked -= n
	}
	return left
}

func (s *Shield) parked(ctx context.Context, skus []string) (map[string]int64, error) {
	if s.cfg.Parked == nil {
		return nil, nil
	}
	units, err := s.cfg.Parked(ctx, skus)
	if err != nil {
		return nil, fmt.Errorf("deduct: backlog of %d SKUs: %w", len(skus), elsewhere(err))
	}
	return units, nil
}

// judgeCarried sorts what was tentative in the old generations into what the ledger
// knows by now and what has to be carried over, to be settled or judged in the new one.
func (s *Shield) judgeCarried(ctx context.Context, loads []*load) error {
	for _, l := range loads {
		batches, found, err := s.findBatches(ctx, l.tag, l.carry)
		if err != nil {
			return err
		}
		l.carriers = make(map[sale.OrderID]string)
		for token, t := range batches {
			open := false
			for _, c := range t.claims {
				if o, ok := found[c.id]; ok {
					l.settled = append(l.settled, o)
					continue
				}
				open = true
				l.carried = append(l.carried, c)
				l.carriers[c.id] = token
			}
			if !open {
				delete(l.carry, token)
			}
		}
	}
	return nil
}

// findBatches reads the records of tentative batches, by token, and asks the ledger for
// their orders, some at a time. A damaged record is a batch of no claims: its units come
// back with the next load, or when the family is sold out.
func (s *Shield) findBatches(ctx context.Context, family string, records map[string]string) (map[string]tentative, map[sale.OrderID]sale.Order, error) {
	var ids []sale.OrderID
	batches := make(map[string]tentative, len(records))
	for token, rec := range records {
		t, err := decodeRecord(rec)
		if err != nil {
			s.log.Error("tentative batch dropped", "family", family, "err", err)
		}
		batches[token] = t
		for _, c := range t.claims {
			ids = append(ids, c.id)
		}
	}
	found := make(map[sale.OrderID]sale.Order)
	for some := range slices.Chunk(ids, maxBatch) {
		orders, err := s.ledger.Find(ctx, some)
		if err != nil {
			return nil, nil, fmt.Errorf("deduct: looking up tentative orders: %w", err)
		}
		maps.Copy(found, orders)
	}
	return batches, found, nil
}

// writeCarried writes the ids and buyers' units of carried batches, and of those that
// the ledger committed while it was being read.
func (s *Shield) writeCarried(ctx context.Context, sku *sale.SKU, l *load) error {
	var fields []any
	for i := range l.settled {
		o := &l.settled[i]
		fields = append(fields, "o:"+string(o.ID[:]), standsFor(!o.Status.Live()))
	}
	units := make(map[string]int64)
	for _, c := range l.carried {
		fields = append(fields, "o:"+string(c.id[:]), l.carriers[c.id])
		units[c.user] += c.quantity
	}
	if err := s.write(ctx, l, fields); err != nil {
		return err
	}
	if sku.PerUserLimit == 0 || len(units)+len(l.settled) == 0 {
		return nil
	}
	key := hashKey(l.tag, l.gen.name)
	var first []*redis.BoolCmd
	sums := make(map[string]*redis.IntCmd, len(units))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range l.settled {
			// A buyer whom the ledger did not name yet bought for the first time; of the
			// others it is not known whether this order was counted.
			if o := &l.settled[i]; o.Status.Live() {
				first = append(first, p.HSetNX(ctx, key, "u:"+o.User, o.Quantity))
			}
		}
		for u, n := range units {
			sums[u] = p.HIncrBy(ctx, key, "u:"+u, n)
		}
		return nil
	})
	if err != nil {
		return away(err)
	}
	for _, f := range first {
		if f.Val() {
			l.fields++
		}
	}
	for u, n := range units {
		if sums[u].Val() == n { // the field is new: those written before are never 0
			l.fields++
		}
	}
	return nil
}
