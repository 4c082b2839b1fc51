package fallback

import (
	"context"

	"flashgate/sale"
)

// Backlog is what the sale calls of the durable backlog. See results for what each
// method does.
type Backlog interface {
	Usable() bool
	Park(ctx context.Context, sku string, claims []sale.Parked) []error
	Waiting(sku string) int64
	Drained(ctx context.Context, sku string) bool
}

// GuardedBacklog is the backlog behind the breaker of NATS. What is parked is not
// counted: a claim's own time bounds it, and the probe sees a server that is away.
type GuardedBacklog struct {
	Backlog
	breaker *Breaker
}

// GuardBacklog puts the breaker in front of the backlog.
func GuardBacklog(b Backlog, breaker *Breaker) *GuardedBacklog {
	return &GuardedBacklog{b, breaker}
}

// Usable reports whether a claim could be parked now.
func (g *GuardedBacklog) Usable() bool { return g.breaker.Usable() && g.Backlog.Usable() }
