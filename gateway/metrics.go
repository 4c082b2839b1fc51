package gateway

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are resolved once, so that counting a request is one addition.
type metrics struct {
	answered [answerCount]prometheus.Counter
	seconds  *prometheus.HistogramVec
	dropped  prometheus.Counter
	refused  prometheus.Counter
	streams  prometheus.Gauge

	unauthenticated prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "flashgate_http_request_seconds", Help: "Time from a request being read to its response being ready, by route.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flashgate_http_marks_dropped_total", Help: "Queued claims that other gateways were not told of.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flashgate_http_connections_refused_total", Help: "Connections refused because too many were open.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flashgate_http_streams", Help: "Open event streams.",
		}),
	}
	m.unauthenticated = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashgate_operator_auth_failures_total", Help: "Requests to the operators' listener without a key that is known.",
	})
	byCode := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flashgate_http_requests_total", Help: "Requests answered, by code.",
	}, []string{"code"})
	for a := range answerCount {
		m.answered[a] = byCode.WithLabelValues(answers[a].code)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{byCode, m.seconds, m.dropped, m.refused, m.streams, m.unauthenticated} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("gateway: metrics: %w", err)
		}
	}
	return m, nil
}
