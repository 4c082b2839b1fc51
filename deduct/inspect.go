package deduct

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"flashgate/sale"
)

// Loaded returns the names of all SKUs that have a copy in the shield, in order. It
// reads every key there is, some at a time.
func (s *Shield) Loaded(ctx context.Context) ([]string, error) {
	tags, _, err := s.scan(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(tags))
	for i, k := range tags {
		names[i] = k.sku
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Copies returns the copy in use of each of a SKU's segments, whoever trusts it, each
// as it is at one moment. There is none while one of them is being loaded or missing.
func (s *Shield) Copies(ctx context.Context, sku string) ([]sale.ShieldCopy, error) {
	var copies []sale.ShieldCopy
	for segment, segments := 0, 1; segment < segments; segment++ {
		tag := s.keys.tag(sku, segment)
		pointer, err := s.pointer(ctx, tag)
		if err != nil {
			return nil, err
		}
		g, ok := parseGeneration(pointer)
		if !ok || (segment > 0 && g.segments != segments) {
			return nil, nil
		}
		segments = g.segments
		c, ok, err := s.inspect(ctx, &look{key: familyKey{tag: tag, sku: sku, segment: segment}, gen: g})
		if err != nil || !ok {
			return nil, err
		}
		copies = append(copies, c)
	}
	return copies, nil
}

// inspect reads a family whole: every batch is older than a time that is to come.
func (s *Shield) inspect(ctx context.Context, l *look) (c sale.ShieldCopy, ok bool, err error) {
	reply, err := s.scripts.stale.Run(ctx, s.client, l.keys(), math.MinInt32).Slice()
	if err != nil {
		return c, false, away(err)
	}
	if !l.read(reply) {
		return c, false, nil
	}
	now, err := s.client.Time(ctx).Result()
	if err != nil {
		return c, false, away(err)
	}
	c = sale.ShieldCopy{SKU: l.key.sku, Segment: l.key.segment, Generation: l.gen.name, Left: l.left}
	for token, rec := range l.old {
		t, err := decodeRecord(rec)
		if err != nil {
			return c, false, fmt.Errorf("tentative batch %x of %s: %w", token, l.key.tag, err)
		}
		age := now.Sub(time.UnixMilli(t.at))
		for _, claim := range t.claims {
			c.Tentative = append(c.Tentative, sale.Tentative{ID: claim.id, Quantity: claim.quantity, Age: age})
		}
	}
	return c, true, nil
}
