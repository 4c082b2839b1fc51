package queue

import (
	"sync/atomic"
	"time"

	"flashgate/sale"
)

// lane is one SKU's line. At any time at most one of its goroutines is its keeper: the
// one that pops batches off the line and rejects what has waited too long. The keeper
// settles the batch it popped itself; who joins meanwhile finds no keeper and starts
// one. So a SKU with nothing to do has no goroutine, one with little to do has one, and a
// busy one at most Inflight batches' and a keeper's.
type lane struct {
	q      *Queue
	shard  *laneShard
	sku    string
	popped atomic.Int64  // claims that ever left the line
	wake   chan struct{} // capacity 1: the keeper has something to look at
	pace   pace
	timer  *time.Timer // the keeper's, once one had to wait

	// The shard's lock guards what follows.
	line     fifo
	accepted int64     // claims that ever joined
	kept     bool      // there is a keeper
	running  int       // batches in flight
	batches  int64     // batches that ever entered
	entering int64     // number of the batch before which no other may enter; 0 = none
	idle     time.Time // since when it has had nothing to do, where it has not
}

func newLane(q *Queue, s *laneShard, sku string) *lane {
	return &lane{q: q, shard: s, sku: sku, wake: make(chan struct{}, 1)}
}

func (l *lane) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// push adds a claim's ticket and sees to it that a keeper looks. The lock is held.
func (l *lane) push(c *sale.Claim) *sale.Ticket {
	l.accepted++
	t := sale.NewTicket(c, l.accepted, &l.popped)
	l.line.push(t)
	if !l.kept {
		l.kept = true
		l.q.wg.Go(l.run)
	} else if l.line.len() == 1 {
		l.nudge()
	}
	return t
}

// turn is what the keeper does next: settle a batch, or end, or wait. What is late it
// rejects in any case.
type turn struct {
	late   []*sale.Ticket
	batch  []*sale.Ticket
	number int64 // the batch's
	over   bool  // this goroutine has nothing left to do
	wait   time.Duration
}

// run keeps the lane until there is nothing to keep or another goroutine does.
func (l *lane) run() {
	for {
		t := l.next()
		l.reject(t.late)
		switch {
		case t.over:
			return
		case len(t.batch) > 0:
			if !l.settle(t.batch, t.number) {
				return
			}
		default:
			l.sleep(t.wait)
		}
	}
}

// sleep waits for something to look at, or for the oldest claim's time to be over.
func (l *lane) sleep(d time.Duration) {
	if l.timer == nil {
		l.timer = time.NewTimer(d)
	} else {
		l.timer.Reset(d)
	}
	select {
	case <-l.wake:
	case <-l.timer.C:
	}
}

// next decides the keeper's turn. With a batch it gives up being the keeper: to a new
// one when claims are left in line, else to whoever joins next or ends a batch first.
func (l *lane) next() turn {
	var t turn
	now := time.Now()
	oldest := now.Add(-l.q.cfg.MaxAge).UnixMilli()
	l.shard.mu.Lock()
	defer l.shard.mu.Unlock()
	for h := l.line.first(); h != nil && h.Claim.QueuedAt <= oldest; h = l.line.first() {
		t.late = append(t.late, l.line.pop(1)...)
	}
	l.popped.Add(int64(len(t.late)))
	head := l.line.first()
	switch {
	case head == nil:
		// Whoever joins next starts a goroutine; that of a batch in flight will look again.
		l.kept, l.idle, t.over = false, now, true
	case l.entering == 0 && l.running < l.q.cfg.Inflight:
		t.batch = l.line.pop(l.q.cfg.MaxBatch)
		l.popped.Add(int64(len(t.batch)))
		l.running++
		l.batches++
		l.entering, t.number = l.batches, l.batches
		if l.line.len() > 0 {
			l.q.wg.Go(l.run)
		} else {
			l.kept = false
		}
	default:
		t.wait = time.UnixMilli(head.Claim.QueuedAt).Add(l.q.cfg.MaxAge).Sub(now)
	}
	return t
}

// isIdle reports whether the lane has nothing to do. The lock is held.
func (l *lane) isIdle() bool { return !l.kept && l.running == 0 && l.line.len() == 0 }

// settle has one batch decided and answers it. It reports whether the caller is the
// lane's keeper again.
func (l *lane) settle(batch []*sale.Ticket, number int64) bool {
	began := time.Now()
	claims := make([]*sale.Claim, len(batch))
	for i, t := range batch {
		claims[i] = t.Claim
	}
	verdicts := l.q.settler.Settle(l.q.hard, l.sku, claims, func() { l.admit(number) })
	l.admit(number)
	for i, t := range batch {
		v := verdicts[i]
		if v.Err != nil && l.q.hard.Err() != nil {
			v.Err = sale.ErrShuttingDown
		}
		l.q.resolve(t, v)
	}
	now := time.Now()
	l.pace.add(len(batch), now)
	l.q.metrics.settled(len(batch), now.Sub(began))
	l.remember(batch, verdicts)

	l.shard.mu.Lock()
	l.running--
	keeper := !l.kept
	l.kept = true
	l.shard.mu.Unlock()
	if !keeper {
		l.nudge()
	}
	return keeper
}

// admit lets the next batch enter after the one of this number. Called again, or too
// late, it does nothing.
func (l *lane) admit(number int64) {
	l.shard.mu.Lock()
	mine := l.entering == number
	if mine {
		l.entering = 0
	}
	l.shard.mu.Unlock()
	if mine {
		l.nudge()
	}
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
