package app

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"

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
	relaxGC()
	a, err := newApp(cfg, log, nil)
	if err != nil {
		return err
	}
	return runStages(ctx, log, cfg.Server.DrainDelay+cfg.Server.ShutdownTimeout, a.stages())
}

// relaxGC lets the heap grow to five times what is live before it is collected, unless
// GOGC says otherwise. A gateway's live heap is some tens of megabytes, so this costs
// little memory, and collecting was about 8% of an order's processor time.
func relaxGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
}

// spellDurations has JSON say 1.5s as text does, and not a number of nanoseconds.
func spellDurations(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// newLogger writes to stderr, so that what commands print can be piped.
func newLogger(cfg configs.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // validation has refused other names
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: spellDurations}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, opts))
}
