package main

import (
	"context"
	"crypto/tls"
	"errors"
	"hash/fnv"
	"log/slog"
	"os"
	"strconv"
	"time"

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
	cfg       configs.Config
	log       *slog.Logger
	ledger    *ledger.DB
	nats      *results.Conn
	publisher *results.Publisher
	relay     *results.Relay
	stats     *results.Stats
	backlog   *results.Backlog
	shield    *deduct.Shield
	breakers  breakers
	checkout  *checkout.Checkout
	queue     *queue.Queue
	gateway   *gateway.Gateway
	restocks  *restocks
	jobs      *jobs.Scheduler
}

// breakers are the circuit breakers, one per dependency.
type breakers struct{ redis, ledger, nats *fallback.Breaker }

func (b breakers) panel() fallback.Panel { return fallback.Panel{b.redis, b.ledger, b.nats} }

// newApp joins the parts and starts none. nats is the embedded server, or nil.
func newApp(cfg configs.Config, log *slog.Logger, nats *results.Embedded) (*app, error) {
	a := &app{cfg: cfg, log: log}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, build := range []func(*prometheus.Registry) error{
		a.buildLedger,
		func(reg *prometheus.Registry) error { return a.buildResults(reg, nats) },
		a.buildShield, a.buildBreakers, a.buildCheckout, a.buildGateway, a.buildJobs,
	} {
		if err := build(reg); err != nil {
			if a.nats != nil {
				a.nats.Close()
			}
			return nil, err
		}
	}
	return a, nil
}

// ledgerConfig is the ledger as commands need it: without anybody to hand rows to.
func ledgerConfig(cfg configs.Config, log *slog.Logger) ledger.Config {
	return ledger.Config{
		Driver: cfg.Ledger.Driver, DSN: cfg.Ledger.DSN,
		MaxGroup: cfg.Ledger.MaxGroup, Committers: cfg.Ledger.Committers,
		RetryFor: cfg.CommitRetries(), CatalogSize: cfg.Ledger.CatalogSize,
		Encode: results.Encode, Logger: log.With("part", "ledger"),
	}
}

func (a *app) buildLedger(reg *prometheus.Registry) (err error) {
	c := ledgerConfig(a.cfg, a.log)
	c.Registerer = reg
	// What NATS would refuse now is left in the outbox, to the relay.
	c.Committed = func(rows []sale.OutboxRow) {
		if a.breakers.nats.Usable() {
			a.publisher.Publish(rows)
		}
	}
	a.ledger, err = ledger.New(c)
	return err
}

func (a *app) buildResults(reg *prometheus.Registry, nats *results.Embedded) (err error) {
	log := a.log.With("part", "results")
	a.nats, err = results.Connect(results.Config{
		URL: a.cfg.NATS.URL, Embedded: nats, CredsFile: a.cfg.NATS.CredentialsFile, Name: "flashgate " + instance(),
		Streams: results.StreamConfig{Replicas: a.cfg.NATS.Replicas, MaxAge: a.cfg.NATS.ResultsMaxAge, BacklogCapacity: int64(a.cfg.Backlog.Capacity)},
		Log:     log, Registerer: reg,
	})
	if err != nil {
		return err
	}
	a.publisher, err = results.NewPublisher(results.PublisherConfig{Acked: a.ledger.Acked, Log: log, Registerer: reg}, a.nats)
	if err != nil {
		return err
	}
	a.relay, err = results.NewRelay(results.RelayConfig{Holds: a.publisher.Holds, Log: log, Registerer: reg}, a.nats, a.ledger)
	if err != nil {
		return err
	}
	a.stats, err = results.NewStats(results.StatsConfig{Now: a.ledger.Now, Log: log, Registerer: reg}, a.nats)
	if err != nil {
		return err
	}
	a.backlog, err = results.NewBacklog(results.BacklogConfig{
		MaxBatch: a.cfg.Queue.MaxBatch, Hurry: func() bool { return !a.breakers.ledger.Usable() }, Log: log, Registerer: reg,
	}, a.nats)
	return err
}

func (a *app) buildShield(reg *prometheus.Registry) (err error) {
	deduct.SetClientLog(a.log.With("part", "shield"))
	c := shieldConfig(a.cfg, a.log, reg)
	c.Parked, c.Waiting = a.backlog.Units, func(sku string) bool { return a.backlog.Waiting(sku) > 0 }
	a.shield, err = deduct.New(c, a.ledger)
	return err
}

