package results

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// duplicateWindow is how long the streams remember message ids. A repeat that comes
// later is delivered twice; the server keeps every id of the window in memory.
const duplicateWindow = 30 * time.Second

// StreamConfig is how the streams are kept. The storage is always files.
type StreamConfig struct {
	// Replicas is on how many servers each message stands before it is acknowledged:
	// 1 on a single server, 3 in production; odd, at most 5.
	Replicas int
	// MaxAge is how long results are kept; zero is for ever. Too short, and restore
	// and slow consumers miss events; too long fills the disk.
	MaxAge time.Duration
	// BacklogCapacity is how many messages the backlog has before it refuses more.
	BacklogCapacity int64
}

func (s *StreamConfig) validate() error {
	switch {
	case *s == (StreamConfig{}):
		return nil
	case s.Replicas < 1 || s.Replicas > 5 || s.Replicas%2 == 0:
		return errors.New("nats.replicas must be 1, 3 or 5")
	case s.MaxAge < 0 || (s.MaxAge > 0 && s.MaxAge < duplicateWindow):
		return fmt.Errorf("the age of results must be 0 or at least %v", duplicateWindow)
	case s.BacklogCapacity < 1:
		return errors.New("the backlog's capacity must be positive")
	}
	return nil
}

// ensureStreams creates the streams, or brings them to what the configuration says.
func (c *Conn) ensureStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, s := range c.streams() {
		if _, err := c.js.CreateOrUpdateStream(ctx, s); err != nil {
			return fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	c.ensured.Store(true)
	return nil
}

func (c *Conn) streams() []jetstream.StreamConfig {
	cfg := &c.cfg.Streams
	return []jetstream.StreamConfig{
		{
			Name:        resultsStream,
			Description: "Every state change of every order, and what other services have to do about it.",
			// The refusal counts on flashgate.stats are not kept.
			Subjects:   []string{"flashgate.results.>", "flashgate.coupons.>", "flashgate.inventory.>", "flashgate.payments.>"},
			Storage:    jetstream.FileStorage,
			Replicas:   cfg.Replicas,
			Retention:  jetstream.LimitsPolicy,
			MaxAge:     cfg.MaxAge,
			Duplicates: c.duplicates,
		},
		{
			Name:        backlogStream,
			Description: "Claims that were admitted while the ledger was away, until it decides them.",
			Subjects:    []string{backlogPrefix + "*"},
			Storage:     jetstream.FileStorage,
			Replicas:    cfg.Replicas,
			// A claim leaves when the drainer deletes it, and a full backlog refuses the
			// new one: a parked claim is never pushed out.
			Retention:  jetstream.LimitsPolicy,
			Discard:    jetstream.DiscardNew,
			MaxMsgs:    cfg.BacklogCapacity,
			Duplicates: c.duplicates,
		},
	}
}
