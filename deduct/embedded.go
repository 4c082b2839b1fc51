package deduct

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// Embedded is an in-process Redis for dev mode: in memory, on loopback, with no password.
type Embedded struct{ server *miniredis.Miniredis }

// StartEmbedded listens on a free loopback port. The caller must call Run, which ends it.
func StartEmbedded() (*Embedded, error) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("deduct: embedded Redis: %w", err)
	}
	return &Embedded{server: m}, nil
}

// Addr is the server's host:port.
func (e *Embedded) Addr() string { return e.server.Addr() }

// Run lets keys expire, which the server does not do by itself, until ctx ends; then it
// closes the server.
func (e *Embedded) Run(ctx context.Context) error {
	for pause(ctx, time.Second) == nil {
		e.server.FastForward(time.Second)
	}
	e.server.Close()
	return nil
}
