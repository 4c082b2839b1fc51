package gateway

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// authority signs certificates in tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// always spans the clock of a synctest bubble, which begins in 2000, too.
var always = [2]time.Time{time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: always[0], NotAfter: always[1],
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// files puts a certificate of that name and its key into dir.
func (a *authority) files(t *testing.T, dir, name string) TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: always[0], NotAfter: always[1],
		DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := TLS{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for path, block := range map[string]*pem.Block{
		f.Cert: {Type: "CERTIFICATE", Bytes: der}, f.Key: {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (a *authority) file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// client is what a client of the authority uses, with a certificate of its own or without.
func (a *authority) client(own *TLS) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	c := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	if own != nil {
		pair, err := tls.LoadX509KeyPair(own.Cert, own.Key)
		if err != nil {
			panic(err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c
}

// get asks and returns the answer's status, and its body.
func get(t *testing.T, addr net.Addr, config *tls.Config, path string) (status int, body string, err error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	req, err := http.NewRequest(http.MethodGet, "https://"+addr.String()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testAdminKey)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, string(b), err
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	r := serve(t, func(c *Config) { c.TLS = ca.files(t, t.TempDir(), "gateway") })
	if status, body, err := get(t, r.g.BuyersAddr(), ca.client(nil), "/livez"); status != 200 {
		t.Errorf("%d %s %v", status, body, err)
	}
	conn, err := tls.Dial("tcp", r.g.BuyersAddr().String(), ca.client(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	r.queue.rule = reserved
	if _, err := io.WriteString(conn, post+"Idempotency-Key: k\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 201 {
		t.Fatalf("a purchase: %v %v", resp, err)
	}
	_ = resp.Body.Close()
	old := ca.client(nil)
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	if _, _, err := get(t, r.g.BuyersAddr(), old, "/livez"); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	plain, err := net.Dial("tcp", r.g.BuyersAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	if _, err := io.WriteString(plain, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(plain); strings.Contains(string(b), "200 OK") {
		t.Errorf("HTTP without TLS is answered: %q", b)
	}
	// The operators' listener has none.
	if _, _, err := get(t, r.g.OperatorsAddr(), ca.client(nil), "/livez"); err == nil {
		t.Error("the operators' listener speaks TLS")
	}
}

// A body that is far too large is answered, and not reset, with TLS too.
func TestTLSBodiesFarTooLarge(t *testing.T) {
	ca := newAuthority(t)
	r := serve(t, func(c *Config) { c.TLS = ca.files(t, t.TempDir(), "gateway") })
	transport := &http.Transport{TLSClientConfig: ca.client(nil), DisableKeepAlives: true}
	req, err := http.NewRequest(http.MethodPost, "https://"+r.g.BuyersAddr().String()+"/v1/payments", strings.NewReader(strings.Repeat("x", 2<<20)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestClientCertificates(t *testing.T) {
	ca, strangers := newAuthority(t), newAuthority(t)
	r := serve(t, func(c *Config) {
		c.AdminTLS = ca.files(t, t.TempDir(), "gateway")
		c.AdminTLS.ClientCA = ca.file(t)
		c.OpenMetrics = true
	})
	own, another := ca.files(t, t.TempDir(), "operator"), strangers.files(t, t.TempDir(), "operator")
	for _, c := range []struct {
		name   string
		own    *TLS
		path   string
		status int // 0: no connection
	}{
		{"with", &own, "/v1/breakers", 200},
		{"without", nil, "/v1/breakers", 401},
		{"without, metrics", nil, "/metrics", 401},
		{"without, no such path", nil, "/livez/", 401},
		{"without, health", nil, "/livez", 200},
		{"a stranger's", &another, "/v1/breakers", 0},
		{"a stranger's, health", &another, "/livez", 0},
	} {
		status, body, err := get(t, r.g.OperatorsAddr(), ca.client(c.own), c.path)
		if status != c.status {
			t.Errorf("%s: %d %s %v, want %d", c.name, status, body, err, c.status)
		}
	}
}

// Renewed files are used within ten seconds, and files that do not fit together never.
func TestCertificatesAreRenewed(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	files := ca.files(t, dir, "first")
	// File times do not follow the bubble's clock.
	stamp := func(n int) {
		t.Helper()
		for _, path := range []string{files.Cert, files.Key} {
			if err := os.Chtimes(path, time.Time{}, always[0].Add(time.Duration(n)*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	}
	stamp(1)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.TLS = files })
		name := func() string {
			t.Helper()
			config, err := w.g.buyers.tls.config(nil)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			return leaf.Subject.CommonName
		}
		step := func(want, why string) {
			t.Helper()
			time.Sleep(certificateLook)
			if got := name(); got != want {
				t.Errorf("%s: %s", why, got)
			}
		}
		if got := name(); got != "first" {
			t.Error(got)
		}
		step("first", "nothing changed")
		key, err := os.ReadFile(files.Key)
		if err != nil {
			t.Fatal(err)
		}
		ca.files(t, dir, "second")
		second, err := os.ReadFile(files.Key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files.Key, key, 0o600); err != nil {
			t.Fatal(err)
		}
		stamp(2)
		step("first", "the certificate is new, and its key is not there yet")
		if err := os.WriteFile(files.Key, second, 0o600); err != nil {
			t.Fatal(err)
		}
		stamp(2) // also where the time tells nothing
		if got := name(); got != "first" {
			t.Errorf("looked at again at once: %s", got)
		}
		step("second", "both are new")
		if err := os.Remove(files.Cert); err != nil {
			t.Fatal(err)
		}
		step("second", "the certificate is gone")
	})
}

func TestTLSFilesThatCannotBeUsed(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	good, other := ca.files(t, dir, "a"), ca.files(t, t.TempDir(), "b")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]TLS{
		"no key":            {Cert: good.Cert},
		"only an authority": {ClientCA: good.Cert},
		"another's key":     {Cert: good.Cert, Key: other.Key},
		"no such file":      {Cert: filepath.Join(dir, "none"), Key: good.Key},
		"no authority":      {Cert: good.Cert, Key: good.Key, ClientCA: empty},
	} {
		w := newWorld(t, nil)
		cfg := w.g.cfg
		cfg.Registerer = nil
		cfg.TLS = files
		if _, err := New(cfg, w.g.deps); err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Connections whose handshake was made in advance, and that ask for nothing, do not hold a
// drain up.
func TestSilentTLSConnectionsDoNotHoldADrain(t *testing.T) {
	ca := newAuthority(t)
	files := ca.files(t, t.TempDir(), "gateway")
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, func(c *Config) { c.TLS = files })
		silent := tls.Client(r.dial(t), ca.client(nil))
		if err := silent.Handshake(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		go func() { _, _ = io.Copy(io.Discard, silent) }() // ended by the server
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(began); took > silence+certificateLook/2 {
			t.Errorf("the drain took %v", took)
		}
	})
}
