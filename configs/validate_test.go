package configs_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"flashgate/configs"
)

// working is a configuration that serve accepts.
func working() configs.Config {
	c := configs.Default(configs.Serve)
	c.Admin.Key = "0123456789abcdef"
	c.Auth.JWT.Secret = "0123456789abcdef0123456789abcdef"
	c.Redis.Addrs = []string{"127.0.0.1:6379"}
	c.Ledger.DSN = "u:p@tcp(127.0.0.1:3306)/flashgate"
	c.NATS.URL = "nats://127.0.0.1:4222"
	return c
}

const publicKey = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
`

var aHash = strings.Repeat("ab", 32)

func TestAccepted(t *testing.T) {
	for _, c := range []struct {
		name string
		mode configs.Mode
		edit func(*configs.Config)
	}{
		{"serve", configs.Serve, func(*configs.Config) {}},
		{"public key", configs.Serve, func(c *configs.Config) { c.Auth.JWT.Secret, c.Auth.JWT.PublicKey = "", publicKey }},
		{"header with proxies", configs.Serve, func(c *configs.Config) {
			c.Auth = configs.Auth{Mode: "header"}
			c.Server.TrustedProxies = []string{"10.0.0.0/8", "::1", "fd00::/8"}
		}},
		{"sentinels with a database", configs.Serve, func(c *configs.Config) {
			c.Redis.Addrs, c.Redis.SentinelMaster, c.Redis.DB = []string{"a:1", "b:1"}, "m", 3
		}},
		{"several NATS servers", configs.Serve, func(c *configs.Config) { c.NATS.URL = "nats://a:4222, tls://b:4222" }},
		{"TLS", configs.Serve, func(c *configs.Config) {
			c.Server.TLS, c.Admin.TLS = configs.TLS{Cert: "c", Key: "k"}, configs.TLS{Cert: "c", Key: "k", ClientCA: "a"}
		}},
		{"any free ports", configs.Serve, func(c *configs.Config) { c.Server.Listen, c.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0" }},
		{"dev with a real database", configs.Dev, func(c *configs.Config) { c.Auth.Mode = "header" }},
		{"tool", configs.Tool, func(c *configs.Config) {
			*c = configs.Default(configs.Tool)
			c.Ledger.DSN = "x"
		}},
		{"tool on dev's ledger", configs.Tool, func(c *configs.Config) { c.Ledger.Driver = "sqlite" }},
		{"the longest age", configs.Serve, func(c *configs.Config) { c.Queue.MaxAge, c.Reconcile.Grace = 10*time.Second, 13*time.Second }},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := working()
			c.edit(&config)
			if err := config.Validate(c.mode); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestImpossible holds each refusal of Validate to one line that begins with the key.
func TestImpossible(t *testing.T) {
	for _, c := range []struct {
		want string
		edit func(*configs.Config)
	}{
		{"server.listen: must be host:port", func(c *configs.Config) { c.Server.Listen = "8080" }},
		{"server.listen: must be host:port", func(c *configs.Config) { c.Server.Listen = ":70000" }},
		{"server.wait: must be between", func(c *configs.Config) { c.Server.Wait = -time.Second }},
		{"server.trusted_proxies: \"lb\" is neither", func(c *configs.Config) { c.Server.TrustedProxies = []string{"lb"} }},
		{"server.trusted_proxies: is needed with auth.mode header", func(c *configs.Config) { c.Auth.Mode = "header" }},
		{"server.verdict_ttl: must not be shorter than queue.max_age", func(c *configs.Config) { c.Server.VerdictTTL = 7 * time.Second }},
		{"server.read_timeout: must be", func(c *configs.Config) { c.Server.ReadTimeout = 0 }},
		{"server.write_timeout: must be", func(c *configs.Config) { c.Server.WriteTimeout = 0 }},
		{"server.requests_per_connection: must be", func(c *configs.Config) { c.Server.RequestsPerConnection = -1 }},
		{"server.idle_timeout: must be", func(c *configs.Config) { c.Server.IdleTimeout = 0 }},
		{"server.body_limit: must be", func(c *configs.Config) { c.Server.BodyLimit = 0 }},
		{"server.header_limit: must be", func(c *configs.Config) { c.Server.HeaderLimit = 0 }},
		{"server.max_connections: must be", func(c *configs.Config) { c.Server.MaxConnections = 0 }},
		{"server.tls: cert and key must be given together", func(c *configs.Config) { c.Server.TLS.Cert = "c" }},
		{"admin.tls: cert and key must be given together", func(c *configs.Config) { c.Admin.TLS.Key = "k" }},
		{"admin.tls.client_ca: needs cert and key", func(c *configs.Config) { c.Admin.TLS.ClientCA = "a" }},
		{"admin.keys: must be a list of name:scope:hash", func(c *configs.Config) { c.Admin.Keys = []string{"olga:read:abc"} }},
		{"admin.keys: the name admin is flashgate's own", func(c *configs.Config) { c.Admin.Keys = []string{"admin:read:" + aHash} }},
		{"admin.keys: the name cli is flashgate's own", func(c *configs.Config) { c.Admin.Keys = []string{"cli:read:" + aHash} }},
		{"admin.keys: the name olga is there twice", func(c *configs.Config) {
			c.Admin.Keys = []string{"olga:read:" + aHash, "olga:operate:" + strings.Repeat("cd", 32)}
		}},
		{"admin.keys: olga and otto have the same key", func(c *configs.Config) {
			c.Admin.Keys = []string{"olga:read:" + aHash, "otto:read:" + strings.ToUpper(aHash)}
		}},
		{"admin.keys: admin.key and olga have the same key", func(c *configs.Config) {
			c.Admin.Keys = []string{fmt.Sprintf("olga:read:%x", sha256.Sum256([]byte(c.Admin.Key)))}
		}},
		{"server.drain_delay: must be", func(c *configs.Config) { c.Server.DrainDelay = -1 }},
		{"server.shutdown_timeout: must be", func(c *configs.Config) { c.Server.ShutdownTimeout = 0 }},
		{"server.shutdown_timeout: must be longer than queue.max_age", func(c *configs.Config) { c.Server.ShutdownTimeout = c.Queue.MaxAge }},
		{"admin.listen: must be host:port", func(c *configs.Config) { c.Admin.Listen = "" }},
		{"admin.listen: must differ from server.listen", func(c *configs.Config) { c.Admin.Listen = c.Server.Listen }},
		{"admin.key: is needed", func(c *configs.Config) { c.Admin.Key = "" }},
		{"admin.key: may hold only visible", func(c *configs.Config) { c.Admin.Key = "a key" }},
		{"admin.key: is a sample", func(c *configs.Config) { c.Admin.Key = "change-me-to-something-random" }},
		{"admin.key: is a sample", func(c *configs.Config) { c.Admin.Key = "PasswordPassword" }},
		{"admin.key: is short", func(c *configs.Config) { c.Admin.Key = "eleven-char" }},
		{"auth.jwt.secret: is a sample", func(c *configs.Config) { c.Auth.JWT.Secret = "change-me-to-32-random-bytes-or-more" }},
		{"auth.jwt.secret: is a sample", func(c *configs.Config) { c.Auth.JWT.Secret = strings.Repeat("secret", 6) }},
		{"auth.jwt.secret: is short", func(c *configs.Config) { c.Auth.JWT.Secret = "fifteen-letters" }},
		{"auth.jwt.secret: is a key in PEM form", func(c *configs.Config) { c.Auth.JWT.Secret = publicKey }},
		{"payments.webhook_secrets: is short", func(c *configs.Config) { c.Payments.WebhookSecrets = []string{"long-enough-for-it", "seven-7"} }},
		{"payments.webhook_secrets: is a sample", func(c *configs.Config) { c.Payments.WebhookSecrets = []string{"changeme"} }},
		{"server.trusted_proxies: is everybody", func(c *configs.Config) { c.Auth.Mode, c.Server.TrustedProxies = "header", []string{"::/0"} }},
		{"server.trusted_proxies: is everybody", func(c *configs.Config) {
			c.Auth.Mode, c.Server.TrustedProxies = "header", []string{"0.0.0.0/1", "10.0.0.1", "128.0.0.0/1"}
		}},
		{"auth.mode: must be jwt or header", func(c *configs.Config) { c.Auth.Mode = "none" }},
		{"auth.jwt: secret or public_key_file is needed", func(c *configs.Config) { c.Auth.JWT.Secret = "" }},
		{"auth.jwt: give secret or public_key, not both", func(c *configs.Config) { c.Auth.JWT.PublicKey = publicKey }},
		{"auth.jwt.public_key: must be a public key", func(c *configs.Config) { c.Auth.JWT.Secret, c.Auth.JWT.PublicKey = "", "x" }},
		{"auth.jwt.public_key: must be a public key", func(c *configs.Config) {
			c.Auth.JWT.Secret, c.Auth.JWT.PublicKey = "", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
		}},
		{"auth.jwt.leeway: must be", func(c *configs.Config) { c.Auth.JWT.Leeway = -1 }},
		{"limits.user.rate: must be", func(c *configs.Config) { c.Limits.User.Rate = -1 }},
		{"limits.ip.burst: must be", func(c *configs.Config) { c.Limits.IP.Rate = 1 }},
		{"limits.sku.burst: must be", func(c *configs.Config) { c.Limits.SKU.Burst = -1 }},
		{"limits.global.rate: must be", func(c *configs.Config) { c.Limits.Global = configs.Limit{Rate: 1e10, Burst: 1} }},
		{"limits.max_entries: must be", func(c *configs.Config) { c.Limits.MaxEntries = 0 }},
		{"payments.webhook_secrets: must not hold an empty", func(c *configs.Config) { c.Payments.WebhookSecrets = []string{"a", ""} }},
		{"payments.tolerance: must be", func(c *configs.Config) { c.Payments.Tolerance = 0 }},
		{"redis.addrs: is needed", func(c *configs.Config) { c.Redis.Addrs = nil }},
		{"redis.addrs: must be host:port", func(c *configs.Config) { c.Redis.Addrs = []string{"redis://a"} }},
		{"redis.addrs: must be host:port", func(c *configs.Config) { c.Redis.Addrs = []string{":6379"} }},
		{"redis.db: must be between", func(c *configs.Config) { c.Redis.DB = -1 }},
		{"redis.db: must be 0 with several", func(c *configs.Config) { c.Redis.Addrs, c.Redis.DB = []string{"a:1", "b:1"}, 1 }},
		{"redis.dial_timeout: must be", func(c *configs.Config) { c.Redis.DialTimeout = 0 }},
		{"redis.read_timeout: must be", func(c *configs.Config) { c.Redis.ReadTimeout = 0 }},
		{"redis.pool_size: must be", func(c *configs.Config) { c.Redis.PoolSize = 0 }},
		{"ledger.driver: must be mysql or sqlite", func(c *configs.Config) { c.Ledger.Driver = "postgres" }},
		{"ledger.driver: sqlite is for", func(c *configs.Config) { c.Ledger.Driver = "sqlite" }},
		{"ledger.dsn: is needed", func(c *configs.Config) { c.Ledger.DSN = "" }},
		{"ledger.max_group: must be", func(c *configs.Config) { c.Ledger.MaxGroup = 10_000 }},
		{"ledger.committers: must be", func(c *configs.Config) { c.Ledger.Committers = 0 }},
		{"ledger.catalog_size: must be", func(c *configs.Config) { c.Ledger.CatalogSize = 0 }},
		{"nats.url: is needed", func(c *configs.Config) { c.NATS.URL = "" }},
		{"nats.url: must be nats://", func(c *configs.Config) { c.NATS.URL = "localhost:4222" }},
		{"nats.url: must be nats://", func(c *configs.Config) { c.NATS.URL = "nats://a:4222,http://b" }},
		{"namespace: must be at most 32", func(c *configs.Config) { c.Namespace = "a.b" }},
		{"namespace: must be at most 32", func(c *configs.Config) { c.Namespace = strings.Repeat("n", 33) }},
		{"nats.monitor_url: must be http://", func(c *configs.Config) { c.NATS.MonitorURL = []string{"http://a:8222", "nats:8222"} }},
		{"nats.require_sync: needs nats.monitor_url", func(c *configs.Config) { c.NATS.RequireSync = true }},
		{"nats.replicas: must be", func(c *configs.Config) { c.NATS.Replicas = 0 }},
		{"nats.replicas: must be", func(c *configs.Config) { c.NATS.Replicas = 2 }},
		{"nats.results_max_age: must be", func(c *configs.Config) { c.NATS.ResultsMaxAge = 0 }},
		{"nats.credentials_file: stat /nowhere", func(c *configs.Config) { c.NATS.CredentialsFile = "/nowhere" }},
		{"queue.capacity: must be", func(c *configs.Config) { c.Queue.Capacity, c.Queue.MaxBatch = 0, 0 }},
		{"queue.max_batch: must be between", func(c *configs.Config) { c.Queue.MaxBatch = 10_000 }},
		{"queue.max_batch: must not be larger than queue.capacity", func(c *configs.Config) { c.Queue.Capacity = 511 }},
		{"queue.inflight: must be", func(c *configs.Config) { c.Queue.Inflight = 0 }},
		{"queue.max_age: must be", func(c *configs.Config) { c.Queue.MaxAge = 0 }},
		{"queue.linger: must be between", func(c *configs.Config) { c.Queue.Linger = -1 }},
		{"fallback.rate: must be", func(c *configs.Config) { c.Fallback.Rate = -1 }},
		{"fallback.burst: must be", func(c *configs.Config) { c.Fallback.Burst = 0 }},
		{"breaker.redis.failure_ratio: must be", func(c *configs.Config) { c.Breaker.Redis.FailureRatio = 0 }},
		{"breaker.redis.failure_ratio: must be", func(c *configs.Config) { c.Breaker.Redis.FailureRatio = 50 }},
		{"breaker.ledger.min_calls: must be", func(c *configs.Config) { c.Breaker.Ledger.MinCalls = 0 }},
		{"breaker.nats.window: must be", func(c *configs.Config) { c.Breaker.NATS.Window = 0 }},
		{"breaker.nats.consecutive: must be", func(c *configs.Config) { c.Breaker.NATS.Consecutive = 0 }},
		{"breaker.nats.open_for: must be", func(c *configs.Config) { c.Breaker.NATS.OpenFor = time.Hour }},
		{"backlog.max_wait: must be between", func(c *configs.Config) { c.Backlog.MaxWait = 0 }},
		{"backlog.max_wait: must not be shorter than queue.max_age", func(c *configs.Config) { c.Backlog.MaxWait = 2 * time.Second }},
		{"backlog.capacity: must be", func(c *configs.Config) { c.Backlog.Capacity = 0 }},
		{"retention.orders: must be", func(c *configs.Config) { c.Retention.Orders = time.Hour }},
		{"retention.orders: must not be shorter than nats.results_max_age", func(c *configs.Config) { c.Retention.Orders = 48 * time.Hour }},
		{"retention.archive: must be", func(c *configs.Config) { c.Retention.Archive = time.Minute }},
		{"retention.archive: must not be shorter than nats.results_max_age", func(c *configs.Config) { c.Retention.Archive = 48 * time.Hour }},
		{"retention.rate: must be", func(c *configs.Config) { c.Retention.Rate = 0 }},
		{"reconcile.period: must be", func(c *configs.Config) { c.Reconcile.Period = 0 }},
		{"reconcile.grace: must be at least queue.max_age + 3s", func(c *configs.Config) { c.Reconcile.Grace = 10 * time.Second }},
		{"reconcile.grace: plus reconcile.period must not exceed 15s", func(c *configs.Config) { c.Reconcile.Period = 4 * time.Second }},
		{"direct.lock: must be none", func(c *configs.Config) { c.Direct.Lock = "redis" }},
		{"log.level: must be debug or info or warn or error", func(c *configs.Config) { c.Log.Level = "loud" }},
		{"log.format: must be json or text", func(c *configs.Config) { c.Log.Format = "xml" }},
		{"pay_within: must be", func(c *configs.Config) { c.PayWithin = 0 }},
	} {
		t.Run(c.want, func(t *testing.T) {
			config := working()
			c.edit(&config)
			err := config.Validate(configs.Serve)
			if err == nil {
				t.Fatal("not refused")
			}
			if !strings.Contains("\n"+err.Error(), "\n"+c.want) {
				t.Errorf("refused with\n%v", err)
			}
		})
	}
}

func TestOnLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:0": true, "127.8.8.8:1": true, "[::1]:8080": true, "[::ffff:127.0.0.1]:1": true, "localhost:8080": true,
		"0.0.0.0:0": false, ":8080": false, "[::]:8080": false, "10.0.0.1:8080": false, "edge.internal:80": false, "127.0.0.1": false,
	} {
		if got := configs.OnLoopback(listen); got != want {
			t.Errorf("%s: %v", listen, got)
		}
	}
}

// Who has production's DSN in the environment is told so, and not that a file cannot be opened.
func TestDevRefusesAnothersDSN(t *testing.T) {
	c := configs.Default(configs.Dev)
	c.Ledger.DSN = "flashgate:hidden@tcp(db:3306)/flashgate"
	err := c.Validate(configs.Dev)
	if err == nil || !strings.Contains(err.Error(), "ledger.dsn: is one of MySQL") || strings.Contains(err.Error(), "hidden") {
		t.Errorf("%v", err)
	}
}

func TestRefusalsShowNoSecret(t *testing.T) {
	c := working()
	c.NATS.URL = "nats//user:hidden@host"
	c.Admin.Key = "hid den"
	c.Auth.JWT.PublicKey = "hidden"
	c.Ledger.Driver = "sqlite"
	if err := c.Validate(configs.Serve); err == nil || strings.Contains(err.Error(), "hid") {
		t.Errorf("refused with\n%v", err)
	}
}

func TestWarnings(t *testing.T) {
	c := working()
	c.NATS.Replicas = 3
	if w := c.Warnings(configs.Serve); len(w) != 0 {
		t.Errorf("warned of a sound configuration: %q", w)
	}
	c.Admin.Key, c.Auth.JWT.Secret, c.NATS.Replicas = "short", "short", 1
	c.Server.TrustedProxies = []string{"0.0.0.0/0"}
	if w := c.Warnings(configs.Serve); len(w) != 4 {
		t.Errorf("warned of %q", w)
	}
	c = working()
	c.NATS.Replicas = 3
	for listen, warned := range map[string]int{"127.0.0.1:9090": 0, "[::1]:9090": 0, "localhost:9090": 0, ":9090": 1, "0.0.0.0:9090": 1, "10.0.0.1:9090": 1} {
		c.Admin.Listen = listen
		if w := c.Warnings(configs.Serve); len(w) != warned {
			t.Errorf("%s: warned of %q", listen, w)
		}
	}
	// A readable name with digits is somebody's key.
	c.Admin.Key, c.Auth.JWT.Secret = "ops-team-42-key", "our-own-token-secret-of-2026-11!"
	if err := c.Validate(configs.Serve); err != nil {
		t.Error(err)
	}
}
