package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"flashgate/configs"
	"flashgate/deduct"
	"flashgate/ledger"
	"flashgate/results"
	"flashgate/sale"
)

// devCmd is everything in one process: the same code path as serve, with the SQLite
// ledger, an in-process Redis and an embedded NATS plugged in.
type devCmd struct {
	source
	Data string `default:"./data" type:"path" help:"Where the ledger and the results are kept."`
}

// demoSKU is what a newcomer buys first.
const demoSKU = "demo-sneaker"

func (d devCmd) Run(ctx context.Context) error {
	cfg, err := configs.LoadOver(configs.Default(configs.Dev), d.File, os.Environ())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.Data, 0o700); err != nil {
		return err
	}
	held, err := holdDir(d.Data)
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }()
	if cfg.Admin.Key == "" {
		if cfg.Admin.Key, err = keptKey(filepath.Join(d.Data, "admin.key")); err != nil {
			return err
		}
	}
	cfg.Ledger.Driver = "sqlite"
	if cfg.Ledger.DSN == "" {
		cfg.Ledger.DSN = filepath.Join(d.Data, "ledger.db")
	}
	if err := cfg.Validate(configs.Dev); err != nil {
		return err
	}
	if err := keepPrivate(d.Data, cfg.Ledger.DSN); err != nil {
		return err
	}
	log := newLogger(cfg.Log)
	if err := ledger.Migrate(ctx, ledgerConfig(cfg, log, nil)); err != nil {
		return err
	}
	redis, err := deduct.StartEmbedded()
	if err != nil {
		return err
	}
	cfg.Redis.Addrs = []string{redis.Addr()}
	nats, err := results.NewEmbedded(results.EmbeddedConfig{Dir: filepath.Join(d.Data, "nats"), SyncInterval: time.Second, Log: log})
	if err != nil {
		return err
	}
	a, err := newApp(cfg, log, nats)
	if err != nil {
		return err
	}
	stages := append(a.stages(), stage{"embedded redis", redis.Run}, stage{"embedded nats", nats.Run})
	greeting := stage{"greeting", func(ctx context.Context) error { return a.greet(ctx, cfg) }}
	return runStages(ctx, log, cfg.Server.DrainDelay+cfg.Server.ShutdownTimeout, append([]stage{greeting}, stages...))
}

// greet seeds the demo SKU once the ledger is there, says where everything is, and
// waits for the end.
func (a *app) greet(ctx context.Context, cfg configs.Config) error {
	if !await(ctx, func() bool { return a.ledger.Ready() && a.gateway.BuyersAddr() != nil }) {
		return nil
	}
	if err := a.seed(ctx, cfg.PayWithin); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	buyers, operators := urlOf(a.gateway.BuyersAddr().String(), cfg.Server.TLS), urlOf(a.gateway.OperatorsAddr().String(), cfg.Admin.TLS)
	fmt.Printf(`
flashgate dev: everything in this one process, for one machine only. Do not sell with it.

  buyers     %s
  operators  %s
  admin key: %s

Buy one, as a buyer named alice:

curl -i -X POST %s/v1/skus/%s/orders -H 'X-User-ID: alice' -H 'Content-Type: application/json' -d '{"quantity":1}'

What is left of it: GET %s/v1/skus/%s
with the header Authorization: Bearer %s

Ctrl-C drains and stops. Orders are kept; start again and they are there.

`, buyers, operators, cfg.Admin.Key, buyers, demoSKU, operators, demoSKU, cfg.Admin.Key)
	<-ctx.Done()
	return nil
}

// seed puts the demo SKU on sale, unless it is there already.
func (a *app) seed(ctx context.Context, payWithin time.Duration) error {
	_, err := a.ledger.SKU(ctx, demoSKU)
	if !errors.Is(err, sale.ErrUnknownSKU) {
		return err
	}
	_, _, _, err = a.ledger.PutSKU(ctx, sale.SKU{
		Name: demoSKU, Title: "Demo sneaker", UnitPrice: 4999, Currency: "EUR",
		PayWithin: payWithin.Milliseconds(), State: sale.StateOpen, Heat: sale.HeatHot, Segments: 1,
	}, sale.Stock{Total: 1000}, sale.Expect{})
	return err
}

// keepPrivate has nobody else of this machine read orders, also where the directory was there
// before and is open to them. SQLite gives its other files the mode of the first.
func keepPrivate(dir, file string) error {
	if err := os.MkdirAll(filepath.Join(dir, "nats"), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(dir, "nats"), 0o700); err != nil { //nolint:gosec // a directory
		return err
	}
	if filepath.Dir(file) != filepath.Clean(dir) {
		return nil // its owner's to decide
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

// keptKey reads the operators' key of this data directory, or makes one.
func keptKey(path string) (string, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(key))) >= 16 {
		return strings.TrimSpace(string(key)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	fresh := "dev-" + strings.ToLower(rand.Text())
	return fresh, os.WriteFile(path, []byte(fresh+"\n"), 0o600)
}
