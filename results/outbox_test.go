package results

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"flashgate/sale"
)

// outbox is the ledger's outbox, in memory.
type outbox struct {
	mu   sync.Mutex
	rows []sale.OutboxRow // by id
	next int64
	// keep, when set, forgets nothing that is acknowledged, like a ledger that has
	// not got round to it.
	keep  bool
	acked map[int64]int
	err   error
}

func newOutbox() *outbox { return &outbox{acked: make(map[int64]int)} }

// commit writes one row of one order's state.
func (o *outbox) commit(kind sale.Kind, orders ...sale.Order) sale.OutboxRow {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.next++
	row := sale.OutboxRow{ID: o.next, SKU: orders[0].SKU, Kind: kind, Payload: Encode(kind, orders), At: time.Now().UnixMilli()}
	_, _ = rand.Read(row.MsgID[:])
	o.rows = append(o.rows, row)
	return row
}

func (o *outbox) PendingOutbox(_ context.Context, olderThan time.Duration, afterID int64, limit int, except []string) ([]sale.OutboxRow, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, o.err
	}
	cut := time.Now().Add(-olderThan).UnixMilli()
	var out []sale.OutboxRow
	for _, r := range o.rows {
		if r.ID <= afterID || slices.Contains(except, r.SKU) {
			continue
		}
		if r.At > cut || len(out) == limit {
			break
		}
		out = append(out, r)
	}
	return out, nil
}

func (o *outbox) Acked(ids []int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range ids {
		o.acked[id]++
	}
	if !o.keep {
		o.rows = slices.DeleteFunc(o.rows, func(r sale.OutboxRow) bool { return o.acked[r.ID] > 0 })
	}
}

func (o *outbox) pending() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.rows)
}

func (o *outbox) ackedRows() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.acked)
}
