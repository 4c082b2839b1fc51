package app

import (
	"context"

	"flashgate/audit"
	"flashgate/ledger"
	"flashgate/results"
	"flashgate/sale"
)

// auditedLedger is the ledger as the audit reads it.
type auditedLedger struct{ *ledger.DB }

func (l auditedLedger) Checks(ctx context.Context, findings int, skus []string, fn func(sale.Checked) error) error {
	return l.AuditChecks(ctx, findings, skus, fn)
}

func (l auditedLedger) Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	return l.FindEver(ctx, ids)
}

func (l auditedLedger) Snapshot(ctx context.Context, fn func(audit.Snapshot) error) error {
	return l.InSnapshot(ctx, func(s *ledger.Snapshot) error { return fn(s) })
}

// auditedResults is NATS as the audit reads it.
type auditedResults struct {
	*results.Conn
	backlog *results.Backlog
}

func (auditedResults) Decode(payload []byte) (sale.Kind, []sale.Order, error) {
	return results.Decode(payload)
}

func (r auditedResults) Parked(ctx context.Context, sku string) (int64, error) {
	units, err := r.backlog.Units(ctx, []string{sku})
	return units[sku], err
}

// reported is the auditor as the operators' listener asks it.
type reported struct{ *audit.Auditor }

func (r reported) Audit(ctx context.Context, since sale.AuditPosition) ([]byte, error) {
	report, err := r.Auditor.Audit(ctx, since)
	if err != nil {
		return nil, err
	}
	return report.AppendJSON(nil), nil
}
