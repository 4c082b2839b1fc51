package ledger

import (
	"context"
	"database/sql"
	"time"

	"flashgate/sale"
)

// commitOptimistic writes the jobs' claims as offered, in one transaction, and answers
// them. It returns the jobs that have to be decided under locks instead: those that a
// constraint refused, or all of them where it cannot tell.
func (c *committer) commitOptimistic(jobs []*job) (locked []*job) {
	end, jobs := c.withoutHeld(jobs, c.tryOptimistic)
	switch end {
	case settled, gaveUp:
		return nil
	case refused:
	default:
		return jobs
	}
	c.db.metrics.regroups.Inc()
	offenders, rest := c.diagnose(jobs)
	if len(offenders) == 0 || len(rest) == 0 {
		return jobs
	}
	switch end, rest = c.withoutHeld(rest, c.tryOptimistic); end {
	case settled, gaveUp:
		return offenders
	}
	return append(offenders, rest...)
}

// tryOptimistic writes the jobs as offered and answers them when that succeeds.
func (c *committer) tryOptimistic(jobs []*job) ending {
	g := c.prepare(jobs)
	if g == nil {
		// An order id occurs twice: which claim is the repeat is decided in memory.
		return isolated
	}
	end := c.run(g.jobs, func() error { return c.write(g) })
	if end == settled {
		g.answer()
	}
	return end
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
		switch c.db.dialect.classify(err) {
		case noFailure:
			return settled
		case violated:
			c.undo()
			return refused
		case waitedOut:
			c.undo()
			c.db.metrics.retries.WithLabelValues("held").Inc()
			return heldUp
		case contended:
			c.undo()
			c.db.metrics.retries.WithLabelValues("contended").Inc()
			if try >= maxContended || time.Until(c.deadline) < c.db.cfg.RetryFor/2 {
				return isolated
			}
		case notSent:
			c.drop()
			if try >= maxContended {
				failAll(jobs, err)
				return gaveUp
			}
		case outcomeOff:
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
		case otherwise:
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

// closingSoon is how long before the end of its sale a SKU's groups look at the clock
// behind the stock rows' locks: much longer than a group may take.
const closingSoon = time.Minute

// optimisticGroup is a group that is ready to be written.
type optimisticGroup struct {
	jobs     []*job
	verdicts [][]sale.Verdict
	w        writes
}

// prepare makes every claim's order. It returns nil when an order id occurs twice.
func (c *committer) prepare(jobs []*job) *optimisticGroup {
	g := &optimisticGroup{jobs: jobs, verdicts: make([][]sale.Verdict, len(jobs))}
	claims := 0
	for _, j := range jobs {
		claims += j.claims()
	}
	g.w.orders = make([]*sale.Order, 0, claims)
	for i, j := range jobs {
		asks := j.asks()
		orders := make([]sale.Order, len(asks))
		verdicts := make([]sale.Verdict, len(asks))
		firstSold := len(g.w.sold)
		for n, a := range asks {
			orders[n] = sale.NewOrder(a.claim, j.sku, a.segment, j.at)
			verdicts[n] = sale.Verdict{Outcome: sale.Reserved, Order: &orders[n]}
			g.w.orders = append(g.w.orders, &orders[n])
			if j.sku.PerUserLimit > 0 {
				g.w.buyers = append(g.w.buyers, buyerUnits{j.sku.Name, a.claim.User, a.claim.Quantity, j.sku.PerUserLimit})
			}
			g.w.sell(firstSold, soldUnits{j.sku.Name, a.segment, a.claim.Quantity, j.sku.Version})
		}
		if closes := j.sku.ClosesAt; closes != 0 && closes < j.at+closingSoon.Milliseconds() && (g.w.closes == 0 || closes < g.w.closes) {
			g.w.closes = closes
		}
		g.verdicts[i] = verdicts
		g.w.outbox = c.db.appendEvents(g.w.outbox, j.sku.Name, orders, j.at)
	}
	if g.w.sort() {
		return nil
	}
	return g
}

// appendEvents appends the outbox rows that tell of new orders of one SKU.
func (db *DB) appendEvents(rows []sale.OutboxRow, sku string, orders []sale.Order, at int64) []sale.OutboxRow {
	if len(orders) == 0 {
		return rows
	}
	rows = append(rows, db.newOutboxRow(sku, sale.KindReserved, orders, at))
	var coupons []sale.Order
	for i := range orders {
		if orders[i].Coupon != "" {
			coupons = append(coupons, orders[i])
		}
	}
	if len(coupons) > 0 {
		rows = append(rows, db.newOutboxRow(sku, sale.KindCouponRedeem, coupons, at))
	}
	return rows
}

// write runs the group's transaction, in one packet, and announces it.
func (c *committer) write(g *optimisticGroup) error {
	c.text.reset()
	c.text.statement(c.db.dialect.begin())
	if err := c.execute(&g.w); err != nil {
		return err
	}
	c.db.metrics.groups.WithLabelValues("optimistic").Inc()
	return nil
}

// execute appends the writes to the script that the caller began, runs it, and
// announces what was committed.
func (c *committer) execute(w *writes) error {
	c.sent = w.append(c.text)
	if err := c.db.dialect.exec(context.Background(), c.conn, c.text); err != nil {
		return err
	}
	c.committed(w)
	return nil
}

func (g *optimisticGroup) answer() {
	for i, j := range g.jobs {
		j.answer(g.verdicts[i], nil)
	}
}

// diagnose finds the jobs whose claims contradict what the database holds. The reads
// are plain: a mistake costs a second refusal, not a wrong verdict.
func (c *committer) diagnose(jobs []*job) (offenders, rest []*job) {
	if len(jobs) == 1 {
		return jobs, nil
	}
	k := newKnowledge(jobs)
	versions := make(map[stockKey]int64)
	s := newScript(c.db.dialect)
	appendOrdersRead(s, jobs, "")
	appendBuyersRead(s, jobs, "")
	appendStockRead(s, jobs, "")
	index := indexJobs(jobs)
	orders := make(map[sale.OrderID]bool)
	err := c.connect()
	if err == nil {
		err = c.db.dialect.query(context.Background(), c.conn, s,
			func(r *sql.Rows) error {
				o, err := scanOrder(r)
				orders[o.ID] = true
				return err
			},
			func(r *sql.Rows) error { return scanBuyer(r, index, k) },
			func(r *sql.Rows) error { return scanStock(r, index, k, versions) })
	}
	if err != nil {
		c.drop()
		return nil, jobs
	}
	for i, j := range jobs {
		if k[i].contradicts(j, orders, versions) {
			offenders = append(offenders, j)
		} else {
			rest = append(rest, j)
		}
	}
	return offenders, rest
}

// contradicts reports whether the job's claims cannot all be reserved as offered.
func (k *knowledge) contradicts(j *job, orders map[sale.OrderID]bool, versions map[stockKey]int64) bool {
	units := make(map[string]int64)
	wanted := make(map[int]int64)
	for _, a := range j.asks() {
		if orders[a.claim.ID] {
			return true
		}
		units[a.claim.User] += a.claim.Quantity
		wanted[a.segment] += a.claim.Quantity
		if limit := j.sku.PerUserLimit; limit > 0 && k.units[a.claim.User]+units[a.claim.User] > limit {
			return true
		}
	}
	for _, s := range k.stock {
		stale := versions[stockKey{j.sku.Name, s.segment}] != j.sku.Version
		if n := wanted[s.segment]; n > 0 && (n > s.Available() || stale) {
			return true
		}
		delete(wanted, s.segment)
	}
	return len(wanted) > 0
}
