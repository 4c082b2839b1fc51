package sale

import "sync/atomic"

// Ticket is a claim's place in a queue and the way to its verdict. The queue makes it
// and is the only one to resolve it, exactly once; one waiter reads the verdict.
type Ticket struct {
	Claim *Claim

	verdict  chan Verdict
	number   int64         // the how-manieth claim of its line this is, from 1
	popped   *atomic.Int64 // how many claims have left the line
	detached *atomic.Bool  // shared by the tickets of one place: the first one's own
	own      atomic.Bool
}

// NewTicket makes the ticket of the number-th claim of a line in which popped counts
// the claims that have left it.
func NewTicket(c *Claim, number int64, popped *atomic.Int64) *Ticket {
	t := &Ticket{Claim: c, verdict: make(chan Verdict, 1), number: number, popped: popped}
	t.detached = &t.own
	return t
}

// Follow makes a ticket at the same place for a repeat of the same claim.
func (t *Ticket) Follow() *Ticket {
	f := NewTicket(t.Claim, t.number, t.popped)
	f.detached = t.detached
	return f
}

// Verdict delivers exactly one verdict.
func (t *Ticket) Verdict() <-chan Verdict { return t.verdict }

// Resolve answers the claim. The channel has room for the one answer a ticket ever
// gets, so this never blocks.
func (t *Ticket) Resolve(v Verdict) { t.verdict <- v }

// Position is the number of claims that will leave the line before this one; 0 when it is
// next or is being decided.
func (t *Ticket) Position() int64 {
	return max(0, t.number-t.popped.Load()-1)
}

// Detach says that a waiter went away or never was, so the verdict is to be remembered
// where the buyer can ask for it later. Whoever detaches looks at Verdict once more
// afterwards: a verdict that came before the detaching is not remembered.
func (t *Ticket) Detach() { t.detached.Store(true) }

// Detached reports whether any waiter at this place has detached.
func (t *Ticket) Detached() bool { return t.detached.Load() }
