package checkout

import (
	"sync"
	"sync/atomic"
	"time"

	"flashgate/sale"
)

// maxLearned bounds the settlements kept for a shield that cannot be told. What is
// dropped stays tentative there until the reconciler confirms it.
const maxLearned = 1024

// memo is what a gateway remembers of a SKU between batches.
type memo struct {
	soldOut soldOut

	mu      sync.Mutex
	learned []sale.Settlement
}

func (c *Checkout) memoOf(name string) *memo {
	if m, ok := c.memos.Load(name); ok {
		return m.(*memo)
	}
	m, _ := c.memos.LoadOrStore(name, &memo{})
	return m.(*memo)
}

// take hands over what the shield has to learn; a batch that could not deliver it
// gives it back.
func (m *memo) take() []sale.Settlement {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.learned
	m.learned = nil
	return s
}

func (m *memo) add(s []sale.Settlement) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learned = append(m.learned, s...)
	if over := len(m.learned) - maxLearned; over > 0 {
		m.learned = append([]sale.Settlement(nil), m.learned[over:]...)
	}
}

func (m *memo) giveBack(s []sale.Settlement) {
	if len(s) > 0 {
		m.add(s)
	}
}

// idle reports whether there is nothing worth remembering.
func (m *memo) idle(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.learned) == 0 && !m.soldOut.recent(now)
}

// sweep forgets SKUs that nobody asked for lately, so that memory follows what is on
// sale now and not the catalogue.
func (c *Checkout) sweep() {
	now := time.Now()
	c.memos.Range(func(k, v any) bool {
		if v.(*memo).idle(now) {
			c.memos.Delete(k)
		}
		return true
	})
}

// SoldOut reports, from memory, whether the SKU is sold out. Once per interval it lets
// one caller pass, whose claim then looks again. It is for claims without a key only.
func (c *Checkout) SoldOut(name string) bool {
	m, ok := c.memos.Load(name)
	return ok && m.(*memo).soldOut.refuses(time.Now())
}

// soldOut remembers that a SKU had nothing left, and when that was last seen.
type soldOut struct {
	seen     atomic.Int64 // Unix ns of the last look that found nothing; 0 = not sold out
	interval atomic.Int64 // ns for which that look counts
	probed   atomic.Int64 // Unix ns when the last claim was let through to look
}

// note records a look that found nothing; one that comes after the one before has
// ceased to count makes the next count for longer.
func (s *soldOut) note(now time.Time, least, most time.Duration) {
	last := s.seen.Swap(now.UnixNano())
	switch interval := s.interval.Load(); {
	case last == 0:
		s.interval.Store(int64(least))
	case now.UnixNano()-last >= interval:
		s.interval.Store(min(interval*5/4, int64(most)))
	}
}

func (s *soldOut) clear() { s.seen.Store(0) }

// fresh reports whether the last look still counts.
func (s *soldOut) fresh(now time.Time) bool {
	seen := s.seen.Load()
	return seen != 0 && now.UnixNano()-seen < s.interval.Load()
}

// recent reports whether the memory was used in the last ten seconds.
func (s *soldOut) recent(now time.Time) bool {
	seen := s.seen.Load()
	return seen != 0 && now.UnixNano()-seen < int64(10*time.Second)
}

// refuses reports whether a claim is refused from memory: while the last look counts,
// and afterwards for all but one claim an interval.
func (s *soldOut) refuses(now time.Time) bool {
	if s.seen.Load() == 0 {
		return false
	}
	if s.fresh(now) {
		return true
	}
	probed := s.probed.Load()
	if now.UnixNano()-probed < s.interval.Load() {
		return true
	}
	return !s.probed.CompareAndSwap(probed, now.UnixNano())
}
