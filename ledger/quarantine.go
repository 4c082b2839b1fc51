package ledger

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// The quarantine is where the claims of a SKU wait whose rows another transaction holds,
// so that no group waits for them: a line per SKU, and two committers of its own. One
// commits what it sees set free, in groups; the other waits for the rows of one SKU at a
// time, a second at most, because not all that blocks can be seen. The first group that
// succeeds lets the SKU go.

// quarantineCommitters is how many connections the quarantine has.
const quarantineCommitters = 2

// patientAfter is how long a line rests between two tries that wait for its rows.
const patientAfter = time.Second

// emptyFor is how long a line stays that nobody waits in and that cannot be looked at.
// Shorter, and groups wait again and again for what is still held; longer, and its SKU's
// claims go the slower way for no reason.
const emptyFor = 5 * time.Second

// line is the quarantine of one SKU.
type line struct {
	sku   string
	calls []*call // in the order of their arrival
	since time.Time
	tried time.Time // when its rows were last waited for
	taken bool      // a committer is trying it
	// seen says that somebody was seen holding rows, those of wants; where not, it is here
	// because nobody could say which SKU of a group it was.
	seen  bool
	wants wanted
	// unseeable says that a look does not show when it is free.
	unseeable bool
}

// role is which claims a committer serves.
type role uint8

const (
	shared  role = iota // groups of all SKUs
	freed               // lines of the quarantine whose rows were seen free
	patient             // lines of the quarantine, waiting for their rows
)

// withoutHeld runs a transaction of the jobs. Where it waits in vain for a row, it goes
// again without the SKUs whose rows are held, which it puts into quarantine. It returns the
// jobs of the last try.
func (c *committer) withoutHeld(jobs []*job, run func([]*job) ending) (ending, []*job) {
	for again := false; ; again = true {
		if c.role == shared {
			jobs = c.db.queue.divert(jobs)
		}
		if len(jobs) == 0 {
			return gaveUp, nil
		}
		end := run(jobs)
		if end != heldUp {
			return end, jobs
		}
		jobs = c.setApart(jobs, again)
	}
}

// divert moves jobs of SKUs that are in quarantine by now there, and returns the others.
func (q *groupQueue) divert(jobs []*job) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.quarantine) == 0 {
		return jobs
	}
	var rest []*job
	for _, j := range jobs {
		if l := q.quarantine[j.sku.Name]; l != nil {
			l.join(j, false)
		} else {
			rest = append(rest, j)
		}
	}
	return rest
}

// join puts a job's calls, which a committer has begun, into the line. A call whose
// caller waits no longer is answered, and so is one that yields where it is known, because
// it was seen or tried, that the SKU's rows are held.
func (l *line) join(j *job, tried bool) {
	for _, p := range j.parts {
		if p.call.abandoned || p.call.batch.Yield && (l.seen || tried) {
			p.call.done <- reply{err: heldError(l.sku, nil)}
			continue
		}
		p.call.begun = false
		l.calls = append(l.calls, p.call)
	}
	slices.SortStableFunc(l.calls, func(a, b *call) int { return cmp.Compare(a.number, b.number) })
}

// setApart puts the jobs whose rows are held into quarantine and returns the others. If
// nobody is seen to hold any, the lock may be gone: all go again. If that has been so
// before, all are put apart, where they are tried one by one.
func (c *committer) setApart(jobs []*job, again bool) (rest []*job) {
	var held map[string]wanted
	if c.role == shared {
		err := c.connect()
		if err == nil {
			held, err = c.db.findHeld(context.Background(), c.conn, wantedBy(jobs))
		}
		if err != nil {
			c.db.log.Warn("it cannot be seen whose rows are held", "error", err)
			c.undo()
		}
		if len(held) == 0 && !again {
			return jobs
		}
	}
	for _, j := range jobs {
		rows, seen := held[j.sku.Name]
		if len(held) > 0 && !seen {
			rest = append(rest, j)
			continue
		}
		rows.sku = j.sku.Name
		if c.db.queue.hold(j, rows, seen, c.role) {
			c.db.metrics.quarantined.Inc()
			c.db.metrics.held.Inc()
			c.db.log.Warn("another transaction holds rows of a SKU: its claims wait apart", "sku", j.sku.Name, "seen", seen)
		}
	}
	return rest
}

// hold puts a job's calls back into the SKU's line, and makes it where there is none, with
// those that wait for a committer. rows are those that were seen to be held. Once the queue
// is closed they are answered instead. It reports whether the line is new.
func (q *groupQueue) hold(j *job, rows wanted, seen bool, by role) (fresh bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		for _, p := range j.parts {
			p.call.done <- reply{err: heldError(j.sku.Name, nil)}
		}
		return false
	}
	l := q.quarantine[j.sku.Name]
	if fresh = l == nil; fresh {
		l = &line{sku: j.sku.Name, since: time.Now(), wants: rows}
		q.quarantine[l.sku] = l
		mine := func(c *call) bool { return c.batch.SKU.Name == l.sku }
		l.calls = append(q.waiting.remove(mine), q.around.remove(mine)...)
		q.lines.Broadcast()
	}
	if l.tried = time.Now(); by != shared {
		l.taken = false
	}
	l.seen, l.unseeable = l.seen || seen, l.unseeable || !seen && by != patient
	l.join(j, by != shared)
	return fresh
}

