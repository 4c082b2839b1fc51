package results

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Extent reads how far the results stream reaches now. Errors wrap
// sale.ErrUnavailable.
func (c *Conn) Extent(ctx context.Context) (sale.Extent, error) {
	ctx, cancel := context.WithTimeout(ctx, c.askTimeout)
	defer cancel()
	if !c.Connected() {
		return sale.Extent{}, fmt.Errorf("%w: stream %s: %w", sale.ErrUnavailable, c.names.results, nats.ErrDisconnected)
	}
	s, err := c.js.Stream(ctx, c.names.results)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return sale.Extent{}, nil // no gateway has run yet, or NATS has lost everything
	}
	if err != nil {
		return sale.Extent{}, fmt.Errorf("%w: stream %s: %w", sale.ErrUnavailable, c.names.results, err)
	}
	state := s.CachedInfo().State
	e := sale.Extent{Last: state.LastSeq, Made: s.CachedInfo().Created.UnixMilli()}
	switch {
	case state.FirstSeq <= 1:
	case state.Msgs == 0:
		e.Since = s.CachedInfo().TimeStamp.UnixMilli()
	default:
		e.Since = state.FirstTime.UnixMilli()
	}
	return e, nil
}

// stuckReads is how often in a row a reading may end without a single message before
// it is given up.
const stuckReads = 3

// errEnough ends a reading that has got as far as it was asked to.
var errEnough = errors.New("enough")

// EachEvent reads the results stream once, from the sequence first to the one with the
// sequence last, and hands over each message's events in stream order. A message that
// is none of ours has no kind. The slice is fn's to keep. Errors of fn end it and are
// returned as they are; others wrap sale.ErrUnavailable.
func (c *Conn) EachEvent(ctx context.Context, first, last uint64, fn func(kind sale.Kind, orders []sale.Order, seq uint64) error) error {
	next := max(first, 1)
	for stuck := 0; next <= last; stuck++ {
		began := next
		cfg := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: next}
		err := c.read(ctx, c.names.results, cfg, firstPage, func(page []jetstream.Msg) error {
			for _, msg := range page {
				meta, err := msg.Metadata()
				if err != nil {
					return errGap
				}
				if meta.Sequence.Stream > last {
					return errEnough
				}
				// What cannot be decoded is handed over without a kind.
				kind, orders, _ := Decode(msg.Data())
				if err := fn(kind, orders, meta.Sequence.Stream); err != nil {
					return err
				}
				next = meta.Sequence.Stream + 1
			}
			return nil
		})
		if next > began {
			stuck = 0
		}
		// What got lost on the way, or with the connection, is read again.
		if err == nil || errors.Is(err, errEnough) {
			return nil
		}
		if !errors.Is(err, errGap) || stuck == stuckReads {
			return err
		}
	}
	return nil
}

const (
	// A page is as many messages as came to about pageBytes of late, and at most
	// readPage. The first of the results is small, since a message may be as large as the
	// server takes.
	firstPage = 16
	readPage  = 4096
	pageBytes = 4 << 20
)

// errGap says that messages got lost on their way from the stream.
var errGap = fmt.Errorf("%w: messages of the stream got lost on the way", sale.ErrUnavailable)

// read hands over the messages of a stream that cfg selects, up to the last there is,
// page by page, the first of size messages, and without a gap: the consumer numbers
// what it delivers, and a number that is missing ends the reading with an error.
func (c *Conn) read(ctx context.Context, stream string, cfg jetstream.ConsumerConfig, size int, fn func([]jetstream.Msg) error) error {
	cfg.AckPolicy = jetstream.AckNonePolicy
	cfg.MemoryStorage, cfg.Replicas, cfg.InactiveThreshold = true, 1, 2*time.Minute
	ask, cancel := context.WithTimeout(ctx, c.askTimeout)
	consumer, err := c.js.CreateConsumer(ask, stream, cfg)
	cancel()
	if err != nil {
		return fmt.Errorf("%w: read stream %s: %w", sale.ErrUnavailable, stream, err)
	}
	info := consumer.CachedInfo()
	defer func() {
		// It ends by itself where this fails.
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.askTimeout)
		defer cancel()
		_ = c.js.DeleteConsumer(ask, stream, info.Name)
	}()
	pending, number := info.NumPending, uint64(0)
	for pending > 0 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		batch, err := consumer.FetchNoWait(size)
		if err != nil {
			return fmt.Errorf("%w: read stream %s: %w", sale.ErrUnavailable, stream, err)
		}
		var page []jetstream.Msg
		bytes := 1
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil || meta.Sequence.Consumer != number+1 {
				return errGap
			}
			number, pending = meta.Sequence.Consumer, meta.NumPending
			page = append(page, msg)
			bytes += len(msg.Data())
		}
		if batch.Error() != nil || len(page) == 0 {
			return errors.Join(errGap, batch.Error())
		}
		size = max(1, min(readPage, len(page)*pageBytes/bytes))
		if err := fn(page); err != nil {
			return err
		}
	}
	return nil
}
