package jobs

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are labelled by job; in a gateway that does not lead a job, its figures
// stand still.
type metrics struct {
	leader, lastSuccess, lastError *prometheus.GaugeVec
	errors, givenUp                *prometheus.CounterVec
	duration                       *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	label := []string{"job"}
	m := &metrics{
		leader: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flashgate_job_leader", Help: "1 while this gateway holds the job's lease.",
		}, label),
		lastSuccess: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flashgate_job_last_success_timestamp_seconds", Help: "When the job last succeeded in this gateway.",
		}, label),
		lastError: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flashgate_job_last_error_timestamp_seconds", Help: "When the job last failed in this gateway.",
		}, label),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flashgate_job_errors_total", Help: "Failed runs of the job in this gateway.",
		}, label),
		givenUp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flashgate_job_leases_given_up_total", Help: "How often this gateway gave the job's lease up because it could not do the job.",
		}, label),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "flashgate_job_duration_seconds", Help: "How long runs of the job take.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, label),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.leader, m.lastSuccess, m.lastError, m.errors, m.givenUp, m.duration} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) observe(job string, took time.Duration, err error) {
	m.duration.WithLabelValues(job).Observe(took.Seconds())
	if err != nil {
		m.errors.WithLabelValues(job).Inc()
		m.lastError.WithLabelValues(job).SetToCurrentTime()
		return
	}
	m.lastSuccess.WithLabelValues(job).SetToCurrentTime()
}
