// Package configs is the configuration as plain data: its shape, its defaults, where
// it is read from, and what is refused. It imports nothing of ours;
// internal/app translates it into each package's own Config.
//
// A key is the path of yaml tags from Config to a leaf, joined by dots. Every key can
// be given in the YAML file and in the environment, where it is FLASHGATE_ and the
// path in capitals with two underscores for each dot. Lists are separated by commas
// in the environment. Secrets may also be given as the name of a file that holds
// them, under the key with _file (in the environment _FILE) at its end.
package configs

import "time"

// Mode says what the configuration is for, and with that which defaults stand and
// which values are needed.
type Mode uint8

// The modes.
const (
	// Serve is a gateway in production: real Redis, MySQL or MariaDB, and NATS.
	Serve Mode = iota + 1
	// Dev is everything in one process on loopback, with embedded parts.
	Dev
	// Tool is an operator's command (migrate, sku, audit, reconcile, restore): it
	// needs the ledger, and listens to nobody.
	Tool
)

// Config is everything that can be configured.
type Config struct {
	Server Server `yaml:"server"`
	Admin  Admin  `yaml:"admin"`
	Auth   Auth   `yaml:"auth"`
	Redis  Redis  `yaml:"redis"`
	Ledger Ledger `yaml:"ledger"`
	// Namespace goes into every Redis key, NATS stream and subject, so that installations
	// can share them: up to 32 letters, digits, _ and -. Changing it leaves what is parked
	// and published under the old name.
	Namespace string    `yaml:"namespace"`
	NATS      NATS      `yaml:"nats"`
	Queue     Queue     `yaml:"queue"`
	Fallback  Fallback  `yaml:"fallback"`
	Breaker   Breakers  `yaml:"breaker"`
	Limits    Limits    `yaml:"limits"`
	Payments  Payments  `yaml:"payments"`
	Backlog   Backlog   `yaml:"backlog"`
	Reconcile Reconcile `yaml:"reconcile"`
	Retention Retention `yaml:"retention"`
	Direct    Direct    `yaml:"direct"`
	Log       Log       `yaml:"log"`

	// PayWithin is how long a buyer has to pay for an order of a SKU that says nothing
	// itself. Too low: buyers lose what they reserved while they type a card number.
	// Too high: units that nobody will pay for are kept from those who would.
	PayWithin time.Duration `yaml:"pay_within"`

	// foreign are environment variables that begin like ours and are none.
	foreign []string
}

// Server is the buyers' listener.
type Server struct {
	// Listen is host:port of the buyers' listener; an empty host is every address.
	Listen string `yaml:"listen"`
	// Wait is how long a purchase waits for its verdict where the request does not
	// say (Prefer: wait). Too low: buyers get 202 and poll, which costs more requests
	// than waiting. Too high: connections are held; more than queue.max_age is useless,
	// since every claim has ended by then, and is cut to it.
	Wait time.Duration `yaml:"wait"`
	// TrustedProxies are the addresses and networks (CIDR) whose X-Forwarded-For, and
	// in header mode X-User-ID, are believed. Too few: every buyer has the load
	// balancer's address and limits.ip hits all of them at once. Too many: who is in
	// the list can claim to be anybody.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// VerdictTTL is how long the verdict of a claim that nobody waited for can be asked
	// for. Too low: slow pollers find 404 and must repeat the purchase. Too high: Redis
	// keeps verdicts that nobody asks for.
	VerdictTTL time.Duration `yaml:"verdict_ttl"`
	// ReadTimeout bounds reading one request. Too low: slow mobile networks are cut
	// off. Too high: slow-loris connections are cheap for an attacker.
	ReadTimeout time.Duration `yaml:"read_timeout"`
	// WriteTimeout bounds writing one response, or one piece of an event stream. Too low:
	// slow mobile networks are cut off. Too high: who never reads holds a connection for
	// that long.
	WriteTimeout time.Duration `yaml:"write_timeout"`
	// RequestsPerConnection closes a connection after so many requests; 0 does not. Too
	// low: each costs a handshake. With some thousands, balancers spread what they hold open
	// over gateways that were added.
	RequestsPerConnection int `yaml:"requests_per_connection"`
	// IdleTimeout closes kept-alive connections that sent nothing. It should be longer
	// than the load balancer's own. Too low: the balancer meets closed connections and
	// reports 502. Too high: idle connections use up file descriptors.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// BodyLimit is the largest request body in bytes. Too low: payment webhooks are
	// refused with 413. Too high: each connection may make the gateway hold that much.
	BodyLimit int `yaml:"body_limit"`
	// HeaderLimit is the largest request line and headers in bytes, held per open
	// connection. Too low: large JWTs or cookies get 431. Too high: memory per
	// connection.
	HeaderLimit int `yaml:"header_limit"`
	// MaxConnections bounds open connections. Too low: buyers are turned away while
	// there is room. Too high: memory ends first, and less politely. What the process may
	// open files for, less a reserve for its own parts, bounds it too.
	MaxConnections int `yaml:"max_connections"`
	// MaxConnectionsEach bounds those of one address that is not in trusted_proxies; 0 does
	// not. Too low: buyers behind one address (an office, a carrier) are turned away. Too
	// high, or 0: one client can take them all.
	MaxConnectionsEach int `yaml:"max_connections_each"`
	TLS                TLS `yaml:"tls"`
	// DrainDelay is how long a gateway that was told to stop goes on serving with
	// /readyz at 503, so that load balancers notice. Too low: they send requests to a
	// closed port. Too high: restarts take that much longer.
	DrainDelay time.Duration `yaml:"drain_delay"`
	// ShutdownTimeout bounds the draining after that. Too low: buyers who wait hear
	// 503 though their verdict was near. Too high: a stuck dependency keeps the old
	// process alive.
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout"`
}

