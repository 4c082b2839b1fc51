package ledger

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"flashgate/ledger/dialect"
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
	g.w.at = jobs[0].at // all of a group are of one moment
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
			g.w.sell(firstSold, dialect.SoldUnits{SKU: j.sku.Name, Segment: a.segment, Units: a.claim.Quantity, Version: j.sku.Version})
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
	if slices.ContainsFunc(orders, func(o sale.Order) bool { return o.Coupon != "" }) {
		rows = append(rows, db.newOutboxRow(sku, sale.KindCouponRedeem, withCoupons(orders), at))
	}
	return rows
}

// write runs the group's transaction, in one packet, and announces it.
func (c *committer) write(g *optimisticGroup) error {
	c.text.Reset()
	c.text.Statement(c.db.dialect.Begin())
	if err := c.execute(&g.w); err != nil {
		return err
	}
	c.db.metrics.groups.WithLabelValues("optimistic").Inc()
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
	s := dialect.NewScript(c.db.dialect)
	appendOrdersRead(s, jobs, "")
	appendBuyersRead(s, jobs, "")
	appendStockRead(s, jobs, "")
	index := indexJobs(jobs)
	orders := make(map[sale.OrderID]bool)
	err := c.connect()
	if err == nil {
		err = c.db.dialect.Query(context.Background(), c.conn, s,
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
