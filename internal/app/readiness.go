package app

import (
	"flashgate/ledger"
	"flashgate/results"
)

// readiness is what /readyz goes by: the ledger; and what it has to say besides: the
// streams.
type readiness struct {
	ledger *ledger.DB
	nats   *results.Conn
}

func (r readiness) Ready() bool { return r.ledger.Ready() }

func (r readiness) Details() []string { return r.nats.Details() }
