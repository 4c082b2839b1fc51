package main

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

type reconcileCmd struct{ source }

func (c reconcileCmd) Run(ctx context.Context) error {
	return withLedger(ctx, c.source, func(ctx context.Context, cfg configs.Config, db *ledger.DB) error {
		if len(cfg.Redis.Addrs) == 0 {
			return errors.New("redis.addrs: there is no shield to reconcile")
		}
		log := newLogger(cfg.Log)
		backlog, closeBacklog, err := openBacklog(ctx, cfg, log)
		if err != nil {
			return err
		}
		defer closeBacklog()
		sc := shieldConfig(cfg, log, nil)
		sc.Parked, sc.Waiting = backlog.Units, func(sku string) bool { return backlog.Waiting(sku) > 0 }
		shield, err := deduct.New(sc, db)
		if err != nil {
			return err
		}
		return runStages(ctx, slog.New(slog.DiscardHandler), 10*time.Second, []stage{
			{"reconcile", func(ctx context.Context) error {
				report, err := shield.Reconcile(ctx)
				if err == nil {
					fmt.Printf("%+v\n", report)
				}
				return err
			}},
			{"shield", shield.Run},
		})
	})
}

// openBacklog connects to NATS and learns which SKUs have a backlog: what is parked
// must not be taken for units that nobody wants.
func openBacklog(ctx context.Context, cfg configs.Config, log *slog.Logger) (*results.Backlog, func(), error) {
	conn, err := results.Connect(results.Config{
		URL: cfg.NATS.URL, CredsFile: cfg.NATS.CredentialsFile, Name: "flashgate reconcile", Log: log.With("part", "results"),
	})
	if err != nil {
		return nil, nil, err
	}
	backlog, err := results.NewBacklog(results.BacklogConfig{MaxBatch: cfg.Queue.MaxBatch}, conn)
	if err == nil {
		err = lookAtBacklog(ctx, backlog)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return backlog, conn.Close, nil
}

// lookAtBacklog gives NATS ten seconds to answer.
func lookAtBacklog(ctx context.Context, backlog *results.Backlog) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := backlog.Look(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
