package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"flashgate/sale"
)

// call is one call of Commit between its arrival and its reply.
type call struct {
	batch  sale.CommitBatch
	asks   []ask
	done   chan reply // capacity 1, exactly one reply
	result sale.CommitResult

	// Guarded by the queue's lock.
	number    uint64 // in the order of arrival
	commits   uint64 // what the queue's count was then
	begun     bool   // a committer has it
	abandoned bool   // its caller's time is over: it is not begun again
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

// groupQueue is where calls of Commit wait for a committer. A committer gets all of
// them that fit into a group, so groups grow with the load by themselves. What came around
// the shield waits in a line of its own, and takes what the others leave of a group: that
// is how the ledger sets the pace of the way around, with as many transactions at a time as
// it has committers, whatever it can do. Calls of SKUs whose rows another transaction holds
// wait apart, in quarantine.
type groupQueue struct {
	maxGroup, committers int

	mu         sync.Mutex
	arrived    *sync.Cond
	waiting    callLine
	around     callLine
	took       time.Duration // how long a group takes, smoothed
	lines      *sync.Cond    // there is a line in quarantine, or the queue is closed
	quarantine map[string]*line
	arrivals   uint64
	closed     bool
	commits    atomic.Uint64 // transactions of the committers that the database accepted
}

// aroundShare is the part of a group that is kept for what came around the shield while
// there is more of the other: with less, SKUs without a shield come to a standstill beside
// a busy sale; with more, claims that a shield admitted wait for those.
const aroundShare = 8

func (q *groupQueue) init(maxGroup, committers int) {
	q.maxGroup, q.committers = maxGroup, committers
	q.arrived, q.lines, q.quarantine = sync.NewCond(&q.mu), sync.NewCond(&q.mu), make(map[string]*line)
}

// put takes a call in, or says why not.
func (q *groupQueue) put(c *call) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return sale.ErrShuttingDown
	}
	if c.batch.Around && !c.batch.Due.IsZero() {
		if wait := q.wait(len(c.asks)); wait > 0 && time.Until(c.batch.Due) < wait {
			return fmt.Errorf("%w: %w", sale.ErrDegraded, sale.ErrOverloaded)
		}
	}
	q.arrivals++
	c.number, c.commits = q.arrivals, q.commits.Load()
	if l := q.quarantine[c.batch.SKU.Name]; l != nil {
		if c.batch.Yield && l.seen {
			return heldError(l.sku, nil)
		}
		l.calls = append(l.calls, c)
		return nil
	}
	q.lineOf(c).add(c)
	q.arrived.Signal()
	return nil
}

// lineOf is where a call waits for a group.
func (q *groupQueue) lineOf(c *call) *callLine {
	if c.batch.Around {
		return &q.around
	}
	return &q.waiting
}

// wait is about how long claims that come around the shield now would wait for their
// decision: the groups in front of theirs, and theirs. A group takes longer when it is
// fuller, so an estimate made of small ones is too good; it is corrected as they grow.
func (q *groupQueue) wait(claims int) time.Duration {
	ahead := q.waiting.claims + q.around.claims
	if ahead == 0 {
		return 0
	}
	groups := (ahead + claims + q.maxGroup - 1) / q.maxGroup
	return q.took * time.Duration(groups+q.committers) / time.Duration(q.committers)
}

// decided notes how long a group took.
func (q *groupQueue) decided(took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.took += (took - q.took) / 4
}

// next blocks until something waits and returns the oldest calls, as many as hold at most
// maxGroup claims together, but at least one. Nil means closed and empty.
func (q *groupQueue) next() []*call {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting.calls)+len(q.around.calls) == 0 {
		if q.closed {
			return nil
		}
		q.arrived.Wait()
	}
	limit := q.maxGroup
	if len(q.around.calls) > 0 {
		limit -= q.maxGroup / aroundShare
	}
	group := q.waiting.take(limit, true)
	// Lock-first costs more, and nobody is to wait for it for long.
	if limit = q.maxGroup; len(group) > 0 {
		limit = min(q.maxGroup-claimsOf(group), q.maxGroup/2)
	}
	return append(group, q.around.take(limit, true)...)
}

