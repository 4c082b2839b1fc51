package app

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"flashgate/configs"
	"flashgate/ledger"
	"flashgate/sale"
)

type skuCmd struct {
	Put  skuPutCmd  `cmd:"" help:"Create a SKU, or replace what is said of it."`
	List skuListCmd `cmd:"" help:"List SKUs and their stock, a JSON object a line."`
}

type skuPutCmd struct {
	source
	Name         string        `arg:"" name:"sku" help:"Name of the SKU."`
	Total        int64         `required:"" help:"Units in all."`
	Reserved     int64         `help:"Units of these that are not for sale."`
	UnitPrice    int64         `required:"" help:"Price of one unit, in minor units."`
	Currency     string        `required:"" help:"ISO 4217 code."`
	Title        string        `help:"What buyers call it."`
	PerUserLimit int64         `help:"Units per buyer; 0 is unlimited."`
	OpensAt      string        `help:"RFC 3339 time; none is now."`
	ClosesAt     string        `help:"RFC 3339 time; none is never."`
	PayWithin    time.Duration `help:"How long a buyer has to pay."`
	State        string        `default:"open" enum:"open,paused,closed"`
	Heat         string        `default:"auto" enum:"auto,hot,cold"`
	Segments     int           `default:"1" help:"Rows the stock is spread over."`
}

func (c skuPutCmd) Run(ctx context.Context) error {
	return withLedger(ctx, c.source, func(ctx context.Context, cfg configs.Config, db *ledger.DB) error {
		sku := sale.SKU{
			Name: c.Name, Title: c.Title, UnitPrice: c.UnitPrice, Currency: c.Currency, PerUserLimit: c.PerUserLimit,
			PayWithin: c.PayWithin.Milliseconds(), Segments: c.Segments,
		}
		if c.PayWithin == 0 {
			sku.PayWithin = cfg.PayWithin.Milliseconds()
		}
		var errs [4]error
		sku.State, errs[0] = sale.ParseSaleState(c.State)
		sku.Heat, errs[1] = sale.ParseHeat(c.Heat)
		if c.OpensAt != "" {
			sku.OpensAt, errs[2] = sale.ParseTime(c.OpensAt)
		}
		if c.ClosesAt != "" {
			sku.ClosesAt, errs[3] = sale.ParseTime(c.ClosesAt)
		}
		stock := sale.Stock{Total: c.Total, Reserved: c.Reserved}
		if err := errors.Join(append(errs[:], sku.Validate(), stock.Validate())...); err != nil {
			return err
		}
		ctx = sale.WithOperator(ctx, sale.Operator{Name: "cli", Why: "flashgate sku put"})
		sku, stock, _, err := db.PutSKU(ctx, sku, stock, sale.Expect{})
		if err != nil {
			return err
		}
		return printListing(sale.Listing{SKU: sku, Stock: stock})
	})
}

type skuListCmd struct{ source }

func (c skuListCmd) Run(ctx context.Context) error {
	return withLedger(ctx, c.source, func(ctx context.Context, _ configs.Config, db *ledger.DB) error {
		for after := ""; ; {
			page, err := db.ListSKUs(ctx, after, 500)
			if err != nil || len(page) == 0 {
				return err
			}
			for _, l := range page {
				if err := printListing(l); err != nil {
					return err
				}
			}
			after = page[len(page)-1].SKU.Name
		}
	})
}

func printListing(l sale.Listing) error {
	fields := map[string]any{
		"sku": l.SKU.Name, "title": l.SKU.Title, "unit_price": l.SKU.UnitPrice, "currency": l.SKU.Currency,
		"per_user_limit": l.SKU.PerUserLimit, "state": l.SKU.ShownState().String(), "heat": l.SKU.Heat.String(), "segments": l.SKU.Segments,
		"total": l.Stock.Total, "reserved": l.Stock.Reserved, "sold": l.Stock.Sold, "available": l.Stock.Available(),
	}
	if pending := l.SKU.Pending(); pending != "" {
		fields["pending"] = pending
	}
	if l.SKU.Archived() {
		fields["archive"] = l.SKU.Archive.String()
	}
	return json.NewEncoder(os.Stdout).Encode(fields)
}
