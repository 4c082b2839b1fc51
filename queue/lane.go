package queue

import (
	"sync/atomic"
	"time"

	"flashgate/sale"
)

// lane is one SKU's line. Its shard's lock guards line and accepted; everything else
// belongs to the goroutine that runs it.
type lane struct {
	q     *Queue
	shard *laneShard
	sku   string

	line     fifo
	accepted int64        // claims that ever joined
	taken    atomic.Int64 // claims that ever left the line

	wake  chan struct{} // capacity 1: there is something to look at
	slots chan struct{} // one token per batch in flight
	pace  pace
}

func newLane(q *Queue, s *laneShard, sku string) *lane {
	return &lane{
		q: q, shard: s, sku: sku,
		wake:  make(chan struct{}, 1),
		slots: make(chan struct{}, q.cfg.Inflight),
	}
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run drains the line until it has been empty, with nothing in flight, for Linger.
// It always waits for one of three things: work, a free slot, or the head's age.
func (l *lane) run() {
	timer := time.NewTimer(l.q.cfg.Linger)
	defer timer.Stop()
	for {
		due, waiting := l.headDue()
		if !waiting {
			timer.Reset(l.q.cfg.Linger)
			select {
			case <-l.wake:
				if l.retire(true) {
					return
				}
			case <-timer.C:
				if l.retire(false) {
					return
				}
			}
			continue
		}
		timer.Reset(due)
		select {
		case l.slots <- struct{}{}:
			l.begin(timer)
		case <-timer.C:
			l.expire()
		}
	}
}

// headDue is how long the claim at the head may still wait.
func (l *lane) headDue() (time.Duration, bool) {
	l.shard.mu.Lock()
	t := l.line.first()
	l.shard.mu.Unlock()
	if t == nil {
		return 0, false
	}
	return time.Until(time.UnixMilli(t.Claim.QueuedAt).Add(l.q.cfg.MaxAge)), true
}

// begin takes what waits as one batch and returns once the next may enter. The slot
// it was called with is given back when the batch has its verdicts.
func (l *lane) begin(timer *time.Timer) {
	batch := l.take(l.q.cfg.MaxBatch)
	if len(batch) == 0 {
		<-l.slots
		return
	}
	admitted := make(chan struct{})
	l.q.wg.Go(func() {
		l.settle(batch, admitted)
		<-l.slots
		l.nudge()
	})
	for {
		due, waiting := l.headDue()
		if !waiting {
			<-admitted
			return
		}
		timer.Reset(due)
		select {
		case <-admitted:
			return
		case <-timer.C:
			l.expire()
		}
	}
}

// settle has one batch decided and answers it.
func (l *lane) settle(batch []*sale.Ticket, admitted chan struct{}) {
	began := time.Now()
	claims := make([]*sale.Claim, len(batch))
	for i, t := range batch {
		claims[i] = t.Claim
	}
	open := true
	verdicts := l.q.settler.Settle(l.q.hard, l.sku, claims, func() {
		if open {
			open = false
			close(admitted)
		}
	})
	if open {
		close(admitted)
	}
	for i, t := range batch {
		v := verdicts[i]
		if v.Err != nil && l.q.hard.Err() != nil {
			v.Err = sale.ErrShuttingDown
		}
		l.q.resolve(t, v)
	}
	l.pace.add(len(batch), time.Now())
	l.q.metrics.settled(len(batch), time.Since(began))
	l.remember(batch, verdicts)
}

// remember passes on the refusals whose buyers were told to come back for them. It
// looks after the verdict was delivered, and a waiter looks for the verdict after it
// detached, so that one of the two sees the other.
func (l *lane) remember(batch []*sale.Ticket, verdicts []sale.Verdict) {
	var claims []*sale.Claim
	var kept []sale.Verdict
	for i, t := range batch {
		if t.Detached() && verdicts[i].Outcome.Refusal() {
			claims = append(claims, t.Claim)
			kept = append(kept, verdicts[i])
		}
	}
	if len(claims) > 0 {
		l.q.settler.Remember(l.q.hard, claims, kept)
	}
}

// take removes up to n claims that are young enough from the head; those that are not
// are rejected here, before they cost a deduction.
func (l *lane) take(n int) []*sale.Ticket {
	oldest := time.Now().Add(-l.q.cfg.MaxAge).UnixMilli()
	l.shard.mu.Lock()
	all := l.line.pop(n)
	l.shard.mu.Unlock()
	l.taken.Add(int64(len(all)))
	young := all[:0]
	var late []*sale.Ticket
	for _, t := range all {
		if t.Claim.QueuedAt <= oldest {
			late = append(late, t)
		} else {
			young = append(young, t)
		}
	}
	l.reject(late)
	return young
}

// expire rejects the claims at the head that have waited too long while no batch
// could begin.
func (l *lane) expire() {
	oldest := time.Now().Add(-l.q.cfg.MaxAge).UnixMilli()
	var late []*sale.Ticket
	l.shard.mu.Lock()
	for t := l.line.first(); t != nil && t.Claim.QueuedAt <= oldest; t = l.line.first() {
		late = append(late, l.line.pop(1)...)
	}
	l.shard.mu.Unlock()
	l.taken.Add(int64(len(late)))
	l.reject(late)
}

func (l *lane) reject(late []*sale.Ticket) {
	if len(late) == 0 {
		return
	}
	verdicts := make([]sale.Verdict, len(late))
	for i, t := range late {
		verdicts[i] = sale.Verdict{Outcome: sale.TimedOut}
		l.q.resolve(t, verdicts[i])
	}
	l.q.metrics.timedOut(len(late))
	l.remember(late, verdicts)
}

// retire ends the lane when nothing waits and nothing is in flight. A nudged lane
// retires only while the queue drains; an idle one in any case. From the moment it is
// out of the map, a new claim starts a new lane.
func (l *lane) retire(nudged bool) bool {
	l.shard.mu.Lock()
	if l.line.len() > 0 || len(l.slots) > 0 || (nudged && !l.shard.closed) {
		l.shard.mu.Unlock()
		return false
	}
	delete(l.shard.lanes, l.sku)
	l.shard.mu.Unlock()
	l.q.settler.Quiet(l.q.hard, l.sku)
	return true
}
