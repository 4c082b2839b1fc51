package main

import (
	"context"
	"log/slog"
	"os"

	"flashgate/configs"
)

// serveCmd is a gateway in production.
type serveCmd struct{ source }

func (s serveCmd) Run(ctx context.Context) error {
	cfg, err := s.load(configs.Serve)
	if err != nil {
		return err
	}
	log := newLogger(cfg.Log)
	for _, w := range cfg.Warnings(configs.Serve) {
		log.Warn(w)
	}
	a, err := newApp(cfg, log, nil)
	if err != nil {
		return err
	}
	return runStages(ctx, log, cfg.Server.DrainDelay+cfg.Server.ShutdownTimeout, a.stages())
}

// newLogger writes to stderr, so that what commands print can be piped.
func newLogger(cfg configs.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // validation has refused other names
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, opts))
}
