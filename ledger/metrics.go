package ledger

import "github.com/prometheus/client_golang/prometheus"

// metrics are the ledger's figures. Without a registerer they count unseen.
type metrics struct {
	groups      *prometheus.CounterVec // by path: optimistic, lock_first
	claims      prometheus.Histogram
	seconds     prometheus.Histogram
	regroups    prometheus.Counter
	retries     *prometheus.CounterVec // by cause: contended, held, unknown
	waiting     prometheus.Gauge
	held        prometheus.Gauge // SKUs in quarantine
	quarantined prometheus.Counter
	changes     *prometheus.CounterVec // of orders, by what they became
	late        prometheus.Histogram
	unexpired   prometheus.Gauge
	unarchived  prometheus.Gauge
	seen        prometheus.Gauge       // the position of the last change of a SKU that was looked at
	repaired    *prometheus.CounterVec // by table and result
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		groups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flashgate_ledger_groups_total", Help: "Transactions committed, by path.",
		}, []string{"path"}),
		claims: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "flashgate_ledger_group_claims", Help: "Claims per group.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 12),
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "flashgate_ledger_group_seconds", Help: "Time a group took from its first statement to its last verdict.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		regroups: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flashgate_ledger_regroups_total", Help: "Optimistic groups that a constraint refused.",
		}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flashgate_ledger_retries_total", Help: "Transactions tried again, by cause.",
		}, []string{"cause"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flashgate_ledger_waiting_claims", Help: "Claims that wait for a committer.",
		}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flashgate_ledger_held_skus", Help: "SKUs whose claims wait apart, because another transaction holds rows of theirs.",
		}),
		quarantined: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flashgate_ledger_quarantines_total", Help: "Times that the claims of a SKU began to wait apart.",
		}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flashgate_ledger_order_changes_total", Help: "What this gateway made of orders after their reservation.",
		}, []string{"to"}),
		late: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "flashgate_ledger_expiry_late_seconds", Help: "Time from an order's pay_by to its expiry, per transaction.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 12),
		}),
		unexpired: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flashgate_ledger_expiry_left_skus", Help: "SKUs whose due orders the last run could not end, because their rows are held or contradict each other.",
		}),
		unarchived: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flashgate_ledger_archive_left_skus", Help: "SKUs whose orders the last run could not archive or delete, because their rows are held or contradict each other.",
		}),
		repaired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flashgate_repairs_total", Help: "Rows of the ledger that disagreed with its orders, by table and whether they could be repaired.",
		}, []string{"table", "result"}),
		seen: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flashgate_ledger_changes_seen", Help: "Position, in the order of commits, up to which this gateway has seen changes of SKUs.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.groups, m.claims, m.seconds, m.regroups, m.retries, m.waiting, m.held, m.quarantined, m.changes, m.late, m.unexpired, m.unarchived, m.repaired, m.seen} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) changed(to string, orders int) {
	m.changes.WithLabelValues(to).Add(float64(orders))
}
