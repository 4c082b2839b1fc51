package ledger

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// commitLocked decides the jobs under locks and answers every one of them. They share
// a transaction; when that does not succeed, each SKU gets one of its own, so that
// none of them can hold up the others.
func (c *committer) commitLocked(jobs []*job) {
	defer c.tellLearned()
	slices.SortStableFunc(jobs, func(a, b *job) int { return strings.Compare(a.sku.Name, b.sku.Name) })
	if len(jobs) > 1 {
		var end ending
		switch end, jobs = c.withoutHeld(jobs, func(jobs []*job) ending { return c.runLocked(jobs, 3) }); end {
		case settled, gaveUp:
			return
		}
	}
	for _, j := range jobs {
		end, _ := c.withoutHeld([]*job{j}, func(jobs []*job) ending { return c.runLocked(jobs, maxContended) })
		switch end {
		case settled, gaveUp:
		default:
			j.fail(fmt.Errorf("SKU %s could not be decided: %w", j.sku.Name, c.refusal))
		}
	}
}

// runLocked tries a locked transaction of the jobs. A constraint may refuse it when
// rows that were missing have come into being: then it is decided anew, a few times.
func (c *committer) runLocked(jobs []*job, tries int) ending {
	for range tries {
		var l *lockedGroup
		end := c.run(jobs, func() (err error) {
			l, err = c.decideLocked(jobs)
			return err
		})
		switch end {
		case settled:
			c.db.metrics.groups.WithLabelValues("lock_first").Inc()
			l.answer()
			return settled
		case refused:
			continue
		default:
			return end
		}
	}
	return refused
}

// lockedGroup is a group that was decided under locks.
type lockedGroup struct {
	jobs    []*job
	rulings []ruling
}

func (l *lockedGroup) answer() {
	for i, j := range l.jobs {
		j.answer(l.rulings[i].verdicts, l.rulings[i].left)
	}
}

// errRulesChanged says that the rows to lock were chosen under rules that have changed.
var errRulesChanged = errors.New("the rules of a SKU changed")

// decideLocked locks the rows, decides, and writes: two packets.
func (c *committer) decideLocked(jobs []*job) (*lockedGroup, error) {
	for {
		k, err := c.lock(jobs)
		if errors.Is(err, errRulesChanged) {
			c.undo()
			if c.conn == nil {
				return nil, errNoConnection
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		l := &lockedGroup{jobs: jobs, rulings: make([]ruling, len(jobs))}
		var w writes
		for i, j := range jobs {
			l.rulings[i] = decide(j.at, k[i], j.asks())
			c.collect(&w, j, k[i], &l.rulings[i])
		}
		w.sort()
		c.text.Reset()
		return l, c.execute(&w)
	}
}

// errNoConnection is a connection that was lost before anything was sent.
var errNoConnection = fmt.Errorf("the connection was lost: %w", driver.ErrBadConn)

// collect adds what a ruling writes.
func (c *committer) collect(w *writes, j *job, k *knowledge, r *ruling) {
	if len(r.orders) == 0 {
		return
	}
	orders := make([]sale.Order, len(r.orders))
	for i, o := range r.orders {
		orders[i] = *o
	}
	w.orders = append(w.orders, r.orders...)
	for user, units := range r.units {
		w.buyers = append(w.buyers, buyerUnits{j.sku.Name, user, units, k.sku.PerUserLimit})
	}
	for _, s := range r.stock {
		if s.changed {
			w.locked = append(w.locked, dialect.LockedStock{SKU: j.sku.Name, Segment: s.segment, Stock: s.Stock})
		}
	}
	w.outbox = c.db.appendEvents(w.outbox, j.sku.Name, orders, j.at)
}

// lock begins a transaction, locks the jobs' rows in the order of all transactions,
// and reads them. The SKUs' rules and the clock are read behind the stock rows' locks,
// without which operators cannot change the rules: what is read there is exact, and a
// refusal because the sale is over is final, since no purchase that is under way can come
// behind those locks in time. Orders are reserved at that time too.
func (c *committer) lock(jobs []*job) ([]*knowledge, error) {
	s := c.text
	s.Reset()
	s.Statement(c.db.dialect.Begin())
	appendOrdersRead(s, jobs, c.db.dialect.ForUpdate())
	appendBuyersRead(s, jobs, c.db.dialect.ForUpdate())
	appendStockRead(s, jobs, c.db.dialect.ForUpdate())
	appendSKUsRead(s, jobs)
	now := c.db.Now()
	if clock := c.db.dialect.Clock(); clock != "" {
		s.Raw(clock)
		s.EndWith(dialect.Selects, 0)
	}

	k := newKnowledge(jobs)
	index := indexJobs(jobs)
	found := make(map[sale.OrderID]sale.Order)
	err := c.db.dialect.Query(context.Background(), c.conn, s,
		func(r *sql.Rows) error {
			o, err := scanOrder(r)
			found[o.ID] = o
			return err
		},
		func(r *sql.Rows) error { return scanBuyer(r, index, k) },
		func(r *sql.Rows) error { return scanStock(r, index, k, nil) },
		func(r *sql.Rows) error {
			sku, err := scanSKU(r)
			if err != nil {
				return err
			}
			if i, ok := index[sku.Name]; ok {
				k[i].sku = sku
			}
			return nil
		},
		func(r *sql.Rows) error {
			var micros int64
			err := r.Scan(&micros)
			now = micros / 1000
			return err
		})
	if err != nil {
		return nil, err
	}
	if apart := now - c.db.Now(); max(apart, -apart) > atWithin/2 {
		c.db.clock.askAnew()
	}
	changed := false
	for i, j := range jobs {
		k[i].now, k[i].orders = now, found
		j.at = now
		if k[i].sku != nil && k[i].sku.PerUserLimit > 0 && j.sku.PerUserLimit == 0 {
			changed = true
		}
		if k[i].sku != nil {
			c.remember(j.sku, k[i].sku)
			j.sku = k[i].sku
		}
	}
	if changed {
		return nil, errRulesChanged
	}
	return k, nil
}

// remember keeps rules that were read behind the stock rows' locks and are newer than
// those that the claims came with, so that the next ones come with them.
func (c *committer) remember(offered, exact *sale.SKU) {
	if offered.Version >= exact.Version {
		return
	}
	if before := c.db.catalog.store(exact); before == nil || before.Version < exact.Version {
		c.learned = append(c.learned, learned{before, exact})
	}
}

// learned are newer rules, and those that were remembered before.
type learned struct{ before, after *sale.SKU }

// tellLearned tells of them, outside of locks.
func (c *committer) tellLearned() {
	for _, l := range c.learned {
		c.db.heard(l.before, l.after)
	}
	c.learned = nil
}
