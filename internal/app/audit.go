package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"flashgate/audit"
	"flashgate/sale"
)

type auditCmd struct {
	source
	JSON    bool          `help:"Print the report as JSON."`
	Strict  bool          `help:"Fail on warnings too: a shield that differs from the ledger breaks no promise, but costs speed."`
	Since   string        `placeholder:"POSITION" help:"Look only at what was done since this position, which an audit before has printed."`
	Timeout time.Duration `default:"30m" help:"Give up after this long."`
}

func (c auditCmd) Run(ctx context.Context) error {
	var since sale.AuditPosition
	if c.Since != "" {
		var err error
		if since, err = sale.ParseAuditPosition(c.Since); err != nil {
			return err
		}
	}
	return withParts(ctx, c.source, func(ctx context.Context, p *parts) error {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		a, err := p.auditor()
		if err != nil {
			return err
		}
		report, err := a.Audit(ctx, since)
		if err != nil {
			return err
		}
		if c.JSON {
			_, err = fmt.Fprintf(os.Stdout, "%s\n", report.AppendJSON(nil))
		} else {
			err = report.WriteText(os.Stdout)
		}
		switch {
		case err != nil:
			return err
		case !report.OK():
			return errors.New("the audit found what must not be, or could not look")
		case c.Strict && report.Warned():
			return errors.New("the audit has warnings")
		}
		return nil
	})
}

func (p *parts) auditor() (*audit.Auditor, error) {
	// A nil pointer in an interface is no nil.
	var shield audit.Shield
	if p.shield != nil {
		shield = p.shield
	}
	var stream audit.Results
	if p.nats != nil {
		stream = auditedResults{p.nats, p.backlog}
	}
	// A command has memory that a gateway needs for buyers.
	return audit.New(audit.Config{MaxOrders: 8 << 20}, auditedLedger{p.ledger}, shield, stream)
}
