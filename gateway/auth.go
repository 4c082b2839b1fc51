package gateway

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"flashgate/sale"
)

// The ways in which buyers say who they are.
const (
	authJWT    = "jwt"
	authHeader = "header"
)

// Auth says how buyers are known.
type Auth struct {
	// Mode is jwt or header. The latter believes X-User-ID from trusted proxies, and from
	// nobody else.
	Mode string
	JWT  JWT
}

// JWT says which tokens are genuine. Exactly one of Secret and PublicKey is set, and
// the kind of key alone decides which algorithms count: a token cannot choose another.
type JWT struct {
	Secret    string        // HS256, HS384, HS512
	PublicKey string        // PEM: RS and PS, ES or EdDSA
	Issuer    string        // required "iss", when set
	Audience  string        // required "aud", when set
	Leeway    time.Duration // how far clocks may differ
	// AnyAge takes tokens without "exp" too: each is good for as long as its key is.
	AnyAge bool
}

// authenticator tells who a buyer is. The user is a view into the request or a string
// of its own, and is valid as a user id; "" means that it is not known who it is.
type authenticator interface {
	user(id *identity) string
}

// identity is what a request says about its buyer.
type identity struct {
	peer          netip.Addr
	authorization string
	userID        string
}

func newAuthenticator(cfg Auth, trusted proxies) (authenticator, error) {
	switch cfg.Mode {
	case authHeader:
		if len(trusted) == 0 {
			return nil, errors.New("auth mode header needs trusted proxies")
		}
		return headerAuth{trusted}, nil
	case authJWT:
		return newTokenAuth(cfg.JWT)
	}
	return nil, fmt.Errorf("auth mode %q is neither %s nor %s", cfg.Mode, authJWT, authHeader)
}

type headerAuth struct{ trusted proxies }

func (h headerAuth) user(id *identity) string {
	if sale.ValidateUser(id.userID) != nil || !h.trusted.contain(id.peer) {
		return ""
	}
	return id.userID
}

type tokenAuth struct {
	parser *jwt.Parser
	key    any
}

func newTokenAuth(cfg JWT) (*tokenAuth, error) {
	t := &tokenAuth{}
	var algorithms []string
	switch {
	case (cfg.Secret == "") == (cfg.PublicKey == ""):
		return nil, errors.New("auth mode jwt needs either a secret or a public key")
	case cfg.Secret != "":
		t.key, algorithms = []byte(cfg.Secret), []string{"HS256", "HS384", "HS512"}
	default:
		var err error
		if t.key, algorithms, err = parsePublicKey([]byte(cfg.PublicKey)); err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
	}
	options := []jwt.ParserOption{jwt.WithValidMethods(algorithms), jwt.WithLeeway(cfg.Leeway)}
	if !cfg.AnyAge {
		options = append(options, jwt.WithExpirationRequired())
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

func (t *tokenAuth) user(id *identity) string {
	token, ok := bearer(id.authorization)
	if !ok {
		return ""
	}
	// A map, and no struct, which would take "SUB" for "sub": names of claims are told apart
	// by case (RFC 7519, section 4).
	claims := jwt.MapClaims{}
	if _, err := t.parser.ParseWithClaims(token, claims, t.keyOf); err != nil {
		return ""
	}
	user, ok := claims["sub"].(string)
	if !ok || sale.ValidateUser(user) != nil {
		return ""
	}
	return user
}

var errCritical = errors.New("the token asks for extensions that must be understood")

// keyOf is the key for a token. One that names extensions that have to be understood is
// refused, since none is here (RFC 7515, section 4.1.11).
func (t *tokenAuth) keyOf(token *jwt.Token) (any, error) {
	if _, critical := token.Header["crit"]; critical {
		return nil, errCritical
	}
	return t.key, nil
}

// bearer returns the credentials of an Authorization field of the Bearer scheme.
func bearer(field string) (string, bool) {
	const scheme = "Bearer "
	if len(field) <= len(scheme) || !strings.EqualFold(field[:len(scheme)], scheme) {
		return "", false
	}
	return strings.TrimLeft(field[len(scheme):], " "), true
}

// parsePublicKey reads a PEM text, and says which algorithms its key is for.
func parsePublicKey(text []byte) (key any, algorithms []string, err error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, errors.New("it is not PEM")
	}
	switch block.Type {
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = cert.PublicKey
		}
	default:
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	if err != nil {
		return nil, nil, err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, nil, errors.New("an RSA key needs 2048 bits or more")
		}
		return key, []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return key, []string{"ES256"}, nil
		case 384:
			return key, []string{"ES384"}, nil
		case 521:
			return key, []string{"ES512"}, nil
		}
	case ed25519.PublicKey:
		return key, []string{"EdDSA"}, nil
	}
	return nil, nil, errors.New("no supported algorithm uses a key of this kind")
}
