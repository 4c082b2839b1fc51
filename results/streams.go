package results

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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

// streams is how the configuration wants them.
func (c *Conn) streams() []jetstream.StreamConfig {
	cfg := &c.cfg.Streams
	var metadata map[string]string
	if own := c.owner(); own != "" {
		metadata = map[string]string{ownerKey: own}
	}
	return []jetstream.StreamConfig{
		{
			Name:        c.names.results,
			Description: "Every state change of every order, and what other services have to do about it.",
			// The refusal counts on flashgate.stats are not kept.
			Subjects:   []string{c.names.root + "results.>", c.names.root + "coupons.>", c.names.root + "inventory.>", c.names.root + "payments.>"},
			Storage:    jetstream.FileStorage,
			Replicas:   cfg.Replicas,
			Metadata:   metadata,
			Retention:  jetstream.LimitsPolicy,
			MaxAge:     cfg.MaxAge,
			Duplicates: c.duplicates,

			AllowAtomicPublish: true,
		},
		{
			Name:        c.names.backlog,
			Description: "Claims that were admitted while the ledger was away, until it decides them.",
			Subjects:    []string{c.names.parked("*")},
			Storage:     jetstream.FileStorage,
			Replicas:    cfg.Replicas,
			Metadata:    metadata,
			// A claim leaves when the drainer deletes it, and a full backlog refuses the
			// new one: a parked claim is never pushed out.
			Retention:  jetstream.LimitsPolicy,
			Discard:    jetstream.DiscardNew,
			MaxMsgs:    cfg.BacklogCapacity,
			Duplicates: c.duplicates,

			AllowAtomicPublish: true,
		},
	}
}

// ownerKey is where a stream's metadata say whose it is.
const ownerKey = "flashgate_installation"

// owner is the identity that this gateway's streams have, "" as long as it is not known.
func (c *Conn) owner() string {
	if c.cfg.Installation == nil {
		return ""
	}
	return c.cfg.Installation()
}

// errOwner says that a stream is another installation's. Its orders are not ours, however
// alike its SKUs are called.
var errOwner = errors.New("it belongs to another installation")

// checkOwner compares whose a stream is with whose this gateway is, where both are known.
func (c *Conn) checkOwner(have *jetstream.StreamConfig) error {
	of, own := have.Metadata[ownerKey], c.owner()
	if of == "" || own == "" || of == own {
		return nil
	}
	return fmt.Errorf("%w: stream %s is %s's, and the ledger is %s's: give each a namespace, or a NATS", errOwner, have.Name, of, own)
}

// difference is something in which a stream is not as the configuration says.
type difference struct {
	what  string
	fatal bool // as long as it is so, the stream cannot be used
	mend  func(*jetstream.StreamConfig)
}

// oneByOne is what keeps a stream from taking messages together.
const oneByOne = "it takes messages one by one only"

// differences compares only what the configuration speaks of: placement, size and the
// like are for operators to set. What could lose a parked claim is fatal.
func differences(have, want *jetstream.StreamConfig) []difference {
	var out []difference
	add := func(differs, fatal bool, mend func(*jetstream.StreamConfig), what string, args ...any) {
		if differs {
			out = append(out, difference{fmt.Sprintf(what, args...), fatal, mend})
		}
	}
	parked := want.Discard == jetstream.DiscardNew // the backlog, whatever it is called
	for _, subject := range want.Subjects {
		covered := slices.ContainsFunc(have.Subjects, func(s string) bool { return covers(s, subject) })
		add(!covered, true, func(c *jetstream.StreamConfig) { c.Subjects = append(slices.Clone(c.Subjects), subject) }, "it does not take %s", subject)
	}
	add(have.Retention != want.Retention, true, func(c *jetstream.StreamConfig) { c.Retention = want.Retention },
		"its retention is %s, not %s", have.Retention, want.Retention)
	add(have.NoAck, true, func(c *jetstream.StreamConfig) { c.NoAck = false }, "it acknowledges nothing")
	add(have.Storage != want.Storage, parked, func(c *jetstream.StreamConfig) { c.Storage = want.Storage },
		"its storage is %s, not %s", have.Storage, want.Storage)
	add(have.Replicas != want.Replicas, false, func(c *jetstream.StreamConfig) { c.Replicas = want.Replicas },
		"it has %d replicas, not %d", have.Replicas, want.Replicas)
	add(have.Duplicates < want.Duplicates, false, func(c *jetstream.StreamConfig) { c.Duplicates = want.Duplicates },
		"it knows repeats for %v, not for %v", have.Duplicates, want.Duplicates)
	if own := want.Metadata[ownerKey]; own != "" {
		add(have.Metadata[ownerKey] == "", false, func(c *jetstream.StreamConfig) {
			c.Metadata = maps.Clone(c.Metadata)
			if c.Metadata == nil {
				c.Metadata = make(map[string]string)
			}
			c.Metadata[ownerKey] = own
		}, "it does not say whose it is")
	}
	add(!have.AllowAtomicPublish, false, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true },
		oneByOne)
	add(have.MaxAge != want.MaxAge, parked, func(c *jetstream.StreamConfig) { c.MaxAge = want.MaxAge },
		"it keeps messages for %v, not for %v (0s is for ever)", have.MaxAge, want.MaxAge)
	if parked {
		add(have.Discard != want.Discard, true, func(c *jetstream.StreamConfig) { c.Discard = want.Discard }, "when it is full it drops what is parked")
		add(have.MaxMsgsPerSubject > 0, true, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = -1 }, "it keeps only %d claims of a SKU", have.MaxMsgsPerSubject)
		add(have.MaxMsgs != want.MaxMsgs, false, func(c *jetstream.StreamConfig) { c.MaxMsgs = want.MaxMsgs },
			"it has room for %d claims, not for %d", have.MaxMsgs, want.MaxMsgs)
	}
	return out
}

// covers reports whether a stream with the subject gets all that is published on the
// other one.
func covers(subject, other string) bool {
	have, want := strings.Split(subject, "."), strings.Split(other, ".")
	for i, token := range have {
		switch {
		case token == ">":
			return len(want) > i
		case i >= len(want) || want[i] == ">" || token != "*" && token != want[i]:
			return false
		}
	}
	return len(have) == len(want)
}
