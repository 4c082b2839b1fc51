package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"flashgate/audit"
	"flashgate/sale"
)

type restoreCmd struct {
	source
	DryRun bool `help:"Only say what the ledger lacks."`
	Adopt  bool `help:"The ledger was made anew: it takes the identity of the installation whose events these are. No gateway may be running."`
}

// adopt gives a ledger that was made anew the identity that the results stream carries.
// Without being asked to, nothing of another installation is put into a ledger.
func (c restoreCmd) adopt(ctx context.Context, p *parts) error {
	if p.nats == nil {
		return errors.New("nats.url: there is nothing to restore from")
	}
	// What is only said changes no copy.
	p.shieldless = c.DryRun
	owner, err := p.nats.Owner(ctx)
	own := p.ledger.Installation()
	switch {
	case err != nil || owner == "" || owner == own:
		return err
	case !c.Adopt:
		return fmt.Errorf("the results stream is that of installation %s, and the ledger is that of %s: if the ledger was made anew, restore --adopt", owner, own)
	case c.DryRun:
		fmt.Printf("would make the ledger that of installation %s\n", owner)
		return nil
	}
	if err := p.ledger.Adopt(ctx, owner); err != nil {
		return err
	}
	fmt.Printf("the ledger is that of installation %s now, and was that of %s\n", owner, own)
	return nil
}

func (c restoreCmd) Run(ctx context.Context) error {
	return withPartsAfter(ctx, c.source, c.adopt, func(ctx context.Context, p *parts) error {
		r, err := audit.NewRestorer(audit.RestoreConfig{DryRun: c.DryRun}, auditedLedger{p.ledger}, auditedResults{p.nats, p.backlog})
		if err != nil {
			return err
		}
		sum, err := r.Run(ctx, func(r audit.Restored) error { return c.print(&r) })
		p.reloadRestored(ctx, sum.SKUs)
		if sum.Since != 0 {
			fmt.Printf("the results stream begins at %s: what was published before is not on it any more\n", sale.FormatTime(sum.Since))
		}
		fmt.Printf("%d events on the results stream, %d orders lacked, %d restored, %d not restored\n", sum.Events, sum.Lacked, sum.Done, sum.Failed)
		if err == nil && sum.Failed > 0 {
			err = fmt.Errorf("%d orders could not be put back", sum.Failed)
		}
		return err
	})
}

// print writes a line for one order.
func (c restoreCmd) print(r *audit.Restored) error {
	what := "restored"
	switch {
	case c.DryRun:
		what = "would restore"
	case r.Err != nil:
		what = "NOT RESTORED (" + r.Err.Error() + ")"
	case !r.OK():
		what = "NOT RESTORED (" + r.Result.String() + ")"
	case r.Result == sale.RestoreExists:
		what = "exists"
	}
	o := &r.Order
	_, err := fmt.Printf("%s: order %s, sku %s, user %s, %d units, %s (the ledger had: %s)\n",
		what, o.ID, o.SKU, o.User, o.Quantity, o.Status, cmp.Or(r.Had.String(), "nothing"))
	return err
}

// reloadRestored has the shield learn of orders that were put back behind its back.
// Where it cannot, the ledger refuses what it lets through too many.
func (p *parts) reloadRestored(ctx context.Context, skus []string) {
	if p.shield == nil || len(skus) == 0 {
		return
	}
	loaded, err := p.shield.Loaded(ctx)
	for _, sku := range skus {
		if err == nil && slices.Contains(loaded, sku) {
			err = p.reload(ctx, sku)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "flashgate: the shield does not know what was restored; run reconcile --rebuild:", err)
	}
}
