package results

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// EmbeddedConfig is a NATS server inside this process, for one machine only.
type EmbeddedConfig struct {
	// Dir is where JetStream keeps its streams.
	Dir string
	// SyncInterval is how often files are flushed to the disk itself. What was
	// acknowledged since the last flush is lost with the machine (not with the
	// process). Too low costs speed, too high loses more events.
	SyncInterval time.Duration
	Log          *slog.Logger
}

// Embedded is an in-process nats-server with JetStream. It listens on no port.
type Embedded struct {
	srv *server.Server
}

// NewEmbedded prepares the server; Run starts it.
func NewEmbedded(cfg EmbeddedConfig) (*Embedded, error) {
	if cfg.Dir == "" || cfg.SyncInterval <= 0 {
		return nil, errors.New("the embedded nats-server needs a directory, and an interval for its flushes")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	opts := &server.Options{
		ServerName: "flashgate-dev",
		DontListen: true,
		JetStream:  true, StoreDir: cfg.Dir, SyncInterval: cfg.SyncInterval,
		NoSigs: true,
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded nats-server: %w", err)
	}
	srv.SetLoggerV2(serverLog{cfg.Log}, false, false, false)
	return &Embedded{srv: srv}, nil
}

// Run serves until ctx ends and returns when everything is on disk.
func (e *Embedded) Run(ctx context.Context) error {
	e.srv.Start()
	<-ctx.Done()
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	return nil
}

// serverLog passes the server's own log on; its notices are of interest only when
// something is looked for.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) {
	l.log.Debug("nats-server: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Warnf(format string, v ...any) {
	l.log.Warn("nats-server: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Errorf(format string, v ...any) {
	l.log.Error("nats-server: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Fatalf(format string, v ...any) {
	l.log.Error("nats-server: " + fmt.Sprintf(format, v...))
}
func (l serverLog) Debugf(format string, v ...any) {}
func (l serverLog) Tracef(format string, v ...any) {}
