package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// job is what a group holds of one SKU: the claims that are decided together.
type job struct {
	sku *sale.SKU
	// parts are the calls the claims came with, in the order of their arrival.
	parts []part
	// at is the time of reservation.
	at int64
}

// part is the claims of one call.
type part struct {
	call       *call
	optimistic bool // the shield admitted it: a refusal contradicts the shield
}

func (j *job) asks() []ask {
	if len(j.parts) == 1 {
		return j.parts[0].call.asks
	}
	var all []ask
	for _, p := range j.parts {
		all = append(all, p.call.asks...)
	}
	return all
}

func (j *job) claims() (n int) {
	for _, p := range j.parts {
		n += len(p.call.asks)
	}
	return n
}

// committer owns one connection and settles one group after the other on it.
type committer struct {
	db   *DB
	role role
	name string // of the lock that tells its connections from its earlier ones
	conn *sql.Conn
	used time.Time       // when conn was last known to be good
	step int64           // distance of neighbouring outbox ids
	text *dialect.Script // reused from group to group
	// sent is the mark of the transaction that was sent last; nil: it wrote nothing.
	sent    *attemptMark
	refusal error     // why run did not succeed
	learned []learned // newer rules, of which is still to be told
	// started is when the group at hand was begun, deadline when it is not tried again.
	started, deadline time.Time
	// failure is why the last attempt to connect failed, and when.
	failure   error
	failureAt time.Time
}

func (db *DB) newCommitter(r role) *committer {
	return &committer{db: db, role: r, name: "flashgate:" + rand.Text(), text: dialect.NewScript(db.dialect)}
}

// runCommitter settles groups until the queue is closed and empty.
func (db *DB) runCommitter() {
	c := db.newCommitter(shared)
	defer c.drop()
	for {
		group := db.queue.next()
		if group == nil {
			return
		}
		start := time.Now()
		c.settle(group)
		db.queue.decided(time.Since(start))
	}
}

// settle answers every call of the group exactly once.
func (c *committer) settle(group []*call) {
	start := time.Now()
	c.started, c.deadline = start, start.Add(c.db.cfg.RetryFor)
	admitted, direct := sortGroup(group, c.db.Now())
	claims := 0
	for _, call := range group {
		claims += len(call.asks)
	}
	if len(admitted) > 0 {
		contradicted := c.commitOptimistic(admitted)
		direct = joinJobs(direct, contradicted)
	}
	if len(direct) > 0 {
		c.commitLocked(direct)
	}
	c.db.metrics.claims.Observe(float64(claims))
	c.db.metrics.seconds.Observe(time.Since(start).Seconds())
}

// sortGroup makes one job per SKU and way. Claims go optimistic when the shield
// admitted them and nothing known here speaks against them.
func sortGroup(group []*call, now int64) (admitted, direct []*job) {
	optimistic := make(map[string]*job)
	locked := make(map[string]*job)
	for _, call := range group {
		byShield := !call.batch.LockFirst && call.batch.Segments != nil
		ok := byShield && call.batch.SKU.Gate(now) == sale.Reserved && !hasAnySegment(call.asks)
		if ok {
			if j := optimistic[call.batch.SKU.Name]; j != nil && j.sku.Version != call.batch.SKU.Version {
				ok = false
			}
		}
		in := locked
		if ok {
			in = optimistic
		}
		j := in[call.batch.SKU.Name]
		if j == nil {
			j = &job{sku: call.batch.SKU, at: now}
			in[j.sku.Name] = j
			if ok {
				admitted = append(admitted, j)
			} else {
				direct = append(direct, j)
			}
		}
		j.parts = append(j.parts, part{call: call, optimistic: byShield})
	}
	return admitted, direct
}

func hasAnySegment(asks []ask) bool {
	return slices.ContainsFunc(asks, func(a ask) bool { return a.segment == anySegment })
}

// joinJobs brings jobs of the same SKU together.
func joinJobs(jobs, more []*job) []*job {
	for _, m := range more {
		i := slices.IndexFunc(jobs, func(j *job) bool { return j.sku.Name == m.sku.Name })
		if i < 0 {
			jobs = append(jobs, m)
			continue
		}
		jobs[i].parts = append(m.parts, jobs[i].parts...)
	}
	return jobs
}

// answer gives the job's verdicts to the calls they belong to.
func (j *job) answer(verdicts []sale.Verdict, left map[int]int64) {
	for _, p := range j.parts {
		mine := verdicts[:len(p.call.asks)]
		verdicts = verdicts[len(p.call.asks):]
		r := &p.call.result
		for i, v := range mine {
			r.Verdicts[p.call.asks[i].index] = v
			switch v.Outcome {
			case sale.Duplicate, sale.Conflict, sale.LimitReached, sale.SoldOut:
				r.Contradicted = r.Contradicted || p.optimistic
			}
			if v.Outcome == sale.SoldOut {
				r.Left = left
			}
		}
		p.call.done <- reply{result: *r}
	}
}

// fail answers the job's calls that no verdict was reached.
func (j *job) fail(err error) {
	if !errors.Is(err, sale.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", sale.ErrUnavailable, err)
	}
	for _, p := range j.parts {
		p.call.done <- reply{err: err}
	}
}

// The times of a committer's connection.
const (
	// connectPause is how long a failure to connect answers for the next attempts, so
	// that the many jobs of a group do not each wait for a dead server.
	connectPause = 50 * time.Millisecond
	// blink is how long a group that has lost nothing waits for a connection which
	// fails at once, as it does when a proxy in between drops its links.
	blink = 200 * time.Millisecond
	// idleCheck is how long a connection may lie idle before it is asked whether it
	// still lives, because a dead one makes the outcome of a group unknown.
	idleCheck = time.Second
)

