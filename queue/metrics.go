package queue

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the queue's figures. Every method works when none were registered.
type metrics struct {
	batch   prometheus.Histogram
	settle  prometheus.Histogram
	expired prometheus.Counter
}

func (m *metrics) register(r prometheus.Registerer, q *Queue) error {
	m.batch = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "flashgate_queue_batch_claims", Help: "Claims per batch.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 11),
	})
	m.settle = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "flashgate_queue_settle_seconds", Help: "From a batch's beginning to its verdicts.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
	})
	m.expired = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashgate_queue_timeouts_total", Help: "Claims rejected because they waited longer than queue.max_age.",
	})
	if r == nil {
		return nil
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "flashgate_queue_waiting", Help: "Claims without a verdict, all SKUs.",
	}, func() float64 { return float64(q.Waiting()) })
	for _, c := range []prometheus.Collector{m.batch, m.settle, m.expired, waiting} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) settled(n int, d time.Duration) {
	m.batch.Observe(float64(n))
	m.settle.Observe(d.Seconds())
}

func (m *metrics) timedOut(n int) { m.expired.Add(float64(n)) }