func claimsOf(calls []*call) (n int) {
	for _, c := range calls {
		n += len(c.asks)
	}
	return n
}

// withdraw removes a call that no committer has begun, and reports whether it did, and
// why the call was not decided.
func (q *groupQueue) withdraw(c *call, cause error) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.begun {
		c.abandoned = true
		return false, nil
	}
	isIt := func(other *call) bool { return other == c }
	q.lineOf(c).remove(isIt)
	if l := q.quarantine[c.batch.SKU.Name]; l != nil {
		l.calls = slices.DeleteFunc(l.calls, isIt)
		if l.seen {
			return true, heldError(l.sku, cause)
		}
	}
	if q.commits.Load() != c.commits {
		// A database that has accepted others meanwhile has not failed: there was too much
		// in front of this call.
		return true, fmt.Errorf("%w: %w", sale.ErrOverloaded, cause)
	}
	return true, fmt.Errorf("%w: %w", sale.ErrUnavailable, cause)
}

// close refuses what comes from now on; what waits is still decided.
func (q *groupQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.arrived.Broadcast()
	q.lines.Broadcast()
}

// Commit asks the ledger for the verdicts of one SKU's claims and blocks until the
// group they share with other calls is decided. Verdicts run parallel to the claims:
// each has an outcome, or an error that wraps a sentinel of sale (a claim that breaks
// the domain's limits, a SKU the ledger does not know). The error of the call wraps
// sale.ErrUnavailable (or is sale.ErrShuttingDown) and says that no verdict was
// reached: the same ids may be offered again at any time; it is sale.ErrOverloaded where
// the database has not failed. A ctx that ends takes the claims back only while no
// committer has begun with them.
func (db *DB) Commit(ctx context.Context, b sale.CommitBatch) (sale.CommitResult, error) {
	if !db.Ready() {
		return sale.CommitResult{}, db.notReady()
	}
	c, err := newCall(b)
	if err != nil {
		return sale.CommitResult{}, err
	}
	if len(c.asks) == 0 {
		return c.result, nil
	}
	n := float64(len(c.asks))
	db.metrics.waiting.Add(n)
	defer db.metrics.waiting.Sub(n)
	if err := db.queue.put(c); err != nil {
		return sale.CommitResult{}, err
	}
	select {
	case r := <-c.done:
		return r.result, r.err
	case <-ctx.Done():
	}
	if withdrawn, why := db.queue.withdraw(c, ctx.Err()); withdrawn {
		return sale.CommitResult{}, why
	}
	r := <-c.done
	return r.result, r.err
}

// newCall sorts out the claims that could never be stored, so that none of them
// spoils the group of the others.
func newCall(b sale.CommitBatch) (*call, error) {
	if b.SKU == nil || (b.Segments != nil && len(b.Segments) != len(b.Claims)) {
		return nil, fmt.Errorf("%w: a batch needs a SKU, and a segment per claim or none", sale.ErrInvalid)
	}
	c := &call{batch: b, done: make(chan reply, 1), asks: make([]ask, 0, len(b.Claims))}
	c.result.Verdicts = make([]sale.Verdict, len(b.Claims))
	for i, claim := range b.Claims {
		if err := checkClaim(claim, b.SKU); err != nil {
			c.result.Verdicts[i].Err = fmt.Errorf("%w: %w", sale.ErrInvalid, err)
			continue
		}
		a := ask{claim: claim, segment: anySegment, index: i}
		if b.Segments != nil && b.Segments[i] >= 0 {
			a.segment = b.Segments[i]
		}
		c.asks = append(c.asks, a)
	}
	return c, nil
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