// TLS of a listener; without a certificate it speaks none. All are paths of PEM files, which
// are read again within 10 s when they change.
type TLS struct {
	// Cert is the certificate with its chain, and Key its private key.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ClientCA, when set, has every request but health checks come with a client
	// certificate that one of these authorities signed.
	ClientCA string `yaml:"client_ca"`
}

// Admin is the operators' listener.
type Admin struct {
	// Listen is host:port of the operators' listener. It should not be reachable by
	// buyers.
	Listen string `yaml:"listen"`
	// Key is what operators send as Authorization: Bearer. Too short a key can be
	// guessed; dev makes one at random where none is given.
	Key string `yaml:"key" secret:"yes"`
	// Keys are further operators', each as name:scope:hash: scope is read, which may look,
	// or operate; hash is the SHA-256 of the key in hexadecimal. The name stands in the
	// operators' log with what was changed.
	Keys []string `yaml:"keys" secret:"yes"`
	// MetricsOpen serves /metrics without the key, for scrapers that cannot send one.
	// Sales figures are then readable for everyone who reaches the listener.
	MetricsOpen bool `yaml:"metrics_open"`
	TLS         TLS  `yaml:"tls"`
}

// Auth is how buyers are told apart.
type Auth struct {
	// Mode is jwt (the sub of a signed token) or header (X-User-ID, believed from
	// server.trusted_proxies only).
	Mode string `yaml:"mode"`
	JWT  JWT    `yaml:"jwt"`
}

// JWT says which tokens are believed. Exactly one of Secret and PublicKey is given.
type JWT struct {
	// Secret is the shared secret of HS256/384/512 tokens. A short one can be found by
	// trying: 32 random bytes or more.
	Secret string `yaml:"secret" secret:"yes"`
	// PublicKey is the PEM public key of RS, PS, ES or EdDSA tokens; usually given as
	// auth.jwt.public_key_file.
	PublicKey string `yaml:"public_key" secret:"yes"`
	// Issuer, when set, must be the token's iss.
	Issuer string `yaml:"issuer"`
	// Audience, when set, must be in the token's aud.
	Audience string `yaml:"audience"`
	// Leeway is the clock difference tolerated in exp and nbf. Too low: tokens are
	// refused where clocks differ. Too high: tokens live that much longer.
	Leeway time.Duration `yaml:"leeway"`
	// RequireExp refuses tokens without an expiry ("exp"). Without it a token that was
	// stolen is good for as long as its key is.
	RequireExp bool `yaml:"require_exp"`
}

