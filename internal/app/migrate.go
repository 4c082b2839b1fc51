package app

import (
	"context"
	"fmt"

	"flashgate/configs"
	"flashgate/ledger"
)

type migrateCmd struct{ source }

func (m migrateCmd) Run(ctx context.Context) error {
	cfg, err := m.load(configs.Tool)
	if err != nil {
		return err
	}
	if err := ledger.Migrate(ctx, ledgerConfig(cfg, newLogger(cfg.Log), nil)); err != nil {
		return err
	}
	fmt.Println("the ledger's tables are up to date")
	return nil
}
