package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"flashgate/configs"
	"flashgate/deduct"
	"flashgate/ledger"
	"flashgate/results"
)

// How long a command waits for the ledger and for NATS to answer, and for its parts to
// end.
const (
	ledgerPatience = 10 * time.Second
	natsPatience   = 5 * time.Second
	partsDrain     = 10 * time.Second
)

// withLedger runs fn with a proved ledger, and ends the ledger afterwards.
func withLedger(ctx context.Context, s source, fn func(context.Context, configs.Config, *ledger.DB) error) error {
	cfg, err := s.load(configs.Tool)
	if err != nil {
		return err
	}
	db, err := ledger.New(ledgerConfig(cfg, newLogger(cfg.Log), nil))
	if err != nil {
		return err
	}
	return runCommand(ctx, stage{"ledger", db.Run}, func(ctx context.Context) error {
		if err := awaitLedger(ctx, db); err != nil {
			return err
		}
		return fn(ctx, cfg, db)
	})
}

// runCommand runs a command beside the part that it needs, and ends that afterwards.
func runCommand(ctx context.Context, part stage, command func(context.Context) error) error {
	var result error
	err := runStages(ctx, slog.New(slog.DiscardHandler), partsDrain, []stage{
		{"command", func(ctx context.Context) error { result = command(ctx); return nil }}, part,
	})
	if err != nil && errors.Is(result, context.Canceled) {
		return err // the part is why the command was ended
	}
	return errors.Join(result, err)
}

func awaitLedger(ctx context.Context, db *ledger.DB) error {
	wait, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	if await(wait, db.Ready) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errors.New("the ledger does not answer"), db.Err())
}

// parts is what operators' commands work with. What is not configured is nil; what is
// may be away, but for the ledger.
type parts struct {
	ledger  *ledger.DB
	nats    *results.Conn
	backlog *results.Backlog
	shield  *deduct.Shield
	// shieldless has a command do without the shield.
	shieldless bool
}

// withParts runs fn with a proved ledger and whatever else is configured, and ends all
// of it afterwards.
func withParts(ctx context.Context, s source, fn func(context.Context, *parts) error) error {
	return withPartsAfter(ctx, s, func(context.Context, *parts) error { return nil }, fn)
}

// withPartsAfter is withParts with something to be done before the shield is asked for: it
// compares whose Redis is with whose the ledger is.
func withPartsAfter(ctx context.Context, s source, before, fn func(context.Context, *parts) error) error {
	return withLedger(ctx, s, func(ctx context.Context, cfg configs.Config, db *ledger.DB) error {
		p := &parts{ledger: db}
		if cfg.NATS.URL != "" {
			if err := p.connect(ctx, cfg); err != nil {
				return err
			}
			defer p.nats.Close()
		}
		if err := before(ctx, p); err != nil {
			return err
		}
		if len(cfg.Redis.Addrs) == 0 || p.shieldless {
			return fn(ctx, p)
		}
		log := newLogger(cfg.Log)
		deduct.SetClientLog(log)
		var err error
		if p.shield, err = deduct.New(shieldConfig(cfg, log, nil, p.backlog, db.Installation, nil), db.Source()); err != nil {
			return err
		}
		return runCommand(ctx, stage{"shield", p.shield.Run}, func(ctx context.Context) error { return fn(ctx, p) })
	})
}

// connect begins to connect to NATS, and gives it a while to answer: whoever needs it
// says so. It does not touch the streams, which are the gateways': it compares them.
func (p *parts) connect(ctx context.Context, cfg configs.Config) (err error) {
	c := natsConfig(cfg, slog.New(slog.DiscardHandler), nil, nil, p.ledger.Installation)
	c.Name = "flashgate command"
	if p.nats, err = results.Connect(c); err != nil {
		return err
	}
	if p.backlog, err = results.NewBacklog(results.BacklogConfig{MaxBatch: cfg.Queue.MaxBatch}, p.nats); err != nil {
		p.nats.Close()
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, natsPatience)
	defer cancel()
	await(ctx, p.nats.Connected)
	return nil
}

// reload loads a SKU's shield anew from the ledger, whatever copy there is.
func (p *parts) reload(ctx context.Context, name string) error {
	sku, err := p.ledger.SKU(ctx, name)
	if err == nil {
		p.shield.Distrust(name, p.ledger.Now())
		err = p.shield.Rebuild(ctx, sku)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
