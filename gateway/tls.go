package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// TLS says how a listener speaks TLS; its zero value is that it does not. All three are
// paths of PEM files.
type TLS struct {
	Cert, Key string
	// ClientCA has every request but those for /livez and /readyz come with a client
	// certificate that one of these authorities signed.
	ClientCA string
}

func (t TLS) validate() error {
	if (t.Cert == "") != (t.Key == "") || t.ClientCA != "" && t.Cert == "" {
		return errors.New("TLS needs a certificate and its key")
	}
	return nil
}

// certificateLook is how often the files are looked at, so that a renewed certificate is
// used without a restart.
const certificateLook = 10 * time.Second

// certificates keep what a listener's TLS files hold. They are looked at when somebody
// connects, so nothing runs in the background.
type certificates struct {
	files TLS
	log   *slog.Logger

	mu      sync.Mutex
	looked  time.Time
	state   [3]fileState
	current *tls.Config
}

// fileState tells versions of a file apart.
type fileState struct {
	changed time.Time
	size    int64
}

// newCertificates returns nil for no TLS.
func newCertificates(files TLS, log *slog.Logger) (*certificates, error) {
	if files == (TLS{}) {
		return nil, nil
	}
	c := &certificates{files: files, log: log, looked: time.Now()}
	state, err := c.look()
	if err != nil {
		return nil, err
	}
	if c.current, err = files.load(); err != nil {
		return nil, err
	}
	c.state = state
	return c, nil
}

// look tells which versions the files have.
func (c *certificates) look() (state [3]fileState, err error) {
	for i, path := range []string{c.files.Cert, c.files.Key, c.files.ClientCA} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return state, err
		}
		state[i] = fileState{info.ModTime(), info.Size()}
	}
	return state, nil
}

func (t TLS) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", t.Cert, t.Key, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}
	if t.ClientCA == "" {
		return config, nil
	}
	authorities, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, err
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("%s holds no certificate", t.ClientCA)
	}
	// Health checks have none; certified asks for it where it is needed.
	config.ClientAuth = tls.VerifyClientCertIfGiven
	// A ticket would let a client in that the authorities of now do not know.
	config.SessionTicketsDisabled = true
	return config, nil
}

// config is what the next handshake uses. Files that do not fit together, as while they are
// being replaced, change nothing, and are looked at again.
func (c *certificates) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateLook {
		return c.current, nil
	}
	c.looked = time.Now()
	state, err := c.look()
	if err == nil && state == c.state {
		return c.current, nil
	}
	var next *tls.Config
	if err == nil {
		next, err = c.files.load()
	}
	if err != nil {
		c.log.Warn("the TLS files changed and cannot be used; going on with what they held", "error", err)
		return c.current, nil
	}
	c.current, c.state = next, state
	c.log.Info("the TLS files changed, and are used", "certificate", c.files.Cert)
	return next, nil
}

// secureListener speaks TLS on the connections of a counted one. Handshakes are made by the
// goroutines that serve the connections, within the timeout of reading a request.
type secureListener struct {
	*counted
	config *tls.Config
}

func (l *counted) secure(c *certificates) net.Listener {
	if c == nil {
		return l
	}
	return &secureListener{counted: l, config: &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: c.config}}
}

func (l *secureListener) Accept() (net.Conn, error) {
	under, err := l.counted.next()
	if err != nil {
		return nil, err
	}
	under.secured = true
	return &secureConn{Conn: tls.Server(under, l.config), under: under}, nil
}

// secureConn is TLS on a conn. Its embedded type is what fasthttp knows TLS by.
type secureConn struct {
	*tls.Conn
	under *conn
}

// Read counts a client as heard by its first request, and not by its handshake, which
// browsers make in advance.
func (c *secureConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.under.hear()
	}
	return n, err
}

// under returns the conn that a request came by, or nil.
func under(c net.Conn) *conn {
	switch c := c.(type) {
	case *conn:
		return c
	case *secureConn:
		return c.under
	}
	return nil
}

// certified reports whether the client has proved to be one of the listener's.
func certified(c net.Conn) bool {
	s, ok := c.(*secureConn)
	return ok && len(s.ConnectionState().VerifiedChains) > 0
}
