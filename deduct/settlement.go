package deduct

import (
	"sync"

	"flashgate/sale"
)

// assign sorts settlements by the family that has to hear of them, and joins those of
// the same batch: a batch is settled once, in one go. Settlements about one segment
// only occur with several segments.
func (s *Shield) assign(settled []sale.Settlement, segments, home int) map[int]*learned {
	if len(settled) == 0 {
		return nil
	}
	a := assignment{segments: segments, of: make(map[int]*learned), at: make(map[slot]int)}
	for i := range settled {
		st := &settled[i]
		if st.Token != 0 {
			for _, segment := range s.foreign.pop(st.Token, home) {
				a.named(segment, st.Token)
			}
		}
		for _, r := range st.Refused {
			to := a.named(r.Segment, st.Token)
			to.Refused = append(to.Refused, r)
		}
		if st.LedgerLeft >= 0 {
			to := a.about(st.Segment, st.Token, st.Copy)
			if to.LedgerLeft < 0 || st.LedgerLeft < to.LedgerLeft {
				to.LedgerLeft = st.LedgerLeft
			}
		}
	}
	a.finish()
	return a.of
}

type slot struct {
	segment int
	token   sale.BatchToken
	copy    string // that a figure is about
}

type assignment struct {
	segments int
	of       map[int]*learned
	at       map[slot]int // where a batch's settlement stands in its family's list
}

// named returns the settlement of the batch in the family, which it adds if need be.
func (a *assignment) named(segment int, token sale.BatchToken) *sale.Settlement {
	return a.about(segment, token, "")
}

// about does so for a figure about a copy.
func (a *assignment) about(segment int, token sale.BatchToken, copy string) *sale.Settlement {
	segment = inFamily(segment, a.segments)
	l, ok := a.of[segment]
	if !ok {
		l = &learned{}
		a.of[segment] = l
	}
	p := slot{segment, token, copy}
	i, ok := a.at[p]
	if !ok || (token == 0 && len(l.named[i].Refused) >= maxBatch) { // Lua cannot unpack more at a time
		i = len(l.named)
		l.named = append(l.named, sale.Settlement{Token: token, LedgerLeft: -1, Segment: segment, Copy: copy})
		a.at[p] = i
	}
	return &l.named[i]
}

// finish turns settlements that say nothing but "all of it" into confirmations, which
// cost next to nothing.
func (a *assignment) finish() {
	for _, l := range a.of {
		kept := l.named[:0]
		for _, st := range l.named {
			if len(st.Refused) == 0 && st.LedgerLeft < 0 {
				l.confirm = append(l.confirm, st.Token)
			} else {
				kept = append(kept, st)
			}
		}
		l.named = kept
	}
}

// inFamily maps a segment of an order to a family: a SKU that had more segments once
// keeps the orders of those it lost in one of those it has.
func inFamily(segment, segments int) int {
	if segment < 0 {
		return 0
	}
	return segment % segments
}

// maxForeign bounds what is remembered of batches that were never settled.
const maxForeign = 1 << 16

// foreign remembers which batches took units outside the home segment, so that their
// settlement finds all families concerned. What it forgets, the reconciler settles.
type foreign struct {
	mu sync.Mutex
	of map[sale.BatchToken]uint64 // bit n = segment n
}

func (f *foreign) init() { f.of = make(map[sale.BatchToken]uint64) }

func (f *foreign) add(t sale.BatchToken, segment int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.of) >= maxForeign {
		clear(f.of)
	}
	f.of[t] |= 1 << segment
}

// pop returns the segments of a batch, the home segment first, and forgets it.
func (f *foreign) pop(t sale.BatchToken, home int) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := []int{home}
	if len(f.of) == 0 {
		return out
	}
	mask := f.of[t]
	delete(f.of, t)
	for segment := range sale.MaxSegments {
		if segment != home && mask&(1<<segment) != 0 {
			out = append(out, segment)
		}
	}
	return out
}
