package deduct

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

const (
	// bulkFew is how many orders, and buyers, a SKU may have to be loaded together with
	// others: with more a few would hold up the others, with fewer most SKUs of a sale that
	// has begun would be loaded one by one.
	bulkFew = 100
	// bulkLooks is how often a SKU that another gateway is loading is looked at again,
	// every busyPoll, before it is left to Rebuild.
	bulkLooks = 10
)

// BulkLoad does what Rebuild does for many SKUs at once, in a few round trips for all of
// them. It returns those that it leaves to Rebuild, because they have many orders or
// claims that are still tentative, or are being loaded by another gateway, and those that
// failed, each with an error as Rebuild's.
func (s *Shield) BulkLoad(ctx context.Context, skus []*sale.SKU) (alone []*sale.SKU, failed map[*sale.SKU]error) {
	began := time.Now()
	b := &bulk{Shield: s, failed: make(map[*sale.SKU]error)}
	for _, sku := range skus {
		b.open = append(b.open, &bulkSKU{SKU: sku, view: s.view(sku.Name)})
	}
	// A copy stays in use when the ledger does not answer.
	if len(skus) > 0 {
		if _, err := s.ledger.Stocks(ctx, []string{skus[0].Name}); err != nil {
			b.failAll(fmt.Errorf("deduct: stock of %s: %w", skus[0].Name, err))
		}
	}
	for look := 0; len(b.open) > 0; look++ {
		if look == bulkLooks || look > 0 && pause(ctx, busyPoll) != nil {
			for _, sku := range b.open {
				b.alone = append(b.alone, sku.SKU)
			}
			break
		}
		b.round(ctx)
	}
	took := time.Since(began)
	for range len(skus) - len(b.alone) - len(b.failed) {
		s.metrics.rebuilt(took, nil)
	}
	for _, err := range b.failed {
		s.metrics.rebuilt(took, err)
	}
	return b.alone, b.failed
}

// bulk is one BulkLoad. Its caller's goroutine owns it. A SKU is open, or being loaded by
// the round that took it, or done: loaded, failed or left alone.
type bulk struct {
	*Shield
	open   []*bulkSKU
	alone  []*sale.SKU
	failed map[*sale.SKU]error
}

// bulkSKU is a SKU on its way through a round.
type bulkSKU struct {
	*sale.SKU
	view     *view
	families []*bulkFamily
	again    bool  // another gateway is at it
	alone    bool  // Rebuild has to do it
	err      error // why it failed
}

// bulkFamily is one of its families, and what Redis said of it. What is nil was not asked.
type bulkFamily struct {
	segment int
	pointer *redis.StringCmd
	inUse   *redis.BoolCmd
	load    *load
	begun   *redis.Cmd
	flipped *redis.Cmd
}

// round tries to load what is open. A step leaves out the SKUs that are decided: those
// that it is not to load, and those of which it could not reach a family.
func (b *bulk) round(ctx context.Context) {
	skus := b.open
	b.open = nil
	b.look(ctx, skus)
	b.begin(ctx, skus)
	if left := undecided(skus); len(left) > 0 {
		if err := b.fillAndFlip(ctx, left); err != nil {
			for _, sku := range left {
				sku.err = errors.Join(sku.err, err)
			}
		}
	}
	for _, sku := range skus {
		b.clear(ctx, sku)
		switch {
		case sku.err != nil:
			b.failed[sku.SKU] = sku.err
		case sku.alone:
			b.alone = append(b.alone, sku.SKU)
		case sku.again:
			b.open = append(b.open, &bulkSKU{SKU: sku.SKU, view: sku.view})
		}
	}
}

// undecided returns the SKUs with families to load.
func undecided(skus []*bulkSKU) []*bulkSKU {
	var out []*bulkSKU
	for _, sku := range skus {
		if sku.err == nil && !sku.alone && !sku.again && len(sku.families) > 0 {
			out = append(out, sku)
		}
	}
	return out
}

// look leaves each SKU with the families of which there is no copy in use that this
// gateway trusts.
func (b *bulk) look(ctx context.Context, skus []*bulkSKU) {
	b.send(ctx, skus, func(p redis.Pipeliner, sku *bulkSKU) {
		for segment := range segmentsOf(sku.SKU) {
			f := &bulkFamily{segment: segment, pointer: p.Get(ctx, pointerKey(b.keys.tag(sku.Name, segment)))}
			sku.families = append(sku.families, f)
		}
	})
	b.send(ctx, skus, func(p redis.Pipeliner, sku *bulkSKU) {
		for _, f := range sku.families {
			if err := f.pointer.Err(); err != nil && !errors.Is(err, redis.Nil) {
				sku.err = away(err)
			} else if g, ok := b.adopt(sku.view, sku.SKU, f.segment, f.pointer.Val()); ok {
				f.inUse = p.HExists(ctx, hashKey(b.keys.tag(sku.Name, f.segment), g.name), "m")
			}
		}
	})
	for _, sku := range skus {
		sku.families = slices.DeleteFunc(sku.families, func(f *bulkFamily) bool {
			if f.inUse != nil && f.inUse.Err() != nil {
				sku.err = away(f.inUse.Err())
			}
			return f.inUse != nil && f.inUse.Val()
		})
	}
}

