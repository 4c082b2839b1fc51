package sale

// BreakerMode says who decides whether a breaker is open: its own counts, or an
// operator.
type BreakerMode uint8

// The modes, shown as their names.
const (
	BreakerAuto BreakerMode = iota + 1
	BreakerForcedOpen
	BreakerForcedClosed
)

var breakerModeNames = [...]string{
	BreakerAuto: "auto", BreakerForcedOpen: "forced_open", BreakerForcedClosed: "forced_closed",
}

// String is its name, as it is stored and shown.
func (m BreakerMode) String() string { return nameOf(breakerModeNames[:], int(m)) }

// ParseBreakerMode reads a mode's name.
func ParseBreakerMode(s string) (BreakerMode, error) {
	n, err := parseName(breakerModeNames[:], s, "mode")
	return BreakerMode(n), err
}

// BreakerStatus is what operators see of a breaker.
type BreakerStatus struct {
	Name   string // redis, ledger or nats
	State  string // closed, half_open or open: what the breaker does now
	Mode   BreakerMode
	Until  int64  // Unix ms, gateway's clock, when a forced mode ends; 0 = when an operator says so
	Reason string // the operator's, of a forced mode
	Since  int64  // Unix ms, gateway's clock, when State last changed; 0 = never
}
