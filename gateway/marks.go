package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// marks tell other gateways, through the shield, that a claim is queued in this one:
// a buyer who was answered 202 may ask any of them. They are best effort. A 202 does
// not wait for its mark, and what does not fit is dropped: the buyer then hears from
// another gateway that repeating the POST tells.
type marks struct {
	shield  Shield
	queue   Queue
	ttl     time.Duration
	timeout time.Duration
	log     *slog.Logger
	pending chan *sale.Claim
	dropped prometheus.Counter
}

const marksPerCall = 256

// add asks for a mark; it never blocks.
func (m *marks) add(c *sale.Claim) {
	select {
	case m.pending <- c:
	default:
		m.dropped.Inc()
	}
}

// run writes marks until ctx ends.
func (m *marks) run(ctx context.Context) {
	batch := make([]sale.Order, 0, marksPerCall)
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-m.pending:
			batch = m.collect(batch[:0], c)
		}
		if len(batch) > 0 {
			m.write(ctx, batch)
		}
	}
}

// collect takes what is pending. Claims that have their verdict by now need no mark,
// and must not get one: it would hide the refusal that was remembered for them.
func (m *marks) collect(batch []sale.Order, c *sale.Claim) []sale.Order {
	for {
		if m.queue.Find(c.ID) != nil {
			batch = append(batch, queuedOrder(c))
		}
		if len(batch) == marksPerCall {
			return batch
		}
		select {
		case c = <-m.pending:
		default:
			return batch
		}
	}
}

func (m *marks) write(ctx context.Context, batch []sale.Order) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	if err := m.shield.Remember(ctx, batch, m.ttl); err != nil {
		m.dropped.Add(float64(len(batch)))
		m.log.Debug("queued claims could not be marked", "claims", len(batch), "error", err)
	}
}
