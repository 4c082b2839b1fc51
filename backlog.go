package main

import (
	"context"
	"time"

	"flashgate/fallback"
	"flashgate/results"
	"flashgate/sale"
)

// parking is the durable backlog as claims reach it: behind the breaker of NATS.
type parking struct {
	*results.Backlog
	conn    *results.Conn
	breaker *fallback.Breaker
}

func (p parking) Usable() bool { return p.breaker.Usable() && p.conn.Connected() }

// drainOnce settles what is parked. It runs in one gateway at a time, under a lease of
// the ledger, so it begins when the ledger is back.
func (a *app) drainOnce(ctx context.Context, _ int64) error {
	if !a.breakers.ledger.Usable() || !a.breakers.nats.Usable() || !a.nats.Ready() {
		return nil // what is parked can wait
	}
	return answered(a.backlog.Drain(ctx, a.checkout.SettleParked))
}

// probeTimeout is how long the ledger may take to answer a probe.
const probeTimeout = 2 * time.Second

// probeLedger asks the ledger for next to nothing. While claims are parked nothing else
// may call it, and its breaker would not learn that it is back.
func (a *app) probeLedger(ctx context.Context, _ int64) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// The ledger and the breaker say what is wrong.
	_ = a.breakers.ledger.Do(ctx, func(ctx context.Context) error {
		_, err := a.ledger.Find(ctx, []sale.OrderID{{}})
		return err
	})
	return nil
}
