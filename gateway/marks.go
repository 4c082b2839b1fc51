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
	shield     Shield
	ttl        time.Duration
	verdictTTL time.Duration
	log        *slog.Logger
	pending    chan *sale.Ticket
	dropped    prometheus.Counter
}

const (
	// markSpare is how much longer than its claim can wait a mark lives. A mark that ends
	// first lets another gateway say 404; a claim that was lost with its gateway looks
	// queued for as long as its mark lives.
	markSpare = 2 * time.Second
	// maxMarks is how many marks may wait to be written: what a Redis that is slow for
	// half a second holds up at 15,000 answers of 202 a second.
	maxMarks     = 8192
	marksPerCall = 256
)

// add asks for a mark; it never blocks. The ticket must be detached.
func (m *marks) add(t *sale.Ticket) {
	select {
	case m.pending <- t:
	default:
		m.dropped.Inc()
	}
}

// run writes marks until ctx ends.
func (m *marks) run(ctx context.Context) {
	batch := make([]*sale.Ticket, 0, marksPerCall)
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-m.pending:
			batch = m.collect(batch[:0], t)
		}
		if len(batch) > 0 {
			m.write(ctx, batch)
		}
	}
}

// collect adds what is pending. Claims that have their verdict by now need no mark.
func (m *marks) collect(batch []*sale.Ticket, t *sale.Ticket) []*sale.Ticket {
	for {
		if _, decided := verdictOf(t); !decided {
			batch = append(batch, t)
		}
		if len(batch) == marksPerCall {
			return batch
		}
		select {
		case t = <-m.pending:
		default:
			return batch
		}
	}
}

// write marks the claims, and looks again: a refusal that came meanwhile was, or will
// be, remembered by others, but perhaps before its mark, which then hid it.
func (m *marks) write(ctx context.Context, batch []*sale.Ticket) {
	orders := make([]sale.Order, len(batch))
	for i, t := range batch {
		orders[i] = sale.QueuedOrder(t.Claim)
	}
	if !m.remember(ctx, orders, m.ttl) {
		return
	}
	refused := orders[:0]
	for _, t := range batch {
		if v, decided := verdictOf(t); decided && v.Outcome.Refusal() {
			refused = append(refused, sale.Rejected(t.Claim, v.Outcome))
		}
	}
	if len(refused) > 0 {
		m.remember(ctx, refused, m.verdictTTL)
	}
}

func (m *marks) remember(ctx context.Context, orders []sale.Order, ttl time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := m.shield.Remember(ctx, orders, ttl)
	if err != nil {
		m.dropped.Add(float64(len(orders)))
		m.log.Debug("queued claims could not be marked", "claims", len(orders), "error", err)
	}
	return err == nil
}

// verdictOf looks whether a ticket has its verdict. Nobody else may be reading it.
func verdictOf(t *sale.Ticket) (sale.Verdict, bool) {
	select {
	case v := <-t.Verdict():
		return v, true
	default:
		return sale.Verdict{}, false
	}
}
