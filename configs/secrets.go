package configs

import (
	"net"
	"net/netip"
	"strings"
)

// Secrets that everybody knows, or could find by trying, protect nothing. What is refused is
// told by its length and by a list, and never guessed at by how random it looks: a readable
// name with digits is somebody's key.

// The lengths, in bytes. Below the first a secret is refused, below the second it is warned
// of. An HMAC key should be as long as its hash (RFC 7518, section 3.2).
const (
	adminKeyLeast, adminKeyGood     = 12, 16
	jwtSecretLeast, jwtSecretGood   = 16, 32
	webhookKeyLeast, webhookKeyGood = 8, 16
)

// known are the samples that this and other software ship, in lower case.
var known = []string{
	"change-me-to-something-random", "change-me-to-32-random-bytes-or-more",
	"changeme", "change-me", "change_me", "changeit", "please-change-me", "replace-me", "your-secret-key", "your-256-bit-secret", "your-secret-here",
	"secret", "secretkey", "secret-key", "supersecret", "super-secret", "password", "passw0rd", "adminadmin", "administrator", "admin-key", "test-secret",
	"letmein", "12345678", "123456789", "1234567890", "0123456789",
}

// weak says what is wrong with a secret, "" for nothing.
func weak(secret string, least int) string {
	lower := strings.ToLower(secret)
	for _, k := range known {
		// Also where a sample was written more than once to be long enough.
		if lower == k || strings.ReplaceAll(lower, k, "") == "" {
			return "is a sample, which everybody knows: use a random one"
		}
	}
	if len(secret) < least {
		return "is short enough to be found by trying: use a longer, random one"
	}
	return ""
}

// secrets refuses those that protect nothing. Dev is for one machine, and commands open no
// port.
func (v *validator) secrets(c *Config) {
	if v.mode != Serve {
		return
	}
	refuse := func(key, secret string, least int) {
		if why := weak(secret, least); secret != "" && why != "" {
			v.refuse(key, "%s", why)
		}
	}
	refuse("admin.key", c.Admin.Key, adminKeyLeast)
	if c.Auth.Mode == "jwt" {
		refuse("auth.jwt.secret", c.Auth.JWT.Secret, jwtSecretLeast)
	}
	if strings.Contains(c.Auth.JWT.Secret, "-----BEGIN") {
		v.refuse("auth.jwt.secret", "is a key in PEM form: a public one belongs into auth.jwt.public_key_file, and as a secret would let everybody sign")
	}
	for _, secret := range c.Payments.WebhookSecrets {
		refuse("payments.webhook_secrets", secret, webhookKeyLeast)
	}
	if everybody(c.Server.TrustedProxies) && c.Auth.Mode == "header" {
		v.refuse("server.trusted_proxies", "is everybody, and with auth.mode header any client could say who buys: name the load balancers")
	}
}

// secretWarnings are those that work, but should be better.
func (c Config) secretWarnings() (w []string) {
	if len(c.Admin.Key) < adminKeyGood {
		w = append(w, "admin.key is short; use 16 random characters or more")
	}
	if c.Auth.Mode == "jwt" && c.Auth.JWT.PublicKey == "" && len(c.Auth.JWT.Secret) < jwtSecretGood {
		w = append(w, "auth.jwt.secret is shorter than its hash; use 32 random bytes or more")
	}
	for _, secret := range c.Payments.WebhookSecrets {
		if len(secret) < webhookKeyGood {
			w = append(w, "payments.webhook_secrets holds a short one; use 16 random characters or more")
		}
	}
	if everybody(c.Server.TrustedProxies) {
		w = append(w, "server.trusted_proxies is everybody: any client can claim any address")
	}
	if !OnLoopback(c.Admin.Listen) && c.Admin.TLS.Cert == "" {
		w = append(w, "admin.listen is not on loopback, and the operators' key goes over the network as it is: give admin.tls, or keep it in a network of your own")
	}
	return w
}

// everybody reports whether the networks together hold all addresses of a kind.
func everybody(networks []string) bool {
	halves := make(map[netip.Prefix]bool)
	for _, s := range networks {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			continue
		}
		if p.Bits() == 0 {
			return true
		}
		if p.Bits() == 1 { // 0.0.0.0/1 and 128.0.0.0/1 are everybody too
			halves[p.Masked()] = true
		}
	}
	v4, v6 := 0, 0
	for p := range halves {
		if p.Addr().Is4() {
			v4++
		} else {
			v6++
		}
	}
	return v4 == 2 || v6 == 2
}

// OnLoopback reports whether an address to listen on is this machine's own only.
func OnLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
