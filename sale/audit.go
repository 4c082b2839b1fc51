package sale

import "fmt"

// Finding is one place where an invariant does not hold.
type Finding struct {
	Check   string  // the check's name
	SKU     string  // empty where the finding is about no SKU
	OrderID OrderID // zero where it is about no order
	Detail  string  // what was found, in a sentence
}

// Checked is one invariant and what was found against it.
type Checked struct {
	Check    string // its name: lower case, underscores
	Promise  string // what is to hold, in a sentence
	Findings []Finding
	// More says that there are further findings, which were left out.
	More bool
}

// Add adds the findings of the same check of something else, up to bound in all.
func (c *Checked) Add(other Checked, bound int) {
	n := min(len(other.Findings), bound-len(c.Findings))
	c.Findings = append(c.Findings, other.Findings[:n]...)
	c.More = c.More || other.More || n < len(other.Findings)
}

// Extent is what the results stream reaches from and to.
type Extent struct {
	// Last is the sequence of the last message ever stored, 0 when there was none.
	Last uint64
	// Since is 0 when the stream still has its first message. Otherwise messages have
	// been dropped, by age as a rule, and it has all that were stored at Since (Unix ms,
	// NATS's clock) or later.
	Since int64
	// Made is when the stream was, in Unix ms on NATS's clock, 0 where there is none. A stream
	// that was made again is another one.
	Made int64
}

// AuditPosition is a moment up to which an audit has seen everything that an installation
// did: a later one only looks at what was done since. The zero one is the beginning.
type AuditPosition struct {
	// At is the moment, in Unix ms on the ledger's clock. What was committed later, by what
	// is written in it, is to be looked at.
	At int64
	// Message is the first message of the results stream that tells of anything later.
	Message uint64
	// Change is the last change of a SKU that was seen, in the order of commits.
	Change int64
	// Stream is when the stream was made that the message is of.
	Stream int64
}

// String is at-message-change-stream.
func (p AuditPosition) String() string {
	return fmt.Sprintf("%d-%d-%d-%d", p.At, p.Message, p.Change, p.Stream)
}

// ParseAuditPosition reads what String wrote.
func ParseAuditPosition(s string) (AuditPosition, error) {
	var p AuditPosition
	if _, err := fmt.Sscanf(s, "%d-%d-%d-%d", &p.At, &p.Message, &p.Change, &p.Stream); err != nil || p.String() != s || p.At <= 0 || p.Change < 0 || p.Stream < 0 {
		return AuditPosition{}, fmt.Errorf("%w: %q is no position of an audit", ErrInvalid, s)
	}
	return p, nil
}

// Changed is an order that was made or changed lately, and when that was last, in Unix ms
// on the ledger's clock.
type Changed struct {
	Order
	Since int64
}

// Repairs counts what a repair did.
type Repairs struct {
	Repaired int // rows that were wrong and are right now
	// Left are rows that cannot be made right within the constraints: somebody has to
	// decide what gives way. Or somebody holds them: the next repair comes to them.
	Left int
}