// Redis is where the shield lives.
type Redis struct {
	// Addrs are host:port. One is a single server, several are a Cluster, or, with
	// SentinelMaster, the sentinels. Empty in dev: an in-process Redis.
	Addrs []string `yaml:"addrs" secret:"url"`
	// SentinelMaster is the master's name at the sentinels.
	SentinelMaster string `yaml:"sentinel_master"`
	// SentinelPassword is the sentinels' own password, where they have one.
	SentinelPassword string `yaml:"sentinel_password" secret:"yes"`
	// Username and Password log in (ACL); the user needs the scripting commands.
	Username string `yaml:"username"`
	Password string `yaml:"password" secret:"yes"`
	// DB is the database number; a Cluster has only 0.
	DB int `yaml:"db"`
	// TLS speaks TLS to Redis and verifies its certificate.
	TLS bool `yaml:"tls"`
	// DialTimeout bounds connecting. Too low: a busy network looks like an outage.
	// Too high: a dead Redis is noticed late.
	DialTimeout time.Duration `yaml:"dial_timeout"`
	// ReadTimeout bounds each call. Too low: a fork for a snapshot opens the breaker.
	// Too high: batches wait that long for a Redis that hangs before they go around.
	ReadTimeout time.Duration `yaml:"read_timeout"`
	// PoolSize is connections per server for what is not a batch: loads, repairs and
	// verdicts; batches have their own. Too low: loads wait for each other. Too high:
	// connections that are never used.
	PoolSize int `yaml:"pool_size"`
}

// Ledger is the relational database, the truth.
type Ledger struct {
	// Driver is mysql (MySQL and MariaDB) or sqlite (dev's).
	Driver string `yaml:"driver"`
	// DSN is user:password@tcp(host:3306)/database, or the path of a SQLite file. The
	// gateway adds the driver parameters it needs.
	DSN string `yaml:"dsn" secret:"yes"`
	// MaxGroup is the most claims that share one commit. Too low: one flush per few
	// orders, and the disk sets the pace. Too high: everybody in a group waits for the
	// slowest, and a contradiction throws away more work.
	MaxGroup int `yaml:"max_group"`
	// Committers is how many groups are written at the same time. Too low: the
	// database idles while the gateway prepares. Too high: groups of one SKU wait for
	// each other's row locks, and groups get smaller.
	Committers int `yaml:"committers"`
	// CatalogSize is how many SKUs a gateway remembers. Too low: SKUs in use are read
	// from the database again and again. Too high: memory, about 500 bytes each.
	CatalogSize int `yaml:"catalog_size"`
}

// NATS is where the world hears of orders.
type NATS struct {
	// URL is nats://host:4222, several separated by commas. Empty in dev: an embedded
	// server.
	URL string `yaml:"url" secret:"url"`
	// MonitorURL is the http address of each server's monitoring port: the gateway reads
	// there whether the server syncs what it acknowledges (sync_interval: always). Empty: it
	// cannot know, and says so.
	MonitorURL []string `yaml:"monitor_url" secret:"url"`
	// RequireSync refuses to start where a server says there that it does not.
	RequireSync bool `yaml:"require_sync"`
	// Replicas of each stream: 1 on one machine, 3 in production. Too low: a lost disk
	// loses what was published and parked. Too high: each publish waits for more
	// servers; more than the cluster has servers is refused by it.
	Replicas int `yaml:"replicas"`
	// CredentialsFile is a .creds file, for servers with accounts.
	CredentialsFile string `yaml:"credentials_file"`
	// ResultsMaxAge is how long published results stay in the stream, for subscribers
	// that were away and for `flashgate restore`. Too low: a slow subscriber misses
	// events. Too high: disk.
	ResultsMaxAge time.Duration `yaml:"results_max_age"`
}

// Queue is the line in front of each SKU.
type Queue struct {
	// Capacity is how many claims wait per SKU and gateway. Too low: 503 queue_full in
	// bursts that would have been decided in time. Too high: claims wait until they
	// are too old instead of being told at once.
	Capacity int `yaml:"capacity"`
	// MaxBatch is the most claims decided together. Too low: a call to Redis and a
	// share of a commit buys little. Too high: one batch blocks Redis for all others.
	// Where it is not given it is cut to capacity.
	MaxBatch int `yaml:"max_batch"`
	// Inflight is how many batches of one SKU are between shield and ledger at once.
	// Too low: the SKU waits for each commit. Too high: batches become small, and each
	// costs as much as a large one.
	Inflight int `yaml:"inflight"`
	// MaxAge is how long a claim may wait undecided. Too low: short disturbances become
	// timeouts. Too high: buyers wait for what will not come. reconcile.grace must be
	// longer by what a commit may be retried.
	MaxAge time.Duration `yaml:"max_age"`
	// Linger is how long the line of a SKU outlives its last claim. Too low: each claim of a
	// slow seller costs a new line, and a call of its own to confirm it. Too high: lines of
	// idle SKUs pile up. Nothing ever waits for it.
	Linger time.Duration `yaml:"linger"`
}

