package deduct

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

// Recall returns what was remembered of an id; false means that nothing is.
func (s *Shield) Recall(ctx context.Context, id sale.OrderID) (sale.Order, bool, error) {
	found, err := s.RecallAll(ctx, []sale.OrderID{id})
	o, ok := found[id]
	return o, ok, err
}

// RecallAll returns what was remembered of the ids, in a pipeline for every
// rememberChunk of them. An error means that nothing is known of any.
func (s *Shield) RecallAll(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	found := make(map[sale.OrderID]sale.Order)
	for len(ids) > 0 {
		n := min(len(ids), rememberChunk)
		if err := s.recallSome(ctx, ids[:n], found); err != nil {
			return nil, err
		}
		ids = ids[n:]
	}
	return found, nil
}

func (s *Shield) recallSome(ctx context.Context, ids []sale.OrderID, found map[sale.OrderID]sale.Order) error {
	replies, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, id := range ids {
			p.Get(ctx, s.keys.verdict(id))
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return away(err)
	}
	for i, reply := range replies {
		text, err := reply.(*redis.StringCmd).Result()
		switch {
		case errors.Is(err, redis.Nil):
			continue
		case err != nil:
			return away(err)
		}
		if found[ids[i]], err = decodeVerdict(ids[i], text); err != nil {
			return err
		}
	}
	return nil
}
