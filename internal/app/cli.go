// Package app is the command line, and the one place where the parts are joined. Rules
// about orders, stock or the shield belong to the parts.
package app

import (
	"context"
	"fmt"
	"os"
	"os/signal"
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
	Erase     eraseCmd     `cmd:"" help:"Put a pseudonym in the place of a user id in all finished orders; list what has to stay for now, and exit 1."`
	Health    healthCmd    `cmd:"" help:"Ask the gateway on this machine whether it is alive; exit 1 if it is not."`
	Config    configCmd    `cmd:"" help:"Check or print the configuration."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
}

// Main runs the command that the process's arguments name, until it ends or a signal
// ends it, and returns the exit code.
func Main() int {
	// Signals are caught to the end: one that comes again while the process ends must not
	// make a failure of it.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var c cli
	k := kong.Parse(&c, kong.Name("flashgate"), kong.UsageOnError(),
		kong.Description("A flash-sale gateway that never oversells and never loses a yes."))
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "flashgate:", err)
		return 1
	}
	return 0
}

// source is where the configuration comes from besides the environment.
type source struct {
	File string `short:"c" name:"config" type:"path" placeholder:"FILE" help:"Configuration file (YAML); the environment stands over it."`
}

// load reads and checks the configuration.
func (s source) load(mode configs.Mode) (configs.Config, error) {
	return configs.Check(mode, s.File, os.Environ())
}
