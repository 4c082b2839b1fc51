package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"flashgate/configs"
	"flashgate/deduct"
	"flashgate/ledger"
)

type reconcileCmd struct{ source }

func (c reconcileCmd) Run(ctx context.Context) error {
	return withLedger(ctx, c.source, func(ctx context.Context, cfg configs.Config, db *ledger.DB) (err error) {
		if len(cfg.Redis.Addrs) == 0 {
			return fmt.Errorf("redis.addrs: there is no shield to reconcile")
		}
		shield, err := deduct.New(shieldConfig(cfg, newLogger(cfg.Log), nil), db)
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
