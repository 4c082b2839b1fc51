package app

import (
	"crypto/tls"
	"hash/fnv"
	"log/slog"
	"os"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/checkout"
	"flashgate/configs"
	"flashgate/deduct"
	"flashgate/fallback"
	"flashgate/gateway"
	"flashgate/ledger"
	"flashgate/queue"
	"flashgate/results"
	"flashgate/sale"
)

// Each function here says the configuration in the words of one package. reg is nil for
// commands, which nobody scrapes.

func ledgerConfig(cfg configs.Config, log *slog.Logger, reg prometheus.Registerer) ledger.Config {
	return ledger.Config{
		Driver: cfg.Ledger.Driver, DSN: cfg.Ledger.DSN,
		MaxGroup: cfg.Ledger.MaxGroup, Committers: cfg.Ledger.Committers,
		RetryFor: cfg.CommitRetries(), CatalogSize: cfg.Ledger.CatalogSize,
		Encode: results.Encode, Logger: log.With("part", "ledger"), Registerer: reg,
	}
}

func retention(cfg configs.Config) sale.Retention {
	k := cfg.Retention
	return sale.Retention{Orders: k.Orders, Archived: k.Archive, Rate: k.Rate}
}

func natsConfig(cfg configs.Config, log *slog.Logger, reg prometheus.Registerer, embedded *results.Embedded, installation func() string) results.Config {
	return results.Config{
		URL: cfg.NATS.URL, Embedded: embedded, CredsFile: cfg.NATS.CredentialsFile, Name: "flashgate " + instance(),
		Monitors: cfg.NATS.MonitorURL, RequireSync: cfg.NATS.RequireSync,
		Namespace: cfg.Namespace, Installation: installation,
		Streams: streamConfig(cfg), Log: log.With("part", "results"), Registerer: reg,
	}
}

func streamConfig(cfg configs.Config) results.StreamConfig {
	return results.StreamConfig{Replicas: cfg.NATS.Replicas, MaxAge: cfg.NATS.ResultsMaxAge, BacklogCapacity: int64(cfg.Backlog.Capacity)}
}

// shieldConfig is the shield's; a nil backlog is one in which nothing is parked.
func shieldConfig(cfg configs.Config, log *slog.Logger, reg prometheus.Registerer, backlog *results.Backlog, installation func() string, mayMark func() bool) deduct.Config {
	r := cfg.Redis
	c := deduct.Config{
		Namespace: cfg.Namespace, Installation: installation, MayMark: mayMark,
		Addrs: r.Addrs, SentinelMaster: r.SentinelMaster, SentinelPassword: r.SentinelPassword,
		Username: r.Username, Password: r.Password, DB: r.DB,
		DialTimeout: r.DialTimeout, ReadTimeout: r.ReadTimeout, PoolSize: r.PoolSize,
		MaxBatch: cfg.Queue.MaxBatch, Grace: cfg.Reconcile.Grace, Home: home(),
		Logger: log.With("part", "shield"), Registerer: reg,
	}
	if r.TLS {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if backlog != nil {
		c.Parked, c.Waiting = backlog.Units, func(sku string) bool { return backlog.Waiting(sku) > 0 }
	}
	return c
}

// breakerConfig is a breaker's; changed, where it is set, is called on every change.
func breakerConfig(name string, c configs.Breaker, lag *fallback.Lag, log *slog.Logger, changed func()) fallback.Config {
	return fallback.Config{
		Name: name, Window: c.Window, MinCalls: c.MinCalls, FailureRatio: c.FailureRatio,
		Consecutive: c.Consecutive, ProbeAfter: c.OpenFor, Lag: lag,
		Changed: func(name string, usable bool) {
			log.Warn("breaker", "name", name, "usable", usable)
			if changed != nil {
				changed()
			}
		},
	}
}

func checkoutConfig(cfg configs.Config, log *slog.Logger, reg prometheus.Registerer) checkout.Config {
	return checkout.Config{
		MaxAge: cfg.Queue.MaxAge, VerdictTTL: cfg.Server.VerdictTTL, MaxWait: cfg.Backlog.MaxWait,
		Logger: log.With("part", "checkout"), Registerer: reg,
	}
}

func queueConfig(cfg configs.Config, reg prometheus.Registerer) queue.Config {
	q := cfg.Queue
	return queue.Config{
		Capacity: q.Capacity, MaxBatch: q.MaxBatch, Inflight: q.Inflight, MaxAge: q.MaxAge,
		Linger: q.Linger, DrainTimeout: cfg.Server.ShutdownTimeout, Registerer: reg,
	}
}

func gatewayConfig(cfg configs.Config, log *slog.Logger, reg *prometheus.Registry) gateway.Config {
	s, l := cfg.Server, cfg.Limits
	limit := func(l configs.Limit) gateway.Limit { return gateway.Limit{Rate: l.Rate, Burst: l.Burst} }
	return gateway.Config{
		Listen: s.Listen, AdminListen: cfg.Admin.Listen, AdminKey: cfg.Admin.Key, OperatorKeys: cfg.Admin.Keys, OpenMetrics: cfg.Admin.MetricsOpen,
		Wait: s.Wait, MaxWait: cfg.Queue.MaxAge, VerdictTTL: s.VerdictTTL, PayWithin: cfg.PayWithin, TrustedProxies: s.TrustedProxies,
		Auth: gateway.Auth{Mode: cfg.Auth.Mode, JWT: gateway.JWT{
			Secret: cfg.Auth.JWT.Secret, PublicKey: cfg.Auth.JWT.PublicKey,
			Issuer: cfg.Auth.JWT.Issuer, Audience: cfg.Auth.JWT.Audience, Leeway: cfg.Auth.JWT.Leeway, AnyAge: !cfg.Auth.JWT.RequireExp,
		}},
		Limits:    gateway.Limits{User: limit(l.User), IP: limit(l.IP), SKU: limit(l.SKU), Global: limit(l.Global), MaxEntries: l.MaxEntries},
		BodyLimit: s.BodyLimit, HeaderLimit: s.HeaderLimit, MaxConnections: s.MaxConnections, MaxConnectionsEach: s.MaxConnectionsEach,
		ReadTimeout: s.ReadTimeout, WriteTimeout: s.WriteTimeout, IdleTimeout: s.IdleTimeout, RequestsEach: s.RequestsPerConnection,
		TLS: gateway.TLS(s.TLS), AdminTLS: gateway.TLS(cfg.Admin.TLS),
		Payments:   gateway.Payments{WebhookSecrets: cfg.Payments.WebhookSecrets, Tolerance: cfg.Payments.Tolerance},
		DrainDelay: s.DrainDelay, ShutdownTimeout: s.ShutdownTimeout,
		Logger: log.With("part", "gateway"), Registerer: reg, Gatherer: reg,
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
