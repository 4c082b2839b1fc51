package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"flashgate/audit"
	"flashgate/ledger"
	"flashgate/results"
	"flashgate/sale"
)

// auditedLedger is the ledger as the audit reads it.
type auditedLedger struct{ *ledger.DB }

func (l auditedLedger) Checks(ctx context.Context, findings int, fn func(sale.Checked) error) error {
	return l.AuditChecks(ctx, ledger.AuditBounds{Findings: findings}, fn)
}

func (l auditedLedger) Snapshot(ctx context.Context, fn func(audit.Snapshot) error) error {
	return l.InSnapshot(ctx, func(s *ledger.Snapshot) error { return fn(s) })
}

// auditedResults is NATS as the audit reads it.
type auditedResults struct {
	*results.Conn
	backlog *results.Backlog
}

func (r auditedResults) Extent(ctx context.Context) (last uint64, since int64, err error) {
	e, err := r.Conn.Extent(ctx)
	return e.Last, e.Since, err
}

func (auditedResults) Decode(payload []byte) (sale.Kind, []sale.Order, error) {
	return results.Decode(payload)
}

func (r auditedResults) Parked(ctx context.Context, sku string) (int64, error) {
	return r.backlog.Units(ctx, sku)
}

// reported is the auditor as the operators' listener asks it.
type reported struct{ *audit.Auditor }

func (r reported) Audit(ctx context.Context) ([]byte, error) {
	report, err := r.Auditor.Audit(ctx)
	if err != nil {
		return nil, err
	}
	return report.AppendJSON(nil), nil
}

type auditCmd struct {
	source
	JSON    bool          `help:"Print the report as JSON."`
	Strict  bool          `help:"Fail on warnings too: a shield that differs from the ledger breaks no promise, but costs speed."`
	Timeout time.Duration `default:"30m" help:"Give up after this long."`
}

func (c auditCmd) Run(ctx context.Context) error {
	return withParts(ctx, c.source, func(ctx context.Context, p *parts) error {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		a, err := p.auditor()
		if err != nil {
			return err
		}
		report, err := a.Audit(ctx)
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
