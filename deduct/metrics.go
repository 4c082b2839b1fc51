package deduct

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// The repair rules, as metrics name them.
const (
	ruleTentative = "a_tentative"
	ruleRaise     = "c_raise"
	ruleBuyer     = "d_buyer"
)

// metrics are the shield's figures. Rule b travels with ordinary settlements and is
// counted where the ledger refuses.
type metrics struct {
	calls     *prometheus.CounterVec
	seconds   prometheus.Histogram
	pipelines prometheus.Histogram
	answers   [sale.ShieldSoldOut + 1]prometheus.Counter
	rebuilds  *prometheus.CounterVec
	loading   prometheus.Histogram
	repairs   *prometheus.CounterVec
	broken    prometheus.Gauge
	ok, bad   prometheus.Counter
}

func (m *metrics) register(r prometheus.Registerer) error {
	m.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flashgate_shield_calls_total", Help: "Calls to the shield's script, by result.",
	}, []string{"result"})
	m.ok, m.bad = m.calls.WithLabelValues("ok"), m.calls.WithLabelValues("error")
	m.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "flashgate_shield_call_seconds", Help: "Time of a call, the wait for a pipeline included.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .25},
	})
	m.pipelines = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "flashgate_shield_pipeline_calls", Help: "Calls that shared a pipeline.",
		Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128},
	})
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flashgate_shield_answers_total", Help: "Claims by the shield's answer.",
	}, []string{"answer"})
	for a, name := range [...]string{"none", "admitted", "seen", "limit", "sold_out"} {
		m.answers[a] = answers.WithLabelValues(name)
	}
	m.rebuilds = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flashgate_shield_rebuilds_total", Help: "Rebuilds of a SKU's shield, adoptions of another gateway's included, by result.",
	}, []string{"result"})
	m.loading = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "flashgate_shield_rebuild_seconds", Help: "Time of a successful rebuild.",
		Buckets: prometheus.ExponentialBuckets(.002, 4, 8),
	})
	m.repairs = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flashgate_shield_repairs_total", Help: "Repairs of the shield by rule: orders given back, families raised, buyers corrected.",
	}, []string{"rule"})
	m.broken = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "flashgate_shield_broken_families", Help: "Families that the last repair left because their keys are not what they should be.",
	})
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.seconds, m.pipelines, answers, m.rebuilds, m.loading, m.repairs, m.broken} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) call(claims int, took time.Duration, err error) {
	if err != nil {
		m.bad.Inc()
		return
	}
	m.ok.Inc()
	if claims > 0 {
		m.seconds.Observe(took.Seconds())
	}
}

func (m *metrics) pipeline(calls int) {
	if calls > 0 {
		m.pipelines.Observe(float64(calls))
	}
}

func (m *metrics) answered(answers []sale.Answer) {
	var n [sale.ShieldSoldOut + 1]int
	for _, a := range answers {
		n[a]++
	}
	for a, k := range n {
		if k > 0 {
			m.answers[a].Add(float64(k))
		}
	}
}

func (m *metrics) rebuilt(took time.Duration, err error) {
	if err != nil {
		m.rebuilds.WithLabelValues("error").Inc()
		return
	}
	m.rebuilds.WithLabelValues("ok").Inc()
	m.loading.Observe(took.Seconds())
}

func (m *metrics) repaired(rule string, n int) {
	if n > 0 {
		m.repairs.WithLabelValues(rule).Add(float64(n))
	}
}
