package deduct

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

// rememberChunk is how many verdicts go into one pipeline.
const rememberChunk = 500

// Remember keeps claims without an order row (queued ones, and refusals with their
// reason) for the given time, so that any gateway can answer for them. The last call
// for an id counts, except that a mark of a queued claim never shortens another; the
// order of calls for the same id is the caller's.
func (s *Shield) Remember(ctx context.Context, orders []sale.Order, ttl time.Duration) error {
	for len(orders) > 0 {
		n := min(len(orders), rememberChunk)
		err := s.rememberSome(ctx, orders[:n], ttl)
		if noScript(err) {
			if err = s.scripts.mark.Load(ctx, s.client).Err(); err == nil {
				err = s.rememberSome(ctx, orders[:n], ttl)
			}
		}
		if err != nil {
			return away(err)
		}
		orders = orders[n:]
	}
	return nil
}

// queuedPrefix is how the mark of every queued claim begins.
const queuedPrefix = "1\nqueued\n"

func (s *Shield) rememberSome(ctx context.Context, orders []sale.Order, ttl time.Duration) error {
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range orders {
			key, text := s.keys.verdict(orders[i].ID), encodeVerdict(&orders[i])
			if orders[i].Status == sale.StatusQueued {
				s.scripts.mark.EvalSha(ctx, p, []string{key}, text, ttl.Milliseconds(), queuedPrefix)
			} else {
				p.Set(ctx, key, text, ttl)
			}
		}
		return nil
	})
	return err
}

// encodeVerdict writes the fields of an order one after the other. All texts are
// visible ASCII, so a line end can separate them.
func encodeVerdict(o *sale.Order) string {
	return strings.Join([]string{
		"1", o.Status.String(), o.Reason, o.SKU, o.User, strconv.FormatInt(o.Quantity, 10), strconv.FormatInt(o.Amount, 10),
		o.Currency, o.Coupon, hex.EncodeToString(o.Hash[:]), strconv.FormatInt(o.ReservedAt, 10), strconv.FormatInt(o.PayBy, 10),
		strconv.FormatInt(o.Version, 10), strconv.Itoa(o.Segment),
	}, "\n")
}

var errVerdict = errors.New("deduct: remembered verdict is damaged")

func decodeVerdict(id sale.OrderID, text string) (sale.Order, error) {
	f := strings.Split(text, "\n")
	if len(f) != 14 || f[0] != "1" {
		return sale.Order{}, fmt.Errorf("%w: %d fields", errVerdict, len(f))
	}
	o := sale.Order{ID: id, Reason: f[2], SKU: f[3], User: f[4], Currency: f[7], Coupon: f[8]}
	var err error
	if o.Status, err = sale.ParseStatus(f[1]); err != nil {
		return sale.Order{}, fmt.Errorf("%w: %w", errVerdict, err)
	}
	for i, into := range map[int]*int64{5: &o.Quantity, 6: &o.Amount, 10: &o.ReservedAt, 11: &o.PayBy, 12: &o.Version} {
		if *into, err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return sale.Order{}, fmt.Errorf("%w: %w", errVerdict, err)
		}
	}
	if o.Segment, err = strconv.Atoi(f[13]); err != nil {
		return sale.Order{}, fmt.Errorf("%w: %w", errVerdict, err)
	}
	hash, err := hex.DecodeString(f[9])
	if err != nil || len(hash) != len(o.Hash) {
		return sale.Order{}, fmt.Errorf("%w: hash", errVerdict)
	}
	copy(o.Hash[:], hash)
	return o, nil
}
