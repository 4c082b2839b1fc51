package app

import (
	"context"
	"fmt"

	"flashgate/configs"
	"flashgate/ledger"
)

type eraseCmd struct {
	source
	User   string `arg:"" help:"The user id, as buyers' tokens carry it."`
	Closed bool   `help:"Also from closed SKUs with a limit per buyer. Opened again, they would take the user for a new buyer."`
}

func (c eraseCmd) Run(ctx context.Context) error {
	return withLedger(ctx, c.source, func(ctx context.Context, _ configs.Config, db *ledger.DB) error {
		skus := 0
		erased, err := db.Erase(ctx, ledger.Erasure{User: c.User, Closed: c.Closed}, func(sku, why string) {
			skus++
			fmt.Printf("left: sku %s: %s\n", sku, why)
		})
		fmt.Printf("%d orders no longer name the user\n", erased)
		if err == nil && skus > 0 {
			err = fmt.Errorf("orders of %d SKUs still name the user: run it again later", skus)
		}
		return err
	})
}
