package app

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"flashgate/audit"
	"flashgate/checkout"
	"flashgate/configs"
	"flashgate/deduct"
	"flashgate/fallback"
	"flashgate/gateway"
	"flashgate/jobs"
	"flashgate/ledger"
	"flashgate/queue"
	"flashgate/results"
	"flashgate/sale"
)

// app is a gateway put together: every package's part, joined at the interfaces that
// its consumers declare. It is the same for serve and dev.
type app struct {
	ledger    *ledger.DB
	nats      *results.Conn
	publisher *results.Publisher
	stats     *results.Stats
	backlog   *results.Backlog
	shield    *deduct.Shield
	checkout  *checkout.Checkout
	queue     *queue.Queue
	gateway   *gateway.Gateway
	jobs      *jobs.Scheduler
	lag       *fallback.Lag
}

// newApp joins the parts and starts none. Each part is made of those above it; what the
// ledger has to tell those below it are its hooks. embedded is dev's nats-server, or nil.
func newApp(cfg configs.Config, log *slog.Logger, embedded *results.Embedded) (_ *app, err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a := &app{}
	defer func() {
		if err != nil && a.nats != nil {
			a.nats.Close()
		}
	}()
	deduct.SetClientLog(log.With("part", "shield"))

	if a.ledger, err = ledger.New(ledgerConfig(cfg, log, reg)); err != nil {
		return nil, err
	}
	if a.lag, err = fallback.NewLag(reg); err != nil {
		return nil, err
	}
	ledgerBreaker, err := fallback.New(breakerConfig("ledger", cfg.Breaker.Ledger, a.lag, log, nil))
	if err != nil {
		return nil, err
	}
	natsBreaker, err := fallback.New(breakerConfig("nats", cfg.Breaker.NATS, a.lag, log, nil))
	if err != nil {
		return nil, err
	}
	if a.nats, err = results.Connect(natsConfig(cfg, log, reg, embedded, a.ledger.Installation)); err != nil {
		return nil, err
	}
	resultsLog := log.With("part", "results")
	a.publisher, err = results.NewPublisher(results.PublisherConfig{Acked: a.ledger.Acked, Log: resultsLog, Registerer: reg}, a.nats)
	if err != nil {
		return nil, err
	}
	relay, err := results.NewRelay(results.RelayConfig{Holds: a.publisher.Holds, Log: resultsLog, Registerer: reg}, a.nats, a.ledger)
	if err != nil {
		return nil, err
	}
	a.stats, err = results.NewStats(results.StatsConfig{Now: a.ledger.Now, Log: resultsLog, Registerer: reg}, a.nats)
	if err != nil {
		return nil, err
	}
	a.backlog, err = results.NewBacklog(results.BacklogConfig{
		MaxBatch: cfg.Queue.MaxBatch, Hurry: func() bool { return !ledgerBreaker.Usable() }, Log: resultsLog, Registerer: reg,
	}, a.nats)
	if err != nil {
		return nil, err
	}
	redisBreaker := breakerConfig("redis", cfg.Breaker.Redis, a.lag, log, func() { a.shield.Doubt() })
	shieldBreaker, err := fallback.New(redisBreaker)
	if err != nil {
		return nil, err
	}
	eachServer, err := fallback.NewEach(redisBreaker)
	if err != nil {
		return nil, err
	}
	shieldCfg := shieldConfig(cfg, log, reg, a.backlog, a.ledger.Installation, a.nats.ResultsReady)
	shieldCfg.Breaker = func(server string) deduct.Breaker { return eachServer(server) }
	if a.shield, err = deduct.New(shieldCfg, a.ledger.Source()); err != nil {
		return nil, err
	}
	var ceiling checkout.Ceiling
	if cfg.Fallback.Rate > 0 {
		if ceiling, err = fallback.NewThrottle(cfg.Fallback.Rate, cfg.Fallback.Burst); err != nil {
			return nil, err
		}
	}
	guardedLedger, guardedShield, guardShield := fallback.GuardLedger(a.ledger, ledgerBreaker), fallback.GuardShield(a.shield, shieldBreaker), shieldBreaker.Do
	if a.shield.Sharded() {
		guardedShield, guardShield = fallback.GuardShards(a.shield, shieldBreaker), shieldBreaker.Obey
	}
	a.checkout, err = checkout.New(checkoutConfig(cfg, log, reg), checkout.Deps{
		Shield: guardedShield, Ledger: guardedLedger, Ceiling: ceiling,
		Backlog: fallback.GuardBacklog(a.backlog, natsBreaker), Stats: a.stats,
	})
	if err != nil {
		return nil, err
	}
	if a.queue, err = queue.New(queueConfig(cfg, reg), a.checkout); err != nil {
		return nil, err
	}
	auditor, err := audit.New(audit.Config{MaxOrders: 1 << 20}, auditedLedger{a.ledger}, a.shield, auditedResults{a.nats, a.backlog})
	if err != nil {
		return nil, err
	}
	edgeLedger := guardedLedger.Asked()
	panel := fallback.NewPanel(instance(), a.ledger, shieldBreaker, ledgerBreaker, natsBreaker)
	edge := gatewayConfig(cfg, log, reg)
	if embedded != nil { // dev: for one machine
		edge.LocalNames, edge.AdminLocalNames = configs.OnLoopback(cfg.Server.Listen), configs.OnLoopback(cfg.Admin.Listen)
	}
	a.gateway, err = gateway.New(edge, gateway.Deps{
		Queue: a.queue, SoldOut: a.checkout, Ledger: edgeLedger, Orders: edgeLedger, Catalogue: a.ledger, Shield: guardedShield,
		Breakers: panel, Paths: a.checkout, Readiness: readiness{a.ledger, a.nats}, Auditor: reported{auditor}, Log: a.ledger,
	})
	if err != nil {
		return nil, err
	}
	a.ledger.SetHooks(ledger.Hooks{
		Committed: func(rows []sale.OutboxRow) {
			if natsBreaker.Usable() && a.nats.ResultsReady() { // else the outbox keeps them for the relay
				a.publisher.Publish(rows)
			}
		},
		Released: a.checkout.Released,
		Changed:  a.checkout.Changed,
		Heard:    a.checkout.Heard,
	})

	natsPulse, redisPulse := fallback.NewPulse(a.nats.Answers), fallback.NewPulse(a.shield.Answers)
	ledgerUp := func() bool { return !ledgerBreaker.Open() }
	natsUp := func() bool { return !natsBreaker.Open() && natsPulse.Alive() }
	redisUp := func() bool { return !shieldBreaker.Open() && redisPulse.Alive() }
	a.jobs, err = jobs.New(jobs.Config{Holder: holder(), Log: log.With("part", "jobs"), Registerer: reg}, a.ledger.Leases(),
		jobs.Job{Name: "relay", Every: relayEvery, Within: hungAfter, Able: func() bool { return natsUp() && a.nats.ResultsReady() }, Run: anyLeader(relay.Pass)},
		jobs.Job{Name: "drain", Every: drainEvery, Within: hungAfter, Able: func() bool { return ledgerUp() && natsUp() && a.nats.BacklogReady() }, Run: anyLeader(func(ctx context.Context) error {
			return a.backlog.Drain(ctx, a.checkout.SettleParked)
		})},
		jobs.Job{Name: "reconcile", Every: cfg.Reconcile.Period, Within: hungAfter, Able: func() bool { return ledgerUp() && redisUp() }, Run: anyLeader(func(ctx context.Context) error {
			return guardShield(ctx, func(ctx context.Context) error { _, err := a.shield.Reconcile(ctx); return err })
		})},
		jobs.Job{Name: ledger.ExpireJob, Every: expireEvery, Within: hungAfter, Able: ledgerUp, Run: a.ledger.Expire},
		jobs.Job{Name: "limits", Every: limitsEvery, Within: hungAfter, Able: ledgerUp, Run: anyLeader(a.ledger.CountBuyers)},
		jobs.Job{Name: "retention", Every: retainEvery, Within: hungAfter, Able: ledgerUp, Run: anyLeader(func(ctx context.Context) error {
			return a.ledger.Retain(ctx, retention(cfg))
		})},
		jobs.Job{Name: "preheat", Every: preheatEvery, Within: hungAfter, Able: func() bool { return ledgerUp() && redisUp() }, Run: anyLeader(a.checkout.Preheat)},
		jobs.Job{Name: "repair", Every: repairEvery, EveryGateway: true, Run: anyLeader(a.ledger.RepairSuspects)},
		jobs.Job{Name: "breaker-orders", Every: fallback.ObeyEvery, EveryGateway: true, Run: anyLeader(panel.Obey)},
		jobs.Job{Name: "ledger-probe", Every: probeEvery, EveryGateway: true, Run: anyLeader(ledgerBreaker.Probe(ledgerProbe, a.ledger.Ping))},
		jobs.Job{Name: "nats-probe", Every: probeEvery, EveryGateway: true, Run: anyLeader(natsBreaker.Probe(natsProbe, a.nats.Ping))},
		jobs.Job{Name: "nats-pulse", Every: fallback.PulseEvery, EveryGateway: true, Run: anyLeader(natsPulse.Beat)},
		jobs.Job{Name: "redis-pulse", Every: fallback.PulseEvery, EveryGateway: true, Run: anyLeader(redisPulse.Beat)},
	)
	return a, err
}

// stages is the order of stopping: the edge first, then what works for it, and last
// what that needs to finish.
func (a *app) stages() []stage {
	return []stage{
		{"gateway", a.gateway.Run},
		{"queue", a.queue.Run},
		{"jobs", a.runJobs},
		{"checkout", a.checkout.Run},
		{"refusal counts", a.stats.Run},
		{"publisher", a.publisher.Run},
		{"backlog", a.backlog.Run},
		{"ledger", a.ledger.Run},
		{"shield", a.shield.Run},
		{"nats", func(ctx context.Context) error {
			defer a.nats.Close()
			return a.nats.Run(ctx)
		}},
		{"lag", a.lag.Run},
	}
}