// begin begins to load the families that are left.
func (b *bulk) begin(ctx context.Context, skus []*bulkSKU) {
	left := undecided(skus)
	b.send(ctx, left, func(p redis.Pipeliner, sku *bulkSKU) {
		for _, f := range sku.families {
			f.load = b.newLoad(sku.view, sku.SKU, f.segment, f.pointer.Val())
			keys, args := f.load.beginning()
			f.begun = b.scripts.begin.Eval(ctx, p, keys, args...)
		}
	})
	for _, sku := range left {
		for _, f := range sku.families {
			reply, err := f.begun.StringSlice()
			if err != nil {
				sku.err = away(err)
				continue
			}
			switch f.load.begun(reply) {
			case loadBusy, loadMoved:
				f.load, sku.again = nil, true
			case loadBegun:
				sku.alone = sku.alone || len(f.load.carry) > 0
			}
		}
	}
}

// fillAndFlip reads the ledger, writes what it says, and puts the copies into use. As in
// fill, the backlog is read last.
func (b *bulk) fillAndFlip(ctx context.Context, skus []*bulkSKU) error {
	names := make([]string, len(skus))
	for i, sku := range skus {
		names[i] = sku.Name
	}
	held, err := b.ledger.Holdings(ctx, names, bulkFew)
	if err != nil {
		return fmt.Errorf("deduct: loading %d SKUs: %w", len(names), err)
	}
	parked, err := b.parked(ctx, names)
	if err != nil {
		return err
	}
	b.send(ctx, skus, func(p redis.Pipeliner, sku *bulkSKU) {
		h := held[sku.Name]
		if h == nil || h.Partial {
			sku.alone = true
			return
		}
		left := available(sku.SKU, h.Stock, parked[sku.Name])
		for _, f := range sku.families {
			if fields := f.load.fieldsOf(sku.SKU, h); len(fields) > 0 {
				p.HSet(ctx, hashKey(f.load.tag, f.load.gen.name), fields...)
				f.load.fields += int64(len(fields) / 2)
			}
			keys, args := f.load.flipping(left[f.segment])
			f.flipped = b.scripts.flip.Eval(ctx, p, keys, args...)
		}
	})
	for _, sku := range skus {
		for _, f := range sku.families {
			if f.flipped != nil {
				err := b.flipped(sku.view, sku.SKU, f.load, f.flipped)
				sku.again = sku.again || errors.Is(err, errLost)
				if err != nil && !errors.Is(err, errLost) {
					sku.err = err
				}
			}
		}
	}
	return nil
}

// fieldsOf is what the family's hash holds of the ledger's orders and buyers. As in
// fillBuyers, every segment has all of a buyer's units.
func (l *load) fieldsOf(sku *sale.SKU, h *sale.Holdings) []any {
	var fields []any
	for i := range h.Orders {
		if o := &h.Orders[i]; inFamily(o.Segment, segmentsOf(sku)) == l.segment {
			fields = append(fields, "o:"+string(o.ID[:]), standsFor(o.Ended))
		}
	}
	if sku.PerUserLimit > 0 {
		for i, u := range h.Users {
			fields = append(fields, "u:"+u, h.Units[i])
		}
	}
	return fields
}

// clear gives up the loads of a SKU that were begun and have not come into use.
func (b *bulk) clear(ctx context.Context, sku *bulkSKU) {
	var begun []*load
	for _, f := range sku.families {
		if f.load != nil {
			begun = append(begun, f.load)
		}
	}
	b.abort(context.WithoutCancel(ctx), begun)
}

// send has add append each SKU's commands to a pipeline, and sends it. Each command
// carries its own error.
func (b *bulk) send(ctx context.Context, skus []*bulkSKU, add func(redis.Pipeliner, *bulkSKU)) {
	_, _ = b.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, sku := range skus {
			add(p, sku)
		}
		return nil
	})
}

func (b *bulk) failAll(err error) {
	for _, sku := range b.open {
		b.failed[sku.SKU] = err
	}
	b.open = nil
}
