package configs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// longest is the longest age that anything is kept for, but for ever.
	longest = 10 * 366 * 24 * time.Hour
	// commitRetries is how long a commit whose outcome is unknown may be repeated; as
	// long, a tentative batch older than queue.max_age may still be committed.
	commitRetries = 3 * time.Second
	// sellableAgain is the promise that what a crash left tentative is sellable again.
	sellableAgain = 15 * time.Second
	// maxBatch keeps a batch's arrays below what the shield's Lua can unpack.
	maxBatch = 1000
	// maxGroup and maxCommitters are what the ledger takes.
	maxGroup      = 8192
	maxCommitters = 32
)

// Validate refuses a configuration that could not work, or not keep its promises. All
// problems are joined, one line each, and each names its key.
func (c Config) Validate(mode Mode) error {
	v := &validator{mode: mode}
	if mode != Tool {
		v.server(&c)
		v.admin(&c)
		v.auth(&c.Auth, &c.Server)
		v.secrets(&c)
		v.traffic(&c)
	}
	v.redis(&c.Redis)
	v.ledger(&c.Ledger)
	v.namespace(c.Namespace)
	v.nats(&c.NATS)
	v.queue(&c)
	v.breaker("breaker.redis", c.Breaker.Redis)
	v.breaker("breaker.ledger", c.Breaker.Ledger)
	v.breaker("breaker.nats", c.Breaker.NATS)
	v.background(&c)
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "json", "text")
	return errors.Join(v.problems...)
}

// CommitRetries is how long a commit whose outcome is unknown may be repeated: until
// the reconciler would judge the batch it belongs to.
func (c Config) CommitRetries() time.Duration { return c.Reconcile.Grace - c.Queue.MaxAge }

// Warnings are settings that work but that nobody should want in production.
func (c Config) Warnings(mode Mode) []string {
	var w []string
	if mode != Serve {
		return nil
	}
	w = append(w, c.secretWarnings()...)
	if len(c.foreign) > 0 {
		slices.Sort(c.foreign)
		w = append(w, "no settings, though they begin like ours: "+strings.Join(c.foreign, ", "))
	}
	if c.NATS.Replicas == 1 {
		w = append(w, "nats.replicas is 1: a lost disk loses what was published and parked there")
	}
	return w
}

