// Command flashgate is a flash-sale gateway: it decides, per SKU and at the speed of
// memory, who gets the stock, and never says yes before the ledger has committed it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"flashgate/configs"
)

// cli is the command line. Everything else is configuration: a file and environment.
type cli struct {
	Dev       devCmd       `cmd:"" help:"Everything in one process on loopback, for one machine: nothing to install."`
	Serve     serveCmd     `cmd:"" help:"A gateway on real Redis, MySQL or MariaDB, and NATS."`
	Migrate   migrateCmd   `cmd:"" help:"Create or update the ledger's tables."`
	SKU       skuCmd       `cmd:"" name:"sku" help:"Look at, or put, SKUs, straight in the ledger."`
	Audit     auditCmd     `cmd:"" help:"Hold every invariant against ledger, results and shield; list what is broken, and exit 1."`
	Reconcile reconcileCmd `cmd:"" help:"Hold what is tentative in the shield against the ledger, and repair it."`
	Restore   restoreCmd   `cmd:"" help:"Put published orders back into a ledger that has lost them; list what cannot be, and exit 1."`
	Config    configCmd    `cmd:"" help:"Check or print the configuration."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	k := kong.Parse(&c, kong.Name("flashgate"), kong.UsageOnError(),
		kong.Description("A flash-sale gateway that never oversells and never loses a yes."))
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "flashgate:", err)
		os.Exit(1)
	}
}

// source is where the configuration comes from besides the environment.
type source struct {
	File string `short:"c" name:"config" type:"path" placeholder:"FILE" help:"Configuration file (YAML); the environment stands over it."`
}

// load reads and checks the configuration.
func (s source) load(mode configs.Mode) (configs.Config, error) {
	return configs.Check(mode, s.File, os.Environ())
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println(version())
	return nil
}

// version is the module's version and revision as the build knows them.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "flashgate (unknown)"
	}
	v := "flashgate " + info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v += " " + s.Value
		}
	}
	return v + " " + info.GoVersion
}

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
