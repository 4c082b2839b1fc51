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

// BreakerScope says for whom an operator's order is.
type BreakerScope uint8

// The scopes, shown as their names.
const (
	ScopeFleet BreakerScope = iota + 1
	ScopeGateway
)

var breakerScopeNames = [...]string{ScopeFleet: "fleet", ScopeGateway: "gateway"}

// String is its name, as it is shown.
func (s BreakerScope) String() string { return nameOf(breakerScopeNames[:], int(s)) }

// ParseBreakerScope reads a scope's name.
func ParseBreakerScope(s string) (BreakerScope, error) {
	n, err := parseName(breakerScopeNames[:], s, "scope")
	return BreakerScope(n), err
}

// BreakerOrder is what an operator orders the breaker of that name to do, in every
// gateway.
type BreakerOrder struct {
	Name   string // redis, ledger or nats
	Mode   BreakerMode
	Until  int64  // Unix ms, ledger's clock; 0 = until the next order
	Reason string // the operator's
	By     string // the gateway that took it
	At     int64  // Unix ms, ledger's clock, when it was given; later orders have a later one
}

// Record is the order as the operators' log shows it.
func (o *BreakerOrder) Record() string {
	until := ""
	if o.Until != 0 {
		until = FormatTime(o.Until)
	}
	_, after := LogOf(nil, &struct {
		Mode   string `json:"mode"`
		Until  string `json:"until"`
		Reason string `json:"reason"`
	}{o.Mode.String(), until, o.Reason})
	return after
}

// BreakerStatus is what operators see of a breaker.
type BreakerStatus struct {
	Name   string // redis, ledger or nats
	State  string // closed, half_open or open: what the breaker does now
	Mode   BreakerMode
	Scope  BreakerScope // of the order that it obeys; 0 = there is none
	By     string       // the gateway that took that order
	Until  int64        // Unix ms, gateway's clock, when a forced mode ends; 0 = when an operator says so
	Reason string       // the operator's, of a forced mode
	Since  int64        // Unix ms, gateway's clock, when State last changed; 0 = never
}
