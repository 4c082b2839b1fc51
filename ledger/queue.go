package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"flashgate/sale"
)

// waiting is one call of Commit between its arrival and its reply.
type waiting struct {
	batch  sale.CommitBatch
	asks   []ask
	done   chan reply // capacity 1, exactly one reply
	taken  bool       // a committer has it; guarded by the queue's lock
	result sale.CommitResult
}

type reply struct {
	result sale.CommitResult
	err    error
}

// ask is a claim that needs the ledger's decision.
type ask struct {
	claim   *sale.Claim
	segment int // the stock row it wants, or anySegment
	index   int // its place in the batch
}

const anySegment = -1

// groupQueue is where calls of Commit wait for a committer. A committer takes all it
// can hold, so groups grow with the load by themselves.
type groupQueue struct {
	mu      sync.Mutex
	arrived *sync.Cond
	waiting []*waiting
	closed  bool
}

func (q *groupQueue) init() { q.arrived = sync.NewCond(&q.mu) }

// put reports whether the queue still accepts.
func (q *groupQueue) put(w *waiting) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, w)
	q.arrived.Signal()
	return true
}

// take blocks until something waits and returns the oldest, as many as hold at most
// limit claims together, but at least one. Nil means closed and empty.
func (q *groupQueue) take(limit int) []*waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) == 0 {
		if q.closed {
			return nil
		}
		q.arrived.Wait()
	}
	n, claims := 0, 0
	for n < len(q.waiting) && (n == 0 || claims+len(q.waiting[n].asks) <= limit) {
		claims += len(q.waiting[n].asks)
		q.waiting[n].taken = true
		n++
	}
	taken := append([]*waiting(nil), q.waiting[:n]...)
	rest := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	return taken
}

// withdraw removes a call that no committer has taken yet, and reports whether it did.
func (q *groupQueue) withdraw(w *waiting) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.taken {
		return false
	}
	for i, other := range q.waiting {
		if other == w {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			break
		}
	}
	return true
}

// close refuses what comes from now on; what waits is still taken.
func (q *groupQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.arrived.Broadcast()
}

// Commit asks the ledger for the verdicts of one SKU's claims and blocks until the
// group they share with other calls is decided. Verdicts run parallel to the claims:
// each has an outcome, or an error that wraps a sentinel of sale (a claim that breaks
// the domain's limits, a SKU the ledger does not know). The error of the call wraps
// sale.ErrUnavailable (or is sale.ErrShuttingDown) and says that no verdict was
// reached: the same ids may be offered again at any time. A ctx that ends takes the
// claims back only while no committer has begun with them.
func (db *DB) Commit(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
	if !db.Ready() {
		return sale.CommitResult{}, db.notReady()
	}
	w, err := newWaiting(b)
	if err != nil {
		return sale.CommitResult{}, err
	}
	if len(w.asks) == 0 {
		return w.result, nil
	}
	n := float64(len(w.asks))
	db.metrics.waiting.Add(n)
	defer db.metrics.waiting.Sub(n)
	if !db.queue.put(w) {
		return sale.CommitResult{}, sale.ErrShuttingDown
	}
	select {
	case r := <-w.done:
		return r.result, r.err
	case <-ctx.Done():
	}
	if db.queue.withdraw(w) {
		return sale.CommitResult{}, fmt.Errorf("%w: %w", sale.ErrUnavailable, ctx.Err())
	}
	r := <-w.done
	return r.result, r.err
}

// newWaiting sorts out the claims that could never be stored, so that none of them
// spoils the group of the others.
func newWaiting(b sale.CommitBatch) (*waiting, error) {
	if b.SKU == nil || (b.Segments != nil && len(b.Segments) != len(b.Claims)) {
		return nil, fmt.Errorf("%w: a batch needs a SKU, and a segment per claim or none", sale.ErrInvalid)
	}
	w := &waiting{batch: b, done: make(chan reply, 1), asks: make([]ask, 0, len(b.Claims))}
	w.result.Verdicts = make([]sale.Verdict, len(b.Claims))
	for i, c := range b.Claims {
		if err := checkClaim(c, b.SKU); err != nil {
			w.result.Verdicts[i].Err = fmt.Errorf("%w: %w", sale.ErrInvalid, err)
			continue
		}
		a := ask{claim: c, segment: anySegment, index: i}
		if b.Segments != nil && b.Segments[i] >= 0 {
			a.segment = b.Segments[i]
		}
		w.asks = append(w.asks, a)
	}
	return w, nil
}

func checkClaim(c *sale.Claim, s *sale.SKU) error {
	if c.SKU != s.Name {
		return errors.New("a claim of another SKU")
	}
	if err := sale.ValidateUser(c.User); err != nil {
		return err
	}
	if err := sale.ValidateCoupon(c.Coupon); err != nil {
		return err
	}
	return sale.ValidateQuantity(c.Quantity)
}
