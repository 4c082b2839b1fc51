package checkout

import (
	"github.com/prometheus/client_golang/prometheus"

	"flashgate/sale"
)

// metrics are the checkout's figures.
type metrics struct {
	verdicts     [sale.Queued + 1]prometheus.Counter
	around       prometheus.Counter
	contradicted prometheus.Counter
	rebuilt      prometheus.Counter

	restockFailed prometheus.Counter
}

func (m *metrics) register(r prometheus.Registerer) error {
	verdicts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "flashgate_verdicts_total", Help: "Verdicts by outcome; outcome \"error\" means that none was reached.",
	}, []string{"outcome"})
	for o := range m.verdicts {
		name := sale.Outcome(o).String()
		if name == "" {
			name = "error"
		}
		m.verdicts[o] = verdicts.WithLabelValues(name)
	}
	m.around = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashgate_around_claims_total", Help: "Claims that went around the shield.",
	})
	m.contradicted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashgate_shield_contradicted_total", Help: "Batches in which the ledger refused what the shield had admitted.",
	})
	m.rebuilt = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashgate_shield_loads_total", Help: "Shields loaded from the ledger.",
	})
	m.restockFailed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "flashgate_restock_looks_failed_total", Help: "Looks for units that came back that failed.",
	})
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{verdicts, m.around, m.contradicted, m.rebuilt, m.restockFailed} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) count(outcomes *[sale.Queued + 1]int) {
	for o, n := range outcomes {
		if n > 0 {
			m.verdicts[o].Add(float64(n))
		}
	}
}
