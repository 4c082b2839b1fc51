package checkout

import (
	"slices"
	"time"

	"flashgate/sale"
)

// batch is the claims of one Settle call and what is known for all of them. Settle's
// goroutine owns it; while it looks orders up beside the commit, the two sides touch
// entries of different fates.
type batch struct {
	sku     *sale.SKU
	entries []entry
	due     time.Time // when the oldest claim has waited for long enough
	place   place
	asked   int64 // ledger ms, from before the shield was asked

	token   sale.BatchToken
	copies  map[int]string // the copies that judged it, by segment
	left    map[int]int64  // what the ledger had left where it refused for stock
	missed  bool           // the shield, whose copy may be in use, has not heard of those around
	offered bool           // the ledger may have committed what was admitted, without an answer
}

// place is where the batch stands among claims of its SKU that are parked.
type place uint8

const (
	first  place = iota // none is
	behind              // they come first: what is admitted queues after them
	beside              // they are out of reach: what is admitted goes ahead, nothing else
)

// entry is one claim of a batch and how far it has come.
type entry struct {
	claim   *sale.Claim
	fate    fate
	segment int          // out of which the shield took its units; none = it took nothing
	said    sale.Outcome // a refusal, by the shield or from memory
	verdict sale.Verdict // once it is decided, or lost
}

const none = -1

// fate is what comes next for a claim.
type fate uint8

const (
	open     fate = iota // not judged yet
	admitted             // the shield took its units: the ledger decides
	around               // the ledger decides, without the shield
	seen                 // the shield knows the id: it is an order's, or the ledger decides
	doubted              // refused, but by nobody who could know: the ledger decides
	refused              // refused, unless it is the repeat of an order
	waiting              // the ledger does not answer, or not yet: it is parked
	decided              // it has its verdict
	lost                 // it has none, and nobody knows whether it is an order
)

func newBatch(claims []*sale.Claim, maxAge time.Duration) *batch {
	b := &batch{entries: make([]entry, len(claims))}
	oldest := claims[0].QueuedAt
	for i, c := range claims {
		b.entries[i] = entry{claim: c, segment: none}
		oldest = min(oldest, c.QueuedAt)
	}
	b.due = time.UnixMilli(oldest).Add(maxAge)
	return b
}

// with returns the entries of these fates, in the order of arrival.
func (b *batch) with(fates ...fate) []*entry {
	var list []*entry
	for i := range b.entries {
		if slices.Contains(fates, b.entries[i].fate) {
			if list == nil {
				list = make([]*entry, 0, len(b.entries)-i)
			}
			list = append(list, &b.entries[i])
		}
	}
	return list
}

// end gives every claim that is still open the same verdict.
func (b *batch) end(v sale.Verdict) {
	for _, e := range b.with(open) {
		e.decide(v)
	}
}

// verdicts are the answers to the claims, once each has one.
func (b *batch) verdicts() []sale.Verdict {
	out := make([]sale.Verdict, len(b.entries))
	for i := range b.entries {
		out[i] = b.entries[i].verdict
	}
	return out
}

func (e *entry) decide(v sale.Verdict) { e.fate, e.verdict = decided, v }

// refuse records a refusal that a claim with a key may yet escape as a repeat.
func (e *entry) refuse(o sale.Outcome) { e.fate, e.said = refused, o }

// doubt records a refusal that the ledger has to make itself.
func (e *entry) doubt(o sale.Outcome) { e.fate, e.said = doubted, o }

// repeat answers a claim whose order exists: duplicate, or conflict when the payload
// differs.
func (e *entry) repeat(found map[sale.OrderID]sale.Order) bool {
	o, ok := found[e.claim.ID]
	switch {
	case !ok:
		return false
	case o.Hash != e.claim.Hash:
		e.decide(sale.Verdict{Outcome: sale.Conflict})
	default:
		e.decide(sale.Verdict{Outcome: sale.Duplicate, Order: &o})
	}
	return true
}

// stands makes the refusal the verdict.
func (e *entry) stands() { e.decide(sale.Verdict{Outcome: e.said}) }

// unanswered ends a claim about which the ledger could not be asked. A refusal stands
// where the claim cannot be a repeat.
func (e *entry) unanswered(err error) {
	if e.claim.Keyed || e.said == sale.NoOutcome {
		e.decide(failure(err))
	} else {
		e.stands()
	}
}

func claimsOf(list []*entry) []*sale.Claim {
	out := make([]*sale.Claim, len(list))
	for k, e := range list {
		out[k] = e.claim
	}
	return out
}

// keyed returns the ids of those claims in the list that gave a key.
func keyed(list []*entry) []sale.OrderID {
	var ids []sale.OrderID
	for _, e := range list {
		if e.claim.Keyed {
			ids = append(ids, e.claim.ID)
		}
	}
	return ids
}

// adopt takes over the ledger's verdicts for the claims in the list.
func adopt(list []*entry, res sale.CommitResult) {
	for k, e := range list {
		e.decide(res.Verdicts[k])
	}
}

// settlements is what the shield has to learn of this batch: which claims it admitted
// the ledger refused, and how much the ledger had left where it refused for stock. It is
// nothing where it took nothing, or where it is not known how each claim ended: then the
// batch stays tentative.
func (b *batch) settlements() []sale.Settlement {
	mine := sale.Settlement{Token: b.token, LedgerLeft: -1}
	took := false
	for i := range b.entries {
		e := &b.entries[i]
		if e.segment == none {
			continue
		}
		if e.fate == lost {
			return nil
		}
		took = true
		o := e.verdict.Outcome
		if o == sale.Reserved || o == sale.Queued {
			continue // a parked claim's end is told by whoever drains it
		}
		mine.Refused = append(mine.Refused, sale.Refused{
			ID: e.claim.ID, User: e.claim.User, Quantity: e.claim.Quantity,
			Segment: e.segment,
			Restock: o != sale.SoldOut,
			Keep:    o == sale.Duplicate || o == sale.Conflict,
		})
	}
	if !took {
		return nil
	}
	return append([]sale.Settlement{mine}, figures(b.sku, b.left, b.copies)...)
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