// Fallback is the way around the shield. Its pace is what the ledger bears: claims that
// came around take what those that a shield admitted leave of each group commit.
type Fallback struct {
	// Rate is a ceiling over that, in claims per second and gateway; 0 is none. Too low:
	// sales of cold SKUs, and all sales while Redis is away, are slower than the ledger
	// could be. Too high: it is none.
	Rate float64 `yaml:"rate"`
	// Burst is how many may go at once under a Rate. Too low: every batch waits. Too high:
	// the first second has no ceiling.
	Burst int `yaml:"burst"`
}

// Breakers are the circuit breakers, one per dependency.
type Breakers struct {
	Redis  Breaker `yaml:"redis"`
	Ledger Breaker `yaml:"ledger"`
	NATS   Breaker `yaml:"nats"`
}

// Breaker says when a dependency is given up and when it is tried again.
type Breaker struct {
	// FailureRatio of the calls in Window opens it, once there were MinCalls. Too low:
	// a few slow calls take it out. Too high: a half-dead dependency is kept in use.
	FailureRatio float64 `yaml:"failure_ratio"`
	// MinCalls is how many calls a ratio needs to mean anything. Too low: two failures
	// are 50%. Too high: quiet gateways never notice by ratio.
	MinCalls int `yaml:"min_calls"`
	// Window is the time the ratio looks back over. Too low: noise. Too high: old
	// successes hide a failure of now.
	Window time.Duration `yaml:"window"`
	// Consecutive failures open it at once. Too low: one hiccup does. Too high: each
	// failure costs a full timeout before the way around is taken.
	Consecutive int `yaml:"consecutive"`
	// OpenFor is how long it stays open before a probe. Too low: probes burden what is
	// just starting. Too high: a part that came back is left unused; above 4s the
	// promise of five seconds is lost.
	OpenFor time.Duration `yaml:"open_for"`
}

// Limits are the rate limits in front of everything. A rate of zero is off.
type Limits struct {
	User   Limit `yaml:"user"`
	IP     Limit `yaml:"ip"`
	SKU    Limit `yaml:"sku"`
	Global Limit `yaml:"global"`
	// MaxEntries bounds how many users, addresses and SKUs are remembered each. Too
	// low: who is forgotten starts with a fresh burst. Too high: memory, about 100
	// bytes each.
	MaxEntries int `yaml:"max_entries"`
}

// Limit is a token bucket, per gateway.
type Limit struct {
	// Rate is requests per second; 0 switches the limit off. Too low: honest buyers
	// who reload are refused. Too high: bots are not.
	Rate float64 `yaml:"rate"`
	// Burst is how many may come at once. Too low: a page that sends three requests is
	// refused. Too high: it is the rate for short sales.
	Burst int `yaml:"burst"`
}

// Payments is the webhook of the payment provider.
type Payments struct {
	// WebhookSecrets sign the webhook; any of them is accepted, so that they can be
	// rotated. None: the route answers 404.
	WebhookSecrets []string `yaml:"webhook_secrets" secret:"yes"`
	// Tolerance is how far the signature's time may be off. Too low: clocks that differ
	// lose payments until the provider repeats. Too high: a recorded request can be
	// replayed longer (which does nothing: events are recorded once).
	Tolerance time.Duration `yaml:"tolerance"`
}

// Backlog is where admitted claims are parked while the ledger is away.
type Backlog struct {
	// MaxWait is how long a parked claim waits for the ledger. Too low: a failover of
	// the database ends claims that it would have kept. Too high: buyers wait for an
	// answer that nobody expects any more.
	MaxWait time.Duration `yaml:"max_wait"`
	// Capacity is how many claims are parked at most, all gateways together. Too low:
	// 503 in a long outage. Too high: a drain that takes minutes, and disk.
	Capacity int `yaml:"capacity"`
}

// Reconcile is the repair of what crashes left tentative in the shield.
type Reconcile struct {
	// Period of the repair job. Too low: it reads the shield all the time. Too high:
	// units stay unsellable longer; grace + period must not exceed 15s.
	Period time.Duration `yaml:"period"`
	// Grace is the age at which a tentative batch is judged. It must exceed
	// queue.max_age by the time a commit may be retried (3s), or batches are judged
	// while they are being committed. Where it is not given it is queue.max_age + 4s.
	Grace time.Duration `yaml:"grace"`
}

