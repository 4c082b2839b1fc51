package gateway

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/valyala/fasthttp"
)

func pemOf(t *testing.T, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func signed(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tokenUser(t *testing.T, cfg JWT, authorization string) string {
	t.Helper()
	a, err := newAuthenticator(Auth{Mode: authJWT, JWT: cfg}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a.user(&identity{authorization: authorization})
}

func TestTokens(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	now := time.Now()
	in := func(d time.Duration) int64 { return now.Add(d).Unix() }
	hs := func(claims jwt.MapClaims) string {
		return "Bearer " + signed(t, jwt.SigningMethodHS256, secret, claims)
	}
	base := JWT{Secret: string(secret), Leeway: time.Hour}
	ageless := base
	ageless.AnyAge = true
	critical := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ann", "exp": in(time.Hour)})
	critical.Header["crit"], critical.Header["b64"] = []string{"b64"}, false
	extended, err := critical.SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	strict := JWT{Secret: string(secret), Issuer: "shop", Audience: "sale"}
	good := hs(jwt.MapClaims{"sub": "ann", "exp": in(time.Hour)})
	for name, x := range map[string]struct {
		cfg   JWT
		field string
		want  string
	}{
		"good":             {base, good, "ann"},
		"other case":       {base, "bearer" + good[6:], "ann"},
		"HS512":            {base, "Bearer " + signed(t, jwt.SigningMethodHS512, secret, jwt.MapClaims{"sub": "ann", "exp": in(time.Hour)}), "ann"},
		"no expiry":        {base, hs(jwt.MapClaims{"sub": "ann"}), ""},
		"no expiry wanted": {ageless, hs(jwt.MapClaims{"sub": "ann"}), "ann"},
		"odd expiry":       {base, hs(jwt.MapClaims{"sub": "ann", "exp": "tomorrow"}), ""},
		"expiry's case":    {base, hs(jwt.MapClaims{"sub": "ann", "EXP": in(time.Hour)}), ""},
		"subject's case":   {base, hs(jwt.MapClaims{"SUB": "ann", "exp": in(time.Hour)}), ""},
		"both cases":       {base, hs(jwt.MapClaims{"sub": "ann", "Sub": "victim", "exp": in(time.Hour)}), "ann"},
		"a subject number": {base, hs(jwt.MapClaims{"sub": 7, "exp": in(time.Hour)}), ""},
		"extensions":       {base, "Bearer " + extended, ""},
		"all required":     {strict, hs(jwt.MapClaims{"sub": "ann", "iss": "shop", "aud": []string{"x", "sale"}, "exp": in(time.Hour)}), "ann"},
		"other issuer":     {strict, hs(jwt.MapClaims{"sub": "ann", "iss": "else", "aud": "sale", "exp": in(time.Hour)}), ""},
		"other audience":   {strict, hs(jwt.MapClaims{"sub": "ann", "iss": "shop", "aud": "else", "exp": in(time.Hour)}), ""},
		"expired":          {base, hs(jwt.MapClaims{"sub": "ann", "exp": in(-2 * time.Hour)}), ""},
		"within leeway":    {base, hs(jwt.MapClaims{"sub": "ann", "exp": in(-time.Hour / 2)}), "ann"},
		"not yet":          {base, hs(jwt.MapClaims{"sub": "ann", "nbf": in(2 * time.Hour)}), ""},
		"no subject":       {base, hs(jwt.MapClaims{"exp": in(time.Hour)}), ""},
		"odd subject":      {base, hs(jwt.MapClaims{"sub": "a b"}), ""},
		"long subject":     {base, hs(jwt.MapClaims{"sub": strings.Repeat("a", 129)}), ""},
		"other secret":     {JWT{Secret: "another"}, good, ""},
		"unsigned":         {base, "Bearer " + signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "ann"}), ""},
		"changed":          {base, good[:len(good)-2] + "xx", ""},
		"no scheme":        {base, good[7:], ""},
		"other scheme":     {base, "Basic " + good[7:], ""},
		"empty":            {base, "", ""},
		"scheme only":      {base, "Bearer ", ""},
		"not a token":      {base, "Bearer a.b.c", ""},
		"something behind": {base, good + " x", ""},
	} {
		if got := tokenUser(t, x.cfg, x.field); got != x.want {
			t.Errorf("%s: user %q, want %q", name, got, x.want)
		}
	}
}

// The key decides the algorithm: a token signed with the public key as if it were a
// shared secret is the classic forgery.
func TestTokenAlgorithms(t *testing.T) {
	rsaKey, _ := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	edPublic, edKey, _ := ed25519.GenerateKey(rand.Reader)
	claims := jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}
	for name, x := range map[string]struct {
		public crypto.PublicKey
		key    any
		method jwt.SigningMethod
	}{
		"RS256": {&rsaKey.PublicKey, rsaKey, jwt.SigningMethodRS256},
		"PS256": {&rsaKey.PublicKey, rsaKey, jwt.SigningMethodPS256},
		"ES256": {&ecKey.PublicKey, ecKey, jwt.SigningMethodES256},
		"EdDSA": {edPublic, edKey, jwt.SigningMethodEdDSA},
	} {
		text := pemOf(t, x.public)
		if got := tokenUser(t, JWT{PublicKey: text}, "Bearer "+signed(t, x.method, x.key, claims)); got != "ann" {
			t.Errorf("%s: user %q", name, got)
		}
		forged := signed(t, jwt.SigningMethodHS256, []byte(text), claims)
		if got := tokenUser(t, JWT{PublicKey: text}, "Bearer "+forged); got != "" {
			t.Errorf("%s: a forged token was taken", name)
		}
	}
}

