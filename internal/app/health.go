package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"flashgate/configs"
)

// healthCmd is what a container's health check runs: the image has no other client. It
// asks the operators' listener, which answers when buyers have taken every connection of
// theirs.
type healthCmd struct {
	source
	Ready   bool          `help:"Ask whether it is ready, which it is not while it starts and while it drains."`
	Timeout time.Duration `default:"2s" help:"Give up after this long."`
}

func (h healthCmd) Run(ctx context.Context) error {
	cfg, err := configs.Load(h.File, os.Environ())
	if err != nil {
		return err
	}
	path := "/livez"
	if h.Ready {
		path = "/readyz"
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	return askHealth(ctx, urlOf(localAddr(cfg.Admin.Listen), cfg.Admin.TLS)+path)
}

// urlOf is where a listener is asked.
func urlOf(addr string, t configs.TLS) string {
	if t.Cert != "" {
		return "https://" + addr
	}
	return "http://" + addr
}

// askHealth returns an error unless the answer is 200.
func askHealth(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	// A transport of its own asks no proxy. The certificate is for another name than
	// loopback's, and is not looked at: nothing secret is said, and only health is heard.
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// localAddr is where this machine reaches a listener: one of every address is on
// loopback too.
func localAddr(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}