// Retention is how long finished orders are kept. Both ages are off by default: what was
// sold is the user's to keep.
type Retention struct {
	// Orders is the age at which the orders of a SKU move to the archive: since it was
	// closed, or its closes_at passed, and since it was last changed. Such a SKU is never
	// opened again. 0 is never. It must not be shorter than nats.results_max_age, from which
	// a ledger that lost orders is restored. Too low: one that was to be opened again cannot
	// be. Too high: disk.
	Orders time.Duration `yaml:"orders"`
	// Archive is how long archived orders are kept, with their payments, until they are
	// deleted. 0 is for ever. It must not be shorter than nats.results_max_age: what is
	// still on the stream would be missed by audits. Too low: a payment's event that is
	// repeated later is taken for another payment, and given back. Too high: disk.
	Archive time.Duration `yaml:"archive"`
	// Rate is how many orders a second are moved or deleted. Too low: less than is sold.
	// Too high: sales notice.
	Rate float64 `yaml:"rate"`
}

// Direct is the way of cold SKUs.
type Direct struct {
	// Lock is an outer distributed lock around the ledger's own. There is none in this
	// version, so none is the only value; the ledger's locks are what protects.
	Lock string `yaml:"lock"`
}

// Log is what the process says of itself.
type Log struct {
	// Level is debug, info, warn or error. Too low a level: disk and CPU in a sale.
	// Too high: the reason of a failure is not there.
	Level string `yaml:"level"`
	// Format is json or text.
	Format string `yaml:"format"`
}

// Default is what stands where nothing is given.
func Default(mode Mode) Config {
	breaker := Breaker{FailureRatio: 0.5, MinCalls: 20, Window: 5 * time.Second, Consecutive: 5, OpenFor: time.Second}
	c := Config{
		Server: Server{
			Listen: ":8080", Wait: 5 * time.Second, VerdictTTL: 10 * time.Minute,
			ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 75 * time.Second,
			BodyLimit: 16 << 10, HeaderLimit: 4 << 10, MaxConnections: 50_000,
			DrainDelay: 5 * time.Second, ShutdownTimeout: 15 * time.Second,
		},
		Admin:    Admin{Listen: "127.0.0.1:9090", Keys: []string{}},
		Auth:     Auth{Mode: "jwt", JWT: JWT{Leeway: 30 * time.Second, RequireExp: true}},
		Redis:    Redis{DialTimeout: 500 * time.Millisecond, ReadTimeout: 100 * time.Millisecond, PoolSize: 16},
		Ledger:   Ledger{Driver: "mysql", MaxGroup: 1024, Committers: 2, CatalogSize: 100_000},
		NATS:     NATS{Replicas: 1, MonitorURL: []string{}, ResultsMaxAge: 7 * 24 * time.Hour},
		Queue:    Queue{Capacity: 20_000, MaxBatch: 512, Inflight: 2, MaxAge: 8 * time.Second, Linger: 250 * time.Millisecond},
		Fallback: Fallback{Burst: 1000},
		Breaker:  Breakers{Redis: breaker, Ledger: breaker, NATS: breaker},
		Limits: Limits{
			User:       Limit{Rate: 10, Burst: 20},
			MaxEntries: 100_000,
		},
		Payments:  Payments{Tolerance: 5 * time.Minute},
		Backlog:   Backlog{MaxWait: 5 * time.Minute, Capacity: 1_000_000},
		Reconcile: Reconcile{Period: 2 * time.Second},
		Retention: Retention{Rate: 2000},
		Direct:    Direct{Lock: "none"},
		Log:       Log{Level: "info", Format: "json"},
		PayWithin: 15 * time.Minute,
	}
	c.Reconcile.Grace = c.usualGrace()
	if mode == Dev {
		c.Server.Listen = "127.0.0.1:8080"
		c.Server.TrustedProxies = []string{"127.0.0.0/8", "::1"}
		c.Server.DrainDelay = 0
		c.Auth.Mode = "header"
		c.Ledger.Driver = "sqlite"
		c.Log.Format = "text"
	}
	return c
}

// usualGrace leaves a second between a commit's last retry and the reconciler's look.
func (c *Config) usualGrace() time.Duration { return c.Queue.MaxAge + commitRetries + time.Second }
