package main

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/fallback"
	"flashgate/jobs"
	"flashgate/ledger"
	"flashgate/sale"
)

// How often the jobs run. Orders expire at most three seconds late; repairs of sums read
// every order, so they are rare.
const (
	relayEvery  = 500 * time.Millisecond
	drainEvery  = 250 * time.Millisecond
	expireEvery = time.Second
	repairEvery = time.Minute
	probeEvery  = time.Second
	// expireBatch bounds the orders one call ends, and with it the memory they take.
	expireBatch = 10_000
)

// buildJobs schedules what runs beside the sale: each job in one gateway at a time, but
// for what concerns a gateway itself. The holder's name has a random part, because
// containers share host names and process ids.
func (a *app) buildJobs(reg *prometheus.Registry) (err error) {
	repaired := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flashgate_repairs_total", Help: "Rows of the ledger that disagreed with its orders, by table and whether they could be repaired.",
	}, []string{"table", "result"})
	if err := reg.Register(repaired); err != nil {
		return err
	}
	a.jobs, err = jobs.New(jobs.Config{Holder: rand.Text()[:8] + "/" + instance(), Log: a.log.With("part", "jobs"), Registerer: reg}, a.ledger.Leases(),
		jobs.Job{Name: "relay", Every: relayEvery, Run: a.relayOnce},
		jobs.Job{Name: "reconcile", Every: a.cfg.Reconcile.Period, Run: a.reconcileOnce},
		jobs.Job{Name: "drain", Every: drainEvery, Run: a.drainOnce},
		jobs.Job{Name: ledger.ExpireJob, Every: expireEvery, Run: a.expireOnce},
		jobs.Job{Name: "repair", Every: repairEvery, Run: func(ctx context.Context, _ int64) error { return a.repairOnce(ctx, repaired) }},
		jobs.Job{Name: "restock", Every: restockEvery, EveryGateway: true, Run: a.restocks.look},
		jobs.Job{Name: "ledger-probe", Every: probeEvery, EveryGateway: true, Run: a.probeLedger},
		jobs.Job{Name: "nats-probe", Every: probeEvery, EveryGateway: true, Run: a.probeNATS},
	)
	return err
}

// runJobs begins once the ledger was proved: the leases are kept there.
func (a *app) runJobs(ctx context.Context) error {
	for !a.ledger.Ready() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
	return a.jobs.Run(ctx)
}

func (a *app) relayOnce(ctx context.Context, _ int64) error {
	if !a.breakers.nats.Usable() || !a.nats.Ready() {
		return nil // the outbox can wait
	}
	return a.relay.Pass(ctx)
}

func (a *app) reconcileOnce(ctx context.Context, _ int64) error {
	if !a.breakers.ledger.Usable() {
		return nil // what the ledger knows decides every repair
	}
	return answered(a.breakers.redis.Do(ctx, func(ctx context.Context) error {
		_, err := a.shield.Reconcile(ctx)
		return err
	}))
}

// expireOnce ends what was not paid in time. The token is what keeps a gateway that
// lost its lease in its sleep from ending anything.
func (a *app) expireOnce(ctx context.Context, token int64) error {
	life := a.lifecycle()
	for a.breakers.ledger.Usable() {
		ended, err := a.ledger.ExpireDue(ctx, token, expireBatch)
		bySKU := make(map[string][]sale.Order)
		for _, o := range ended {
			bySKU[o.SKU] = append(bySKU[o.SKU], o)
		}
		for sku, orders := range bySKU {
			life.release(ctx, sku, orders)
		}
		if err != nil || len(ended) < expireBatch {
			return err
		}
	}
	return nil // orders can wait
}

// repairOnce computes anew the sums that disagree with the orders they are sums of.
func (a *app) repairOnce(ctx context.Context, repaired *prometheus.CounterVec) error {
	if !a.breakers.ledger.Usable() {
		return nil
	}
	var errs []error
	for table, repair := range map[string]func(context.Context) (sale.Repairs, error){
		"stock": a.ledger.RepairStock, "buyers": a.ledger.RepairBuyers,
	} {
		done, err := repair(ctx)
		errs = append(errs, err)
		repaired.WithLabelValues(table, "repaired").Add(float64(done.Repaired))
		repaired.WithLabelValues(table, "left").Add(float64(done.Left))
		if done != (sale.Repairs{}) {
			a.log.Warn("the ledger's sums disagreed with its orders", "table", table, "repaired", done.Repaired, "left", done.Left)
		}
	}
	return errors.Join(errs...)
}

// probeNATS asks NATS for a sign of life, so that its breaker knows.
func (a *app) probeNATS(ctx context.Context, _ int64) error {
	// The connection and the breaker have said it already.
	_ = a.breakers.nats.Do(ctx, a.nats.Ping)
	return nil
}

// answered hides that a breaker was open: that is no failure of the job.
func answered(err error) error {
	if errors.Is(err, fallback.ErrNotCalled) {
		return nil
	}
	return err
}
