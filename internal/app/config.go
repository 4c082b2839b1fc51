package app

import (
	"fmt"
	"os"

	"flashgate/configs"
	"flashgate/ledger"
)

type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Say what is wrong with the configuration, one line each; exit 1 if anything is."`
	Print configPrintCmd `cmd:"" help:"Print the configuration in force, secrets redacted."`
}

type configCheckCmd struct{ source }

func (c configCheckCmd) Run() error {
	cfg, err := c.load(configs.Serve)
	if err != nil {
		return err
	}
	if err := ledger.CheckDSN(cfg.Ledger.Driver, cfg.Ledger.DSN); err != nil {
		return err
	}
	for _, w := range cfg.Warnings(configs.Serve) {
		fmt.Println("warning:", w)
	}
	fmt.Println("ok")
	return nil
}

type configPrintCmd struct{ source }

func (c configPrintCmd) Run() error {
	cfg, err := configs.Load(c.File, os.Environ())
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(cfg.Print(true))
	return err
}
