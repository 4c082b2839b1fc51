package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"flashgate/configs"
	"flashgate/deduct"
	"flashgate/ledger"
	"flashgate/results"
)

// parts is what operators' commands work with. What is not configured is nil; what is
// may be away, but for the ledger.
type parts struct {
	cfg     configs.Config
	log     *slog.Logger
	ledger  *ledger.DB
	nats    *results.Conn
	backlog *results.Backlog
	shield  *deduct.Shield
}

// withParts runs fn with a proved ledger and whatever else is configured, and ends all
// of it afterwards.
func withParts(ctx context.Context, s source, fn func(context.Context, *parts) error) error {
	return withLedger(ctx, s, func(ctx context.Context, cfg configs.Config, db *ledger.DB) error {
		p := &parts{cfg: cfg, log: newLogger(cfg.Log), ledger: db}
		if cfg.NATS.URL != "" {
			if err := p.connect(ctx); err != nil {
				return err
			}
			defer p.nats.Close()
		}
		if len(cfg.Redis.Addrs) == 0 {
			return fn(ctx, p)
		}
		deduct.SetClientLog(p.log)
		sc := shieldConfig(cfg, p.log, nil)
		if p.backlog != nil {
			sc.Parked, sc.Waiting = p.backlog.Units, func(sku string) bool { return p.backlog.Waiting(sku) > 0 }
		}
		var err error
		if p.shield, err = deduct.New(sc, db); err != nil {
			return err
		}
		var result error
		err = runStages(ctx, slog.New(slog.DiscardHandler), 10*time.Second, []stage{
			{"command", func(ctx context.Context) error { result = fn(ctx, p); return nil }},
			{"shield", p.shield.Run},
		})
		if result != nil {
			return result
		}
		return err
	})
}

// connect begins to connect to NATS, and gives it a while to answer. It does not touch
// the streams: those are the gateways'.
func (p *parts) connect(ctx context.Context) (err error) {
	p.nats, err = results.Connect(results.Config{
		URL: p.cfg.NATS.URL, CredsFile: p.cfg.NATS.CredentialsFile, Name: "flashgate command",
	})
	if err != nil {
		return err
	}
	if p.backlog, err = results.NewBacklog(results.BacklogConfig{MaxBatch: p.cfg.Queue.MaxBatch}, p.nats); err != nil {
		p.nats.Close()
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for !p.nats.Connected() {
		select {
		case <-ctx.Done():
			return nil // whoever needs it says so
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// reload loads a SKU's shield anew from the ledger, whatever copy there is.
func (p *parts) reload(ctx context.Context, name string) error {
	sku, err := p.ledger.SKU(ctx, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.shield.Distrust(name, p.ledger.Now())
	if err := p.shield.Rebuild(ctx, sku); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
