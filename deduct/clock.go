package deduct

import "sync/atomic"

// clocksApart is by how much, in ms, gateways' measures of the ledger's clock may differ.
const clocksApart = 1000

// instant is the latest of the times (Unix ms, ledger's clock) that it was raised to.
type instant struct{ at atomic.Int64 }

func (i *instant) latest() int64 { return i.at.Load() }

func (i *instant) raise(to int64) {
	for old := i.at.Load(); old < to && !i.at.CompareAndSwap(old, to); {
		old = i.at.Load()
	}
}

// setBack reports whether the ledger's clock is behind what generations that were in use
// carry: it was set back, or another server has taken over.
func (s *Shield) setBack() bool { return s.newest.latest() > s.ledger.Now()+clocksApart }

// now is the ledger's time, by which generations are told from those that came before
// them. While its clock is set back this one goes on by itself, one ms with each use, from
// the latest time that was seen: else nothing that is loaded could be used until the
// ledger's clock is where it was.
func (s *Shield) now() int64 {
	if s.setBack() {
		return s.newest.at.Add(1)
	}
	return s.ledger.Now()
}