// connect makes sure of a connection on which nothing is open and to which no
// earlier one of this committer can do any harm.
func (c *committer) connect() error {
	if c.conn != nil && time.Since(c.used) > idleCheck {
		if err := c.conn.PingContext(context.Background()); err != nil {
			c.drop()
		}
	}
	if c.conn != nil {
		return nil
	}
	if c.failure != nil && time.Since(c.failureAt) < connectPause {
		return c.failure
	}
	if c.failure = c.dial(); c.failure != nil {
		c.failureAt = time.Now()
	}
	return c.failure
}

func (c *committer) dial() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.db.times.connect)
	defer cancel()
	conn, err := connOf(ctx, c.db.pools.commits)
	if err != nil {
		return c.db.away(ctx, err)
	}
	err = c.db.dialect.Settings(ctx, conn)
	if err == nil {
		c.step, err = c.db.dialect.Fence(ctx, conn, c.name)
	}
	if err != nil {
		discard(conn)
		_ = conn.Close()
		return c.db.away(ctx, err)
	}
	c.conn, c.used = conn, time.Now()
	c.db.noteErr(nil)
	return nil
}

// drop throws the connection away: it holds the committer's lock, so it must never
// go back to the pool.
func (c *committer) drop() {
	if c.conn == nil {
		return
	}
	discard(c.conn)
	_ = c.conn.Close()
	c.conn = nil
}

// undo ends the open transaction after a failure that left the connection usable.
func (c *committer) undo() {
	if c.conn != nil && !rollback(c.conn) {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// committed is called right after a commit: it numbers the outbox rows and hands them
// over.
func (c *committer) committed(w *writes) {
	c.used = time.Now()
	c.db.queue.commits.Add(1)
	if len(w.outbox) == 0 {
		return
	}
	for i := range w.outbox {
		w.outbox[i].ID = c.text.FirstOutboxID + int64(i)*c.step
	}
	if c.db.hooks.Committed != nil {
		c.db.hooks.Committed(w.outbox)
	}
}

// ending is how run ended.
type ending uint8

const (
	settled  ending = iota // committed
	refused                // a constraint said no; rolled back
	heldUp                 // a row was waited for in vain; rolled back
	isolated               // rolled back for another reason: decide under locks, in smaller groups
	gaveUp                 // the jobs were answered with an error
)

// run executes a transaction, which attempt writes to the end, until its outcome is
// known.
func (c *committer) run(jobs []*job, attempt func() error) ending {
	for try := 1; ; try++ {
		if err := c.connect(); err != nil {
			if c.mayWait() {
				continue
			}
			failAll(jobs, err)
			return gaveUp
		}
		c.sent = nil
		// Where there is one writer, others hold the place for one transaction each.
		_ = c.db.lockWriter(context.Background())
		err := attempt()
		c.db.unlockWriter()
		c.refusal = err
		switch c.db.dialect.Classify(err) {
		case dialect.NoFailure:
			return settled
		case dialect.Violated:
			c.undo()
			return refused
		case dialect.WaitedOut:
			c.undo()
			c.db.metrics.retries.WithLabelValues("held").Inc()
			return heldUp
		case dialect.Contended:
			c.undo()
			c.db.metrics.retries.WithLabelValues("contended").Inc()
			if try >= maxContended || time.Until(c.deadline) < c.db.cfg.RetryFor/2 {
				return isolated
			}
		case dialect.NotSent:
			c.drop()
			if try >= maxContended {
				failAll(jobs, err)
				return gaveUp
			}
		case dialect.OutcomeOff:
			c.drop()
			c.db.noteErr(err)
			switch done, err := c.learn(); {
			case err != nil:
				failAll(jobs, err)
				return gaveUp
			case done:
				return settled
			case try >= maxContended || time.Now().After(c.deadline):
				return isolated
			}
		case dialect.Otherwise:
			c.undo()
			c.db.noteErr(err)
			c.db.log.Error("the ledger refused a group", "error", err)
			return isolated
		}
	}
}

// learn finds out whether the transaction that was sent last has been committed. It
// looks on a new connection, before which the old one can commit nothing any more: so
// what it finds is final. The error says that the database cannot be asked.
func (c *committer) learn() (committed bool, err error) {
	c.db.metrics.retries.WithLabelValues("unknown").Inc()
	c.db.log.Warn("the outcome of a transaction is unknown", "error", c.refusal)
	until := time.Now().Add(c.db.cfg.RetryFor / 2)
	if c.deadline.After(until) {
		until = c.deadline
	}
	for {
		if err = c.connect(); err == nil {
			if c.sent == nil {
				return false, nil
			}
			if committed, err = c.sent.committed(c.db, c.conn); err == nil {
				return committed, nil
			}
			c.drop()
		}
		if time.Now().After(until) {
			return false, err
		}
		time.Sleep(connectPause)
	}
}

// mayWait sleeps a little and reports true while a group that has lost nothing may
// wait for a connection.
func (c *committer) mayWait() bool {
	if time.Since(c.started) > blink {
		return false
	}
	time.Sleep(connectPause)
	return true
}

func failAll(jobs []*job, err error) {
	for _, j := range jobs {
		j.fail(err)
	}
}

// execute appends the writes to the script that the caller began, runs it, and
// announces what was committed.
func (c *committer) execute(w *writes) error {
	c.sent = w.append(c.text)
	if err := c.db.dialect.Exec(context.Background(), c.conn, c.text); err != nil {
		return err
	}
	c.committed(w)
	return nil
}
