package results

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"flashgate/sale"

	"github.com/prometheus/client_golang/prometheus"
)

// StatsConfig is what a Stats needs to know.
type StatsConfig struct {
	// Now is the clock of the time in the messages (Unix ms).
	Now func() int64

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// The counts are published every second: a sale is over in minutes.
	statsEvery = time.Second
	// So many SKUs are counted within a second, further ones not until the next: this
	// bounds the memory, and the messages a second.
	statsSKUs = 4096
)

// Stats publishes how many claims of each SKU were refused, and why, per second, on
// the core subject flashgate.stats.<sku>: {"sku":"...","at":"...","refused":{"sold_out":17}}.
// The counts are of this gateway, only of the period just ended, and are not kept: a
// subscriber adds up what the gateways say.
type Stats struct {
	cfg  StatsConfig
	conn *Conn

	// The constants above, but for tests.
	every   time.Duration
	maxSKUs int

	mu     sync.Mutex
	counts map[string]*refusals

	overflow prometheus.Counter
}

// refusals is indexed by outcome; the refusals lie between Conflict and TimedOut.
type refusals [sale.TimedOut + 1]int64

// NewStats starts nothing; Run does.
func NewStats(cfg StatsConfig, conn *Conn) (*Stats, error) {
	if cfg.Now == nil {
		return nil, errors.New("the refusal counts need a clock")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Stats{
		cfg: cfg, conn: conn, every: statsEvery, maxSKUs: statsSKUs, counts: make(map[string]*refusals),
		overflow: counter(cfg.Registerer, "flashgate_stats_overflow_total", "Refusals not counted per SKU because too many SKUs were."),
	}, nil
}

// Count adds n claims of the SKU that got this outcome; outcomes that are no refusals
// are not counted. It is cheap enough to be called per verdict, and meant to be
// called per batch.
func (s *Stats) Count(sku string, o sale.Outcome, n int) {
	if n <= 0 || !o.Refusal() {
		return
	}
	s.mu.Lock()
	r := s.counts[sku]
	if r == nil && len(s.counts) < s.maxSKUs {
		r = new(refusals)
		s.counts[sku] = r
	}
	if r != nil {
		r[o] += int64(n)
	}
	s.mu.Unlock()
	if r == nil {
		s.overflow.Add(float64(n))
	}
}

// Run publishes the counts every period until ctx ends. What cannot be published is
// forgotten: the counts are for watching, not for booking.
func (s *Stats) Run(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.publish()
			return nil
		case <-tick.C:
			s.publish()
		}
	}
}

func (s *Stats) publish() {
	s.mu.Lock()
	counts := s.counts
	s.counts = make(map[string]*refusals)
	s.mu.Unlock()
	if len(counts) == 0 || !s.conn.Connected() {
		return
	}
	at := s.cfg.Now()
	for sku, r := range counts {
		if err := s.conn.nc.Publish(s.conn.names.refused(sku), r.appendJSON(nil, sku, at)); err != nil {
			s.cfg.Log.Debug("refusal counts could not be published", "err", err)
			return
		}
	}
}

func (r *refusals) appendJSON(b []byte, sku string, at int64) []byte {
	b = append(b, `{"sku":`...)
	b = sale.AppendString(b, sku)
	b = append(b, `,"at":"`...)
	b = sale.AppendTime(b, at)
	b = append(b, `","refused":{`...)
	first := true
	for o, n := range r {
		if n == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = sale.AppendString(b, sale.Outcome(o).String())
		b = append(b, ':')
		b = strconv.AppendInt(b, n, 10)
	}
	return append(b, '}', '}')
}