func shieldConfig(cfg configs.Config, log *slog.Logger, reg prometheus.Registerer) deduct.Config {
	r := cfg.Redis
	c := deduct.Config{
		Addrs: r.Addrs, SentinelMaster: r.SentinelMaster, SentinelPassword: r.SentinelPassword,
		Username: r.Username, Password: r.Password, DB: r.DB,
		DialTimeout: r.DialTimeout, ReadTimeout: r.ReadTimeout, PoolSize: r.PoolSize,
		MaxBatch: cfg.Queue.MaxBatch, Grace: cfg.Reconcile.Grace, Home: home(),
		Logger: log.With("part", "shield"), Registerer: reg,
	}
	if r.TLS {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return c
}

func (a *app) buildBreakers(*prometheus.Registry) error {
	build := func(name string, c configs.Breaker, changed func(usable bool)) (*fallback.Breaker, error) {
		return fallback.New(fallback.Config{
			Name: name, Window: c.Window, MinCalls: c.MinCalls, FailureRatio: c.FailureRatio,
			Consecutive: c.Consecutive, ProbeAfter: c.OpenFor,
			Changed: func(name string, usable bool) {
				a.log.Warn("breaker", "name", name, "usable", usable)
				if changed != nil {
					changed(usable)
				}
			},
		})
	}
	var errs [3]error
	// What the shield holds is older than what went around it while it was away, so
	// every SKU's is loaded anew before its batches go through it again.
	a.breakers.redis, errs[0] = build("redis", a.cfg.Breaker.Redis, func(bool) { a.shield.Distrust("", a.ledger.Now()) })
	a.restocks = &restocks{ledger: a.ledger, shield: a.shield, breaker: a.breakers.redis}
	a.breakers.ledger, errs[1] = build("ledger", a.cfg.Breaker.Ledger, nil)
	a.breakers.nats, errs[2] = build("nats", a.cfg.Breaker.NATS, nil)
	return errors.Join(errs[:]...)
}

func (a *app) buildCheckout(reg *prometheus.Registry) error {
	around, err := fallback.NewThrottle(a.cfg.Fallback.Rate, a.cfg.Fallback.Burst)
	if err != nil {
		return err
	}
	a.checkout, err = checkout.New(checkout.Config{
		MaxAge: a.cfg.Queue.MaxAge, VerdictTTL: a.cfg.Server.VerdictTTL, MaxWait: a.cfg.Backlog.MaxWait,
		SoldOutMin: 200 * time.Millisecond, SoldOutMax: 500 * time.Millisecond,
		Rebuilders: 4, LimitChecks: 20, Logger: a.log.With("part", "checkout"), Registerer: reg,
	}, checkout.Deps{
		Shield: a.shield, Ledger: a.ledger, ShieldBreaker: a.breakers.redis, LedgerBreaker: a.breakers.ledger,
		Around: around, Backlog: parking{a.backlog, a.nats, a.breakers.nats}, Stats: a.stats,
	})
	if err != nil {
		return err
	}
	q := a.cfg.Queue
	a.queue, err = queue.New(queue.Config{
		Capacity: q.Capacity, MaxWaiting: max(500_000, q.Capacity), MaxBatch: q.MaxBatch, Inflight: q.Inflight, MaxAge: q.MaxAge,
		Linger: q.Linger, DrainTimeout: a.cfg.Server.ShutdownTimeout, Logger: a.log.With("part", "queue"), Registerer: reg,
	}, a.checkout)
	return err
}

func (a *app) buildGateway(reg *prometheus.Registry) (err error) {
	s, l := a.cfg.Server, a.cfg.Limits
	auditor, err := audit.New(audit.Config{}, auditedLedger{a.ledger}, a.shield, auditedResults{a.nats, a.backlog})
	if err != nil {
		return err
	}
	limit := func(l configs.Limit) gateway.Limit { return gateway.Limit{Rate: l.Rate, Burst: l.Burst} }
	a.gateway, err = gateway.New(gateway.Config{
		Listen: s.Listen, AdminListen: a.cfg.Admin.Listen, AdminKey: a.cfg.Admin.Key, OpenMetrics: a.cfg.Admin.MetricsOpen,
		Wait: s.Wait, MaxWait: a.cfg.Queue.MaxAge, VerdictTTL: s.VerdictTTL, PayWithin: a.cfg.PayWithin, TrustedProxies: s.TrustedProxies,
		Auth: gateway.Auth{Mode: a.cfg.Auth.Mode, JWT: gateway.JWT{
			Secret: a.cfg.Auth.JWT.Secret, PublicKey: a.cfg.Auth.JWT.PublicKey,
			Issuer: a.cfg.Auth.JWT.Issuer, Audience: a.cfg.Auth.JWT.Audience, Leeway: max(a.cfg.Auth.JWT.Leeway, 1), // zero would be the default
		}},
		Limits:    gateway.Limits{User: limit(l.User), IP: limit(l.IP), SKU: limit(l.SKU), Global: limit(l.Global), MaxEntries: l.MaxEntries},
		BodyLimit: s.BodyLimit, HeaderLimit: s.HeaderLimit, ReadTimeout: s.ReadTimeout, IdleTimeout: s.IdleTimeout, MaxConnections: s.MaxConnections,
		Payments:   gateway.Payments{WebhookSecrets: a.cfg.Payments.WebhookSecrets, Tolerance: a.cfg.Payments.Tolerance},
		DrainDelay: s.DrainDelay, ShutdownTimeout: s.ShutdownTimeout,
		Logger: a.log.With("part", "gateway"), Registerer: reg, Gatherer: reg,
	}, gateway.Deps{
		Queue: a.queue, SoldOut: a.checkout, Ledger: a.ledger, Orders: a.lifecycle(), Catalogue: catalogue{a.ledger, a.checkout, a.restocks}, Shield: guardedShield{a.shield, a.breakers.redis},
		Breakers: a.breakers.panel(), Paths: a.checkout, Readiness: a.ledger, Auditor: reported{auditor},
	})
	return err
}

func (a *app) lifecycle() lifecycle {
	return lifecycle{a.ledger, a.shield, a.breakers.redis, a.checkout, a.restocks, a.log.With("part", "orders")}
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
	}
}

// instance names this process among the gateways.
func instance() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + strconv.Itoa(os.Getpid())
}

// home is a number of this gateway, by which it chooses the segments it draws from.
func home() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(instance()))
	return h.Sum32()
}
