package sale

// Outcome is the verdict on a claim: a closed set. Verdicts are results, not errors;
// an error means that infrastructure failed and no verdict was reached.
type Outcome uint8

// The outcomes. The order of the refusals is their precedence wherever more than one
// would fit (edge, shield, ledger): duplicate, conflict, then the sale's state (which
// of the three, SKU.Gate says), then limit, then stock. Zero is no verdict.
const (
	NoOutcome    Outcome = iota
	Reserved             // the ledger committed the order
	Duplicate            // the same order again; answered with that order
	Conflict             // the same order id with another payload
	NotOpen              // before opens_at
	Paused               // paused by an operator
	Closed               // closed by an operator, or after closes_at
	LimitReached         // the buyer's units would pass the SKU's per-user limit
	SoldOut              // fewer units left than asked for
	TimedOut             // waited undecided for longer than queue.max_age, or parked for longer than backlog.max_wait
	Queued               // parked in the durable backlog; its verdict comes later
)

var outcomeNames = [...]string{
	Reserved: "reserved", Duplicate: "duplicate", Conflict: "conflict", NotOpen: "not_open",
	Paused: "paused", Closed: "closed", LimitReached: "limit_reached", SoldOut: "sold_out",
	TimedOut: "timeout", Queued: "queued",
}

// String is its name, as it is stored and shown.
func (o Outcome) String() string { return nameOf(outcomeNames[:], int(o)) }

// Refusal reports whether the outcome says no to the claim.
func (o Outcome) Refusal() bool { return o >= Conflict && o <= TimedOut }

// Verdict is the one answer to a claim. Exactly one of Outcome and Err is set: Err is
// one of this package's sentinels (or wraps one) and means that nothing was decided.
type Verdict struct {
	Outcome Outcome
	Order   *Order // set for Reserved, Duplicate and Queued; immutable
	Err     error
}