// release ends the quarantine of those of the lines that were not put back: what waits
// behind what was decided goes the way of all others.
func (q *groupQueue) release(lines []*line) (free []*line) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range lines {
		if !l.taken {
			continue
		}
		if q.closed && len(l.calls) > 0 {
			l.taken = false // the other committers may have ended
			continue
		}
		delete(q.quarantine, l.sku)
		for _, c := range l.calls {
			q.lineOf(c).add(c)
		}
		free = append(free, l)
	}
	q.arrived.Broadcast()
	return free
}

// linesToLookAt blocks until there is a line, and returns what there is to look at of those
// that show when they are free; once the queue is closed, of all. None and closed means
// that no more come.
func (q *groupQueue) linesToLookAt() (wants []wanted, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.quarantine) == 0 && !q.closed {
		q.lines.Wait()
	}
	for _, l := range q.quarantine {
		if q.closed || !l.taken && !l.unseeable {
			wants = append(wants, l.wants)
		}
	}
	return wants, q.closed
}

// take has a committer try these lines: as many as hold at most limit claims, but at
// least one; of each the oldest calls. Lines that nobody waits in are taken too.
func (q *groupQueue) take(names []string, limit int) (lines []*line, calls []*call) {
	q.mu.Lock()
	defer q.mu.Unlock()
	claims := 0
	for _, name := range names {
		l := q.quarantine[name]
		if l == nil || l.taken {
			continue
		}
		n := 0
		for n < len(l.calls) && (len(calls) == 0 || claims+len(l.calls[n].asks) <= limit) {
			claims += len(l.calls[n].asks)
			l.calls[n].begun = true
			calls = append(calls, l.calls[n])
			n++
		}
		if n == 0 && len(l.calls) > 0 {
			break
		}
		l.calls = slices.Delete(l.calls, 0, n)
		l.taken = true
		lines = append(lines, l)
	}
	return lines, calls
}

// longestUntried returns the line whose rows nobody has waited for for longest, where that
// is long enough. With it go others, up to n together, where nobody was seen holding
// any: most of them are free. False means that the queue is closed.
func (q *groupQueue) longestUntried(n int) (names []string, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.quarantine) == 0 && !q.closed {
		q.lines.Wait()
	}
	var due []*line
	for _, l := range q.quarantine {
		waits := len(l.calls) > 0 || l.unseeable && time.Since(l.tried) >= emptyFor
		if waits && !l.taken && (time.Since(l.tried) >= patientAfter || !l.seen) {
			due = append(due, l)
		}
	}
	slices.SortFunc(due, func(a, b *line) int { return a.tried.Compare(b.tried) })
	for i, l := range due {
		if i == 0 || i < n && !l.seen && !due[0].seen {
			names = append(names, l.sku)
		}
	}
	return names, !q.closed
}

// settleApart decides what was taken of the quarantine. It reports whether all of it
// was decided, and none put back.
func (c *committer) settleApart(lines []*line, calls []*call) bool {
	if len(calls) > 0 {
		c.started = time.Now()
		c.deadline = c.started.Add(c.db.cfg.RetryFor)
		admitted, direct := sortGroup(calls, c.db.Now())
		c.commitLocked(joinJobs(direct, admitted))
	}
	free := c.db.queue.release(lines)
	for _, l := range free {
		c.db.metrics.held.Dec()
		c.db.log.Info("a SKU's claims wait apart no longer", "sku", l.sku, "after", time.Since(l.since).Round(time.Millisecond))
	}
	return len(free) == len(lines)
}

// runFreed commits the claims of the lines whose rows it sees free, until the queue is
// closed and no line is left.
func (db *DB) runFreed() {
	c := db.newCommitter(freed)
	defer c.drop()
	for {
		wants, closed := db.queue.linesToLookAt()
		if closed && len(wants) == 0 {
			return
		}
		// Once the queue is closed, each has a last try.
		lines, calls := db.queue.take(c.free(wants, closed), db.cfg.MaxGroup)
		if len(lines) == 0 {
			time.Sleep(lookApart)
			continue
		}
		c.settleApart(lines, calls)
	}
}

// free returns those of the SKUs whose rows nobody holds, or all. Where that cannot be
// seen, the tries find out.
func (c *committer) free(wants []wanted, all bool) (names []string) {
	var held map[string]wanted
	if err := c.connect(); err == nil && !all && len(wants) > 0 {
		if held, err = c.db.findHeld(context.Background(), c.conn, wants); err != nil {
			c.drop()
		}
	}
	for i := range wants {
		if _, is := held[wants[i].sku]; !is {
			names = append(names, wants[i].sku)
		}
	}
	return names
}

// runPatient tries the lines one after the other, and waits a little for their rows, until
// the queue is closed.
func (db *DB) runPatient() {
	c := db.newCommitter(patient)
	defer c.drop()
	for together := 1; ; {
		names, more := db.queue.longestUntried(together)
		if !more {
			return
		}
		lines, calls := db.queue.take(names, db.cfg.MaxGroup)
		switch {
		case len(lines) == 0:
			time.Sleep(lookApart)
		case c.settleApart(lines, calls):
			together = min(2*together, db.cfg.MaxGroup)
		default:
			together = 1
		}
	}
}
