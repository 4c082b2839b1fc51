package checkout

import (
	"time"

	"flashgate/sale"
)

// batch is the claims of one Settle call and how far each has come. The lists hold
// indexes into claims: first every claim is open, then each is in one of the others, or
// has its verdict; one that is refused or unsure may have the verdict that stands if
// nobody knows better. Settle's goroutine owns it; while it looks orders up beside the
// commit, the two sides touch the verdicts of different claims.
type batch struct {
	sku      *sale.SKU
	claims   []*sale.Claim
	verdicts []sale.Verdict
	due      time.Time // when the oldest claim has waited for long enough
	asked    int64     // ledger ms, from before the shield was asked

	open     []int // not yet judged
	admitted []int // the shield took units for them, out of segments
	segments []int
	around   []int // go to the ledger without the shield
	unsure   []int // the shield cannot say; the ledger decides. A verdict is the shield's word
	refused  []int // refused, verdict set; those with a key may still be repeats
	repeats  []int // of the unsure: ids that the shield has seen, to be parked

	missed  bool // the shield, whose copy may be in use, has not heard of those around
	behind  bool // what is admitted queues in the backlog instead of asking the ledger
	beside  bool // claims are parked out of reach: what is admitted goes ahead, nothing else
	failed  bool // the ledger gave no answer on the admitted
	offered bool // and may have committed them all the same
	token   sale.BatchToken
	copies  map[int]string // the copies that judged it, by segment
	settled bool           // it is known how each of the admitted ended
	left    map[int]int64  // what the ledger had left where it refused for stock
}

func newBatch(claims []*sale.Claim, maxAge time.Duration) *batch {
	b := &batch{claims: claims, verdicts: make([]sale.Verdict, len(claims)), open: make([]int, len(claims))}
	oldest := claims[0].QueuedAt
	for i, c := range claims {
		b.open[i] = i
		oldest = min(oldest, c.QueuedAt)
	}
	b.due = time.UnixMilli(oldest).Add(maxAge)
	return b
}

// fail answers every claim with the same failure.
func (b *batch) fail(err error) []sale.Verdict {
	for i := range b.verdicts {
		b.verdicts[i] = failure(err)
	}
	return b.verdicts
}

func (b *batch) popOpen() []int {
	open := b.open
	b.open = nil
	return open
}

func (b *batch) pick(list []int) []*sale.Claim {
	out := make([]*sale.Claim, len(list))
	for k, i := range list {
		out[k] = b.claims[i]
	}
	return out
}

func (b *batch) openClaims() []*sale.Claim {
	if len(b.open) == len(b.claims) {
		return b.claims
	}
	return b.pick(b.open)
}

// refuse records a refusal that a keyed claim may yet escape as a repeat.
func (b *batch) refuse(i int, o sale.Outcome) {
	b.verdicts[i] = sale.Verdict{Outcome: o}
	b.refused = append(b.refused, i)
}

// doubt records a refusal that the ledger has to make itself.
func (b *batch) doubt(i int, o sale.Outcome) {
	b.verdicts[i] = sale.Verdict{Outcome: o}
	b.unsure = append(b.unsure, i)
}

// soldOut returns those of the refused that gave a key and were sold out, and the others.
func (b *batch) soldOut() (asked, rest []int) {
	for _, i := range b.refused {
		if b.claims[i].Keyed && b.verdicts[i].Outcome == sale.SoldOut {
			asked = append(asked, i)
		} else {
			rest = append(rest, i)
		}
	}
	return asked, rest
}

// keyed returns the ids of those claims in the list that gave a key.
func (b *batch) keyed(list []int) []sale.OrderID {
	var ids []sale.OrderID
	for _, i := range list {
		if b.claims[i].Keyed {
			ids = append(ids, b.claims[i].ID)
		}
	}
	return ids
}

// repeat answers a claim whose order exists: duplicate, or conflict when the payload
// differs.
func (b *batch) repeat(i int, found map[sale.OrderID]sale.Order) bool {
	o, ok := found[b.claims[i].ID]
	if !ok {
		return false
	}
	if o.Hash != b.claims[i].Hash {
		b.verdicts[i] = sale.Verdict{Outcome: sale.Conflict}
	} else {
		b.verdicts[i] = sale.Verdict{Outcome: sale.Duplicate, Order: &o}
	}
	return true
}

// adopt takes over the ledger's verdicts for the claims in the list.
func (b *batch) adopt(list []int, res sale.CommitResult, err error) {
	for k, i := range list {
		if err != nil {
			b.unanswered(i, err)
		} else {
			b.verdicts[i] = res.Verdicts[k]
		}
	}
}

// unanswered ends a claim that the ledger gave no answer on. A refusal stands where
// the claim cannot be a repeat.
func (b *batch) unanswered(i int, err error) {
	if b.claims[i].Keyed || b.verdicts[i].Outcome == sale.NoOutcome {
		b.verdicts[i] = failure(err)
	}
}

// settlements is what the shield has to learn of this batch: which claims it admitted
// the ledger refused, and how much the ledger had left where it refused for stock.
func (b *batch) settlements() []sale.Settlement {
	first := sale.Settlement{Token: b.token, LedgerLeft: -1}
	for k, i := range b.admitted {
		o := b.verdicts[i].Outcome
		if o == sale.Reserved || o == sale.Queued {
			continue // a parked claim's end is told by whoever drains it
		}
		first.Refused = append(first.Refused, sale.Refused{
			ID: b.claims[i].ID, User: b.claims[i].User, Quantity: b.claims[i].Quantity,
			Segment: b.segments[k],
			Restock: o != sale.SoldOut,
			Keep:    o == sale.Duplicate || o == sale.Conflict,
		})
	}
	return append([]sale.Settlement{first}, figures(b.sku, b.left, b.copies)...)
}

// figures is what the ledger had left, by the segments that the shield has: a segment that
// the SKU had once is a part of one of those.
func figures(sku *sale.SKU, left map[int]int64, copies map[int]string) []sale.Settlement {
	sums := make(map[int]int64)
	for segment, n := range left {
		sums[segment%max(1, sku.Segments)] += n
	}
	var out []sale.Settlement
	for segment, n := range sums {
		out = append(out, sale.Settlement{LedgerLeft: n, Segment: segment, Copy: copies[segment]})
	}
	return out
}
