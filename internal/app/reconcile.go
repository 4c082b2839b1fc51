package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashgate/sale"
)

type reconcileCmd struct {
	source
	Rebuild bool     `help:"Also load the shield of every SKU that has one anew from the ledger, or of the SKUs that are named. A sale goes on meanwhile, around it."`
	Sums    bool     `help:"Also compute stock's sold and buyers' units anew where they are not what the orders hold. Reads every order."`
	SKUs    []string `arg:"" optional:"" name:"sku" help:"With --rebuild: only these."`
}

func (c reconcileCmd) Run(ctx context.Context) error {
	if len(c.SKUs) > 0 && !c.Rebuild {
		return errors.New("SKUs are named only with --rebuild")
	}
	return withParts(ctx, c.source, func(ctx context.Context, p *parts) error {
		switch {
		case p.shield == nil:
			return errors.New("redis.addrs: there is no shield to reconcile")
		case p.nats == nil:
			return errors.New("nats.url: what is parked there must not be taken for units that nobody wants")
		}
		if err := p.lookAtBacklog(ctx); err != nil {
			return err
		}
		report, err := p.shield.Reconcile(ctx)
		if err != nil && !errors.Is(err, sale.ErrPartly) {
			return err
		}
		fmt.Printf("%v\n", report)
		if c.Sums {
			err = errors.Join(err, p.ledger.Repair(ctx))
		}
		if c.Rebuild {
			err = errors.Join(err, p.rebuild(ctx, c.SKUs))
		}
		return err
	})
}

// rebuild loads the named SKUs' shields anew, or all that are loaded. One that fails
// holds up no other.
func (p *parts) rebuild(ctx context.Context, skus []string) error {
	if len(skus) == 0 {
		var err error
		if skus, err = p.shield.Loaded(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for _, sku := range skus {
		began := time.Now()
		if err := p.reload(ctx, sku); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Printf("%s: loaded anew in %v\n", sku, time.Since(began).Round(time.Millisecond))
	}
	return errors.Join(errs...)
}

// lookAtBacklog learns which SKUs have a backlog, and gives NATS a while to answer.
func (p *parts) lookAtBacklog(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*natsPatience)
	defer cancel()
	if await(ctx, func() bool { err = p.backlog.Look(ctx); return err == nil }) {
		return nil
	}
	return err
}
