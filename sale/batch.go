package sale

import "time"

// Answer is what the shield says of one claim.
type Answer uint8

// The answers. Only Admitted has taken units in this call.
const (
	NoAnswer      Answer = iota
	Admitted             // units were taken; the ledger decides
	Seen                 // the id was seen before, confirmed or tentative: the ledger decides, nothing was taken
	ShieldLimit          // the buyer's units would pass the limit
	ShieldSoldOut        // no segment has the units
)

// BatchToken names one call to the shield. The units it took stay tentative, in the
// shield, until the batch is settled under this token or the reconciler judges it.
type BatchToken uint64

// Deduction is the shield's answer to a batch.
type Deduction struct {
	// Loaded is false when the shield has no current copy of the SKU: nothing was
	// taken, the other fields are empty, and the batch goes around.
	Loaded bool
	Token  BatchToken
	// Answers and Segments run parallel to the claims; a segment counts only where
	// the answer is Admitted.
	Answers  []Answer
	Segments []int
	// Left is the number of units the shield has left after the call, all segments
	// that this call looked at together.
	Left int64
	// Copies are the names of the copies that this call asked, by segment.
	Copies map[int]string
}

// Settlement tells the shield how a batch ended. Claims not named in Refused are in
// the ledger and become confirmed. Applying it twice, or for a batch or an id that
// the shield does not know, does nothing.
type Settlement struct {
	Token   BatchToken
	Refused []Refused
	// LedgerLeft, when >= 0, is what the ledger had available in Segment when it
	// refused for stock: the shield lowers its own figure to it (repair rule b).
	// It is about the copy of that name, where one is given, and no other: one that was
	// loaded since knows better.
	LedgerLeft int64
	Segment    int
	Copy       string
}

// Refused is a claim the shield admitted and the ledger refused.
type Refused struct {
	ID       OrderID
	User     string
	Quantity int64
	Segment  int
	// Restock says that the units go back to the shield's figure: true for limit and
	// duplicate, false when the ledger refused for stock.
	Restock bool
	// Keep says that the id stays known as an order (the ledger has it already).
	Keep bool
}

// CommitBatch is the claims of one SKU that ask the ledger for their verdicts.
type CommitBatch struct {
	SKU    *SKU
	Claims []*Claim
	// Segments runs parallel to Claims: the stock row each claim wants to draw from.
	// Nil means that the ledger may choose (claims that came around the shield).
	Segments []int
	// LockFirst asks for the pessimistic path: for claims that came around the
	// shield, and for SKUs whose shield is known to be wrong.
	LockFirst bool
	// Around says that the claims came around the shield: what it admitted goes first.
	// Where they cannot be decided by Due they are refused at once, with ErrDegraded.
	Around bool
	Due    time.Time
	// Yield asks for an error at once while another transaction holds rows of the SKU:
	// for whoever has other SKUs to go on with, and comes again.
	Yield bool
}

// CommitResult is the ledger's answer to a CommitBatch.
type CommitResult struct {
	// Verdicts runs parallel to the claims. A refusal here has been checked: the
	// ledger does not know the id.
	Verdicts []Verdict
	// Contradicted says that the ledger refused something an optimistic batch
	// offered: the shield that admitted it is wrong and wants repair.
	Contradicted bool
	// Left is what the ledger had available per segment when it refused for stock;
	// nil where it did not.
	Left map[int]int64
}