// operatorKey is what one of admin.keys looks like.
var operatorKey = regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,64}:(read|operate):[0-9a-fA-F]{64}$`)

type validator struct {
	mode     Mode
	problems []error
}

func (v *validator) refuse(key, format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
}

func (v *validator) duration(key string, d, low, high time.Duration) {
	if d < low || d > high {
		v.refuse(key, "must be between %s and %s, not %s", low, high, d)
	}
}

func (v *validator) integer(key string, n, low, high int) {
	if n < low || n > high {
		v.refuse(key, "must be between %d and %d, not %d", low, high, n)
	}
}

func (v *validator) oneOf(key, s string, choices ...string) {
	if !slices.Contains(choices, s) {
		v.refuse(key, "must be %s, not %q", strings.Join(choices, " or "), s)
	}
}

// address refuses what is no host:port. A listener may leave the host out.
func (v *validator) address(key, s string, listener bool) {
	host, port, err := net.SplitHostPort(s)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || (!listener && (host == "" || n == 0)) {
		v.refuse(key, "must be host:port, not %q", redactURL(s))
	}
}

func (v *validator) server(c *Config) {
	s := &c.Server
	v.address("server.listen", s.Listen, true)
	v.duration("server.wait", s.Wait, 0, time.Hour)
	for _, proxy := range s.TrustedProxies {
		_, prefixErr := netip.ParsePrefix(proxy)
		if _, err := netip.ParseAddr(proxy); err != nil && prefixErr != nil {
			v.refuse("server.trusted_proxies", "%q is neither an address nor a network such as 10.0.0.0/8", proxy)
		}
	}
	v.duration("server.verdict_ttl", s.VerdictTTL, time.Second, 24*time.Hour)
	if s.VerdictTTL < c.Queue.MaxAge {
		v.refuse("server.verdict_ttl", "must not be shorter than queue.max_age (%s): a verdict would be gone before its claim had to have one", c.Queue.MaxAge)
	}
	v.duration("server.read_timeout", s.ReadTimeout, 100*time.Millisecond, time.Hour)
	v.duration("server.write_timeout", s.WriteTimeout, 100*time.Millisecond, time.Hour)
	v.integer("server.requests_per_connection", s.RequestsPerConnection, 0, 1_000_000_000)
	v.duration("server.idle_timeout", s.IdleTimeout, time.Second, 24*time.Hour)
	v.integer("server.body_limit", s.BodyLimit, 1<<10, 16<<20)
	v.integer("server.header_limit", s.HeaderLimit, 1<<10, 1<<20)
	v.integer("server.max_connections", s.MaxConnections, 1, 10_000_000)
	v.integer("server.max_connections_each", s.MaxConnectionsEach, 0, 10_000_000)
	v.tls("server.tls", s.TLS)
	v.duration("server.drain_delay", s.DrainDelay, 0, time.Hour)
	v.duration("server.shutdown_timeout", s.ShutdownTimeout, time.Second, time.Hour)
	if s.ShutdownTimeout <= c.Queue.MaxAge {
		v.refuse("server.shutdown_timeout", "must be longer than queue.max_age (%s), not %s: who waits would be cut off", c.Queue.MaxAge, s.ShutdownTimeout)
	}
}

// ownNames are who the operators' log says changed something without one of admin.keys:
// admin.key, commands, and jobs.
var ownNames = []string{"admin", "cli", "flashgate"}

// operatorKeys holds each to its form, and has no name or key twice: the log could not tell
// whose it was.
func (v *validator) operatorKeys(a *Admin) {
	names, hashes := make(map[string]bool), map[string]string{}
	if a.Key != "" {
		hashes[fmt.Sprintf("%x", sha256.Sum256([]byte(a.Key)))] = "admin.key"
	}
	for _, key := range a.Keys {
		if !operatorKey.MatchString(key) {
			v.refuse("admin.keys", "must be a list of name:scope:hash, scope being read or operate, and hash the SHA-256 of the key in 64 hexadecimal digits")
			return
		}
		name, _, _ := strings.Cut(key, ":")
		hash := strings.ToLower(key[len(key)-2*sha256.Size:])
		switch {
		case slices.Contains(ownNames, name):
			v.refuse("admin.keys", "the name %s is flashgate's own in the operators' log: use another", name)
		case names[name]:
			v.refuse("admin.keys", "the name %s is there twice", name)
		case hashes[hash] != "":
			v.refuse("admin.keys", "%s and %s have the same key", hashes[hash], name)
		}
		names[name], hashes[hash] = true, name
	}
}

// tls holds the settings against each other; the files are read where they are used.
func (v *validator) tls(key string, t TLS) {
	switch {
	case (t.Cert == "") != (t.Key == ""):
		v.refuse(key, "cert and key must be given together")
	case t.ClientCA != "" && t.Cert == "":
		v.refuse(key+".client_ca", "needs cert and key: client certificates are part of TLS")
	}
}

func (v *validator) admin(c *Config) {
	v.address("admin.listen", c.Admin.Listen, true)
	v.tls("admin.tls", c.Admin.TLS)
	if c.Admin.Listen == c.Server.Listen && !strings.HasSuffix(c.Admin.Listen, ":0") {
		v.refuse("admin.listen", "must differ from server.listen (%s): operators have a listener of their own", c.Server.Listen)
	}
	if c.Admin.Key == "" && v.mode == Serve {
		v.refuse("admin.key", "is needed (FLASHGATE_ADMIN__KEY or FLASHGATE_ADMIN__KEY_FILE)")
	}
	v.operatorKeys(&c.Admin)
	if strings.ContainsFunc(c.Admin.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		v.refuse("admin.key", "may hold only visible ASCII characters: it is sent in a header")
	}
}

func (v *validator) auth(a *Auth, s *Server) {
	v.oneOf("auth.mode", a.Mode, "jwt", "header")
	v.duration("auth.jwt.leeway", a.JWT.Leeway, 0, time.Hour)
	switch {
	case a.Mode == "header" && v.mode == Serve && len(s.TrustedProxies) == 0:
		v.refuse("server.trusted_proxies", "is needed with auth.mode header: nobody's X-User-ID would be believed")
	case a.Mode == "jwt" && a.JWT.Secret == "" && a.JWT.PublicKey == "":
		v.refuse("auth.jwt", "secret or public_key_file is needed with auth.mode jwt")
	case a.Mode == "jwt" && a.JWT.Secret != "" && a.JWT.PublicKey != "":
		v.refuse("auth.jwt", "give secret or public_key, not both: a token signed with the public key as its secret would pass")
	}
	if a.JWT.PublicKey != "" {
		block, _ := pem.Decode([]byte(a.JWT.PublicKey))
		if block == nil {
			v.refuse("auth.jwt.public_key", "must be a public key in PEM form")
		} else if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			v.refuse("auth.jwt.public_key", "must be a public key in PEM form (BEGIN PUBLIC KEY): %s", oneLine(err.Error()))
		}
	}
}

func (v *validator) traffic(c *Config) {
	for _, l := range []struct {
		key string
		Limit
	}{{"limits.user", c.Limits.User}, {"limits.ip", c.Limits.IP}, {"limits.sku", c.Limits.SKU}, {"limits.global", c.Limits.Global}} {
		if l.Rate < 0 || l.Rate > 1e9 {
			v.refuse(l.key+".rate", "must be between 0 (off) and 1e9 per second, not %g", l.Rate)
		}
		if l.Burst < 0 || (l.Rate > 0 && l.Burst < 1) || l.Burst > 1e9 {
			v.refuse(l.key+".burst", "must be between 1 and 1e9 where there is a rate, not %d: nothing would ever pass", l.Burst)
		}
	}
	v.integer("limits.max_entries", c.Limits.MaxEntries, 100, 100_000_000)
	for _, secret := range c.Payments.WebhookSecrets {
		if secret == "" {
			v.refuse("payments.webhook_secrets", "must not hold an empty secret: anybody could sign")
		}
	}
	v.duration("payments.tolerance", c.Payments.Tolerance, time.Second, 24*time.Hour)
}

func (v *validator) redis(r *Redis) {
	if len(r.Addrs) == 0 && v.mode == Serve {
		v.refuse("redis.addrs", "is needed (FLASHGATE_REDIS__ADDRS=host:6379); the embedded Redis is dev's")
	}
	for _, addr := range r.Addrs {
		v.address("redis.addrs", addr, false)
	}
	v.integer("redis.db", r.DB, 0, 1<<20)
	if r.DB != 0 && len(r.Addrs) > 1 && r.SentinelMaster == "" {
		v.refuse("redis.db", "must be 0 with several redis.addrs: a Cluster has no other")
	}
	v.duration("redis.dial_timeout", r.DialTimeout, 10*time.Millisecond, 10*time.Second)
	v.duration("redis.read_timeout", r.ReadTimeout, 5*time.Millisecond, 5*time.Second)
	v.integer("redis.pool_size", r.PoolSize, 1, 10_000)
}

func (v *validator) ledger(l *Ledger) {
	v.oneOf("ledger.driver", l.Driver, "mysql", "sqlite")
	switch {
	case v.mode == Serve && l.Driver == "sqlite":
		v.refuse("ledger.driver", "sqlite is for `flashgate dev`; serve needs mysql (MySQL or MariaDB), which several gateways can share")
	case v.mode != Dev && l.DSN == "":
		v.refuse("ledger.dsn", "is needed (FLASHGATE_LEDGER__DSN=user:password@tcp(host:3306)/flashgate, or FLASHGATE_LEDGER__DSN_FILE)")
	case v.mode == Dev && l.Driver == "sqlite" && (strings.Contains(l.DSN, "@tcp(") || strings.Contains(l.DSN, "@unix(")):
		v.refuse("ledger.dsn", "is one of MySQL, and dev keeps its ledger in a file: unset it (also FLASHGATE_LEDGER__DSN)")
	case v.mode == Dev && l.Driver == "mysql" && l.DSN == "":
		v.refuse("ledger.dsn", "is needed with ledger.driver mysql")
	}
	v.integer("ledger.max_group", l.MaxGroup, 1, maxGroup)
	v.integer("ledger.committers", l.Committers, 1, maxCommitters)
	v.integer("ledger.catalog_size", l.CatalogSize, 100, 100_000_000)
}

func (v *validator) namespace(name string) {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
	}
	if len(name) > 32 || strings.ContainsFunc(name, bad) {
		v.refuse("namespace", "must be at most 32 letters, digits, _ and -")
	}
}

func (v *validator) nats(n *NATS) {
	if n.URL == "" && v.mode == Serve {
		v.refuse("nats.url", "is needed (FLASHGATE_NATS__URL=nats://host:4222); the embedded server is dev's")
	}
	for _, s := range strings.Split(n.URL, ",") {
		if n.URL == "" {
			break
		}
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			// The URL may hold a password, so that it is not shown.
			v.refuse("nats.url", "must be nats://host:4222 (or tls, ws, wss), several separated by commas")
			break
		}
	}
	for _, s := range n.MonitorURL {
		if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			v.refuse("nats.monitor_url", "must be http://host:8222 (or https)")
			break
		}
	}
	if n.RequireSync && len(n.MonitorURL) == 0 {
		v.refuse("nats.require_sync", "needs nats.monitor_url: a client is not told whether a server syncs")
	}
	if !slices.Contains([]int{1, 3, 5}, n.Replicas) {
		v.refuse("nats.replicas", "must be 1, 3 or 5, not %d: an even number survives no more than one less", n.Replicas)
	}
	v.duration("nats.results_max_age", n.ResultsMaxAge, time.Minute, longest)
	if n.CredentialsFile != "" {
		if _, err := os.Stat(n.CredentialsFile); err != nil {
			v.refuse("nats.credentials_file", "%s", oneLine(err.Error()))
		}
	}
}

func (v *validator) queue(c *Config) {
	q := &c.Queue
	v.integer("queue.capacity", q.Capacity, 1, 10_000_000)
	v.integer("queue.max_batch", q.MaxBatch, 1, maxBatch)
	if q.MaxBatch > q.Capacity {
		v.refuse("queue.max_batch", "must not be larger than queue.capacity (%d), not %d: such a batch never waits", q.Capacity, q.MaxBatch)
	}
	v.integer("queue.inflight", q.Inflight, 1, 64)
	v.duration("queue.max_age", q.MaxAge, 100*time.Millisecond, 5*time.Minute)
	v.duration("queue.linger", q.Linger, time.Millisecond, 4*time.Second)
	if !(c.Fallback.Rate >= 0 && c.Fallback.Rate <= 1e9) {
		v.refuse("fallback.rate", "must be 0, for none, to 1e9 claims per second, not %g", c.Fallback.Rate)
	}
	v.integer("fallback.burst", c.Fallback.Burst, 1, 1_000_000_000)
}

func (v *validator) breaker(key string, b Breaker) {
	if !(b.FailureRatio > 0 && b.FailureRatio <= 1) {
		v.refuse(key+".failure_ratio", "must be more than 0 and at most 1, not %g", b.FailureRatio)
	}
	v.integer(key+".min_calls", b.MinCalls, 1, 1_000_000)
	v.duration(key+".window", b.Window, 100*time.Millisecond, time.Hour)
	v.integer(key+".consecutive", b.Consecutive, 1, 1_000_000)
	v.duration(key+".open_for", b.OpenFor, 10*time.Millisecond, time.Minute)
}

func (v *validator) background(c *Config) {
	v.duration("backlog.max_wait", c.Backlog.MaxWait, time.Second, 24*time.Hour)
	if c.Backlog.MaxWait < c.Queue.MaxAge {
		v.refuse("backlog.max_wait", "must not be shorter than queue.max_age (%s): parking would shorten a claim's life", c.Queue.MaxAge)
	}
	v.integer("backlog.capacity", c.Backlog.Capacity, 1, 1_000_000_000)

	r := &c.Reconcile
	v.duration("reconcile.period", r.Period, 100*time.Millisecond, sellableAgain)
	if least := c.Queue.MaxAge + commitRetries; r.Grace < least {
		v.refuse("reconcile.grace", "must be at least queue.max_age + %s of commit retries (%s), not %s: batches would be judged while they are committed", commitRetries, least, r.Grace)
	}
	if r.Grace+r.Period > sellableAgain {
		v.refuse("reconcile.grace", "plus reconcile.period must not exceed %s, but is %s + %s: what a crash left tentative must be sellable again by then (lower queue.max_age)", sellableAgain, r.Grace, r.Period)
	}

	k := &c.Retention
	if k.Orders != 0 {
		v.duration("retention.orders", k.Orders, 24*time.Hour, longest)
	}
	if k.Orders != 0 && k.Orders < c.NATS.ResultsMaxAge {
		v.refuse("retention.orders", "must not be shorter than nats.results_max_age (%s), not %s: a restore would come too late", c.NATS.ResultsMaxAge, k.Orders)
	}
	if k.Archive != 0 {
		v.duration("retention.archive", k.Archive, 24*time.Hour, longest)
	}
	if k.Archive != 0 && k.Archive < c.NATS.ResultsMaxAge {
		v.refuse("retention.archive", "must not be shorter than nats.results_max_age (%s), not %s: audits would miss orders that the stream still tells of", c.NATS.ResultsMaxAge, k.Archive)
	}
	if !(k.Rate >= 1 && k.Rate <= 1e6) {
		v.refuse("retention.rate", "must be 1 to 1e6 orders per second, not %g", k.Rate)
	}

	v.oneOf("direct.lock", c.Direct.Lock, "none")
	v.duration("pay_within", c.PayWithin, time.Second, 366*24*time.Hour)
}
