package results

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Config says which NATS to talk to, and how.
type Config struct {
	// URL is one or several nats:// or tls:// addresses, comma-separated.
	URL string
	// Embedded, when set, is a server in this process, and URL is not used.
	Embedded *Embedded
	// CredsFile is optional: NATS credentials.
	CredsFile string
	// Name is shown in the server's list of connections.
	Name string
	// Monitors are the http addresses of the servers' monitoring ports, of which Run learns
	// whether they sync what they acknowledge. Where one says at the start that it does not,
	// and RequireSync is set, Run ends with an error.
	Monitors    []string
	RequireSync bool

	// Namespace goes into the names of streams and subjects, so that installations can
	// share a NATS.
	Namespace string
	// Installation, where set, is the identity of this gateway's installation, or empty as
	// long as it is not known. Streams of another one are not used.
	Installation func() string

	// Streams is how Run keeps the streams. Commands, which do not call Run, leave them to
	// the gateways, and only compare.
	Streams StreamConfig

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// A dial, a write or a flush that takes longer than this is a dead connection.
	// Too low drops connections that are merely busy; too high hides a frozen server.
	ioTimeout = 2 * time.Second
	// A server that has not answered two pings in a row is gone.
	pingInterval = 2 * time.Second
	// Soon enough that NATS is used again well within five seconds of its return.
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 250 * time.Millisecond
	// How often streams are looked at, since an operator may delete or change one, how often
	// those that cannot be used, and how often the server is asked once more to change what
	// it would not.
	keepEvery = 3 * time.Second
	keepSoon  = time.Second
	// The ledger's word on whose the streams have to be is in memory.
	ownerPoll = 5 * time.Millisecond
	keepLate  = time.Minute
	// A call to a stream that takes longer has failed: longer than an election of the
	// stream's leader takes as a rule.
	askTimeout = 3 * time.Second
)

// Conn is a connection to NATS that is never given up: the server may be away when
// it is made and at any time after. It may be used by any number of goroutines.
type Conn struct {
	cfg   Config
	names names
	nc    *nats.Conn
	js    jetstream.JetStream

	// The constants askTimeout and duplicateWindow, but for tests.
	askTimeout, duplicates time.Duration

	replies replies
	syncing atomic.Pointer[syncing]
	kept    [2]keptStream // results and backlog
	refuse  func(error)   // ends Run
	up      chan struct{} // holds a token when the streams have to be looked at
	closed  chan struct{} // closed by the client library's last callback
}

// Connect begins to connect and returns at once; an error means that the
// configuration is wrong, never that the server is away. Close ends it.
func Connect(cfg Config) (*Conn, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Embedded == nil && cfg.URL == "" {
		return nil, errors.New("nats.url is empty")
	}
	if err := cfg.Streams.validate(); err != nil {
		return nil, err
	}
	c := &Conn{
		cfg: cfg, names: namesOf(cfg.Namespace), askTimeout: askTimeout, duplicates: duplicateWindow,
		refuse: func(error) {}, up: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	nc, err := nats.Connect(cfg.URL, c.options()...)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	c.nc, c.js = nc, js
	if err := c.replies.init(nc); err != nil {
		nc.Close()
		return nil, fmt.Errorf("nats: subscribe to acknowledgements: %w", err)
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "flashgate_nats_connected", Help: "1 while NATS is connected.",
		}, func() float64 {
			if c.Connected() {
				return 1
			}
			return 0
		}))
		for i, stream := range c.streams() {
			cfg.Registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "flashgate_nats_stream_full", Help: "1 while a stream takes nothing more, as this gateway last heard.",
				ConstLabels: prometheus.Labels{"stream": stream.Name},
			}, func() float64 {
				if c.kept[i].full.Load() != nil {
					return 1
				}
				return 0
			}))
		}
	}
	return c, nil
}

// where is the server that is talked to; the embedded one is not reached by an address.
func (c *Conn) where(nc *nats.Conn) string {
	if c.cfg.Embedded != nil {
		return "in this process"
	}
	return nc.ConnectedUrlRedacted()
}

func (c *Conn) options() []nats.Option {
	log := c.cfg.Log
	opts := []nats.Option{
		nats.Name(c.cfg.Name),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		// Nothing is held back for a later connection: what could not be sent now is
		// in the outbox, and a copy sent minutes later would only come twice.
		nats.ReconnectBufSize(-1),
		nats.Timeout(ioTimeout), nats.FlusherTimeout(ioTimeout), nats.ReconnectOnFlusherError(),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(func(nc *nats.Conn) {
			log.Info("nats connected", "url", c.where(nc))
			c.look()
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("nats reconnected", "url", c.where(nc))
			c.look()
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("nats disconnected", "err", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("nats", "err", err)
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if c.cfg.Embedded != nil {
		opts = append(opts, nats.InProcessServer(c.cfg.Embedded.srv))
	}
	if c.cfg.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(c.cfg.CredsFile))
	}
	return opts
}

// Run keeps the streams in being: it looks at them whenever a connection has come
// about (a server may have come back without its store), and every few seconds, until ctx
// ends.
func (c *Conn) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	refused := make(chan error, 2) // one of each that may refuse
	c.refuse = func(err error) {
		select {
		case refused <- fmt.Errorf("nats: %w", err):
		default:
		}
		cancel()
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		if err := c.watchSyncing(ctx); err != nil {
			c.refuse(err)
		}
	})
	c.keepAll(ctx)
	watch.Wait()
	select {
	case err := <-refused:
		return err
	default:
		return nil
	}
}

// Owner is whose installation the results stream says that it is, "" where it says nothing
// or there is none. Errors wrap sale.ErrUnavailable.
func (c *Conn) Owner(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.askTimeout)
	defer cancel()
	s, err := c.js.Stream(ctx, c.names.results)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%w: stream %s: %w", sale.ErrUnavailable, c.names.results, err)
	}
	return s.CachedInfo().Config.Metadata[ownerKey], nil
}

func (c *Conn) keepAll(ctx context.Context) {
	timer := time.NewTimer(keepEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.up:
		case <-timer.C:
		}
		if !c.Connected() {
			continue // the connection says when it is there
		}
		timer.Reset(c.keepStreams(ctx))
	}
}

// look has Run look at the streams.
func (c *Conn) look() {
	select {
	case c.up <- struct{}{}:
	default:
	}
}

// Connected reports whether there is a connection now.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// ResultsReady reports whether events can be published: the same to whoever does so at
// once and to whoever does so later.
func (c *Conn) ResultsReady() bool { return c.kept[keptResults].usable() }

// BacklogReady reports whether claims can be parked and drained: never one without the
// other.
func (c *Conn) BacklogReady() bool { return c.kept[keptBacklog].usable() }

// Answers asks the server at the other end of this connection for a sign of life, and
// nothing of its streams.
func (c *Conn) Answers(ctx context.Context) error {
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	return nil
}

// Ping proves that NATS answers and that events can be published.
func (c *Conn) Ping(ctx context.Context) error {
	if !c.Connected() {
		return fmt.Errorf("nats: %w", nats.ErrDisconnected)
	}
	if _, err := c.js.Stream(ctx, c.names.results); err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			c.look()
		}
		return fmt.Errorf("nats stream %s: %w", c.names.results, err)
	}
	if !c.ResultsReady() {
		return fmt.Errorf("nats stream %s cannot be used: %v", c.names.results, c.kept[keptResults].notes())
	}
	return nil
}

// Close ends the connection and returns when its last callback has run. What uses
// the connection must have ended.
func (c *Conn) Close() {
	c.nc.Close()
	<-c.closed
}