func TestAuthRefusesConfiguration(t *testing.T) {
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	for name, cfg := range map[string]Auth{
		"no mode":          {},
		"header, no proxy": {Mode: authHeader},
		"jwt, nothing":     {Mode: authJWT},
		"jwt, both":        {Mode: authJWT, JWT: JWT{Secret: "s", PublicKey: "p"}},
		"jwt, no PEM":      {Mode: authJWT, JWT: JWT{PublicKey: "p"}},
		"jwt, broken PEM":  {Mode: authJWT, JWT: JWT{PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}))}},
		"jwt, small RSA": {Mode: authJWT, JWT: JWT{PublicKey: func() string {
			if small == nil {
				return "x"
			}
			return pemOf(t, &small.PublicKey)
		}()}},
	} {
		if _, err := newAuthenticator(cfg, nil); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestClientAddress(t *testing.T) {
	trusted, err := parseProxies([]string{"10.0.0.0/8", "192.0.2.7", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		peer   string
		chains []string
		want   string
	}{
		"untrusted peer":          {"203.0.113.1", []string{"198.51.100.1"}, "203.0.113.1"},
		"no chain":                {"10.0.0.1", nil, "10.0.0.1"},
		"one hop":                 {"10.0.0.1", []string{"198.51.100.1"}, "198.51.100.1"},
		"forged on the left":      {"10.0.0.1", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		"two proxies":             {"10.0.0.1", []string{"1.1.1.1, 198.51.100.1, 192.0.2.7"}, "198.51.100.1"},
		"two fields":              {"10.0.0.1", []string{"1.1.1.1", "198.51.100.1", "10.2.3.4"}, "198.51.100.1"},
		"only proxies":            {"10.0.0.1", []string{"10.0.0.3,10.0.0.2"}, "10.0.0.3"},
		"unreadable":              {"10.0.0.1", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		"unreadable behind proxy": {"10.0.0.1", []string{"198.51.100.1, x, 10.0.0.2"}, "10.0.0.2"},
		"with a port":             {"10.0.0.1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		"IPv6":                    {"2001:db8::1", []string{"[2606:4700::1]:80"}, "2606:4700::1"},
		"mapped":                  {"10.0.0.1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
	} {
		var req fasthttp.Request
		for _, c := range x.chains {
			req.Header.Add("X-Forwarded-For", c)
		}
		ctx := &fasthttp.RequestCtx{}
		ctx.Init(&req, nil, nil)
		if got := trusted.client(ctx, netip.MustParseAddr(x.peer)); got.String() != x.want {
			t.Errorf("%s: %v, want %s", name, got, x.want)
		}
	}
	if _, err := parseProxies([]string{"ten"}); err == nil {
		t.Error("nonsense was taken for a proxy")
	}
}
