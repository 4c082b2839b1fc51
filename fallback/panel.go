package fallback

import (
	"fmt"
	"time"

	"flashgate/sale"
)

// Panel is the set of breakers as operators work them.
type Panel []*Breaker

// Breakers returns the status of each, in the panel's order.
func (p Panel) Breakers() []sale.BreakerStatus {
	out := make([]sale.BreakerStatus, len(p))
	for i, b := range p {
		out[i] = b.Status()
	}
	return out
}

// ForceBreaker sets the mode of the breaker of that name.
func (p Panel) ForceBreaker(name string, mode sale.BreakerMode, d time.Duration, reason string) (sale.BreakerStatus, error) {
	for _, b := range p {
		if b.cfg.Name == name {
			b.force(mode, d, reason)
			return b.Status(), nil
		}
	}
	return sale.BreakerStatus{}, fmt.Errorf("%w: no breaker %q", sale.ErrInvalid, name)
}
