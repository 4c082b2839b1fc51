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

// The times of a memo.
const (
	// waryFor is how long after a contradiction a SKU's claims take the careful path:
	// long enough for the shield to hear of it with a later batch.
	waryFor = time.Second
	// reloadPause and reloadShare bound how often suspicion alone has a shield loaded
	// anew: loading sends every gateway's batches around it.
	reloadPause = 5 * time.Second
	reloadShare = 20
	// soldOutMin and soldOutMax bound how long "sold out" is answered from memory before
	// it is looked at again: for less, losers reach the shield; for longer, units that
	// came back stay hidden.
	soldOutMin = 200 * time.Millisecond
	soldOutMax = 500 * time.Millisecond
)

// memo is what a gateway remembers of a SKU between batches.
type memo struct {
	soldOut soldOut
	wary    atomic.Int64 // Unix ns until which the careful path is taken
	calm    atomic.Int64 // Unix ns until which suspicion does not have the shield loaded

	mu      sync.Mutex
	learned []sale.Settlement
	gone    bool // swept: nothing may be added
}

func (c *Checkout) memoOf(name string) *memo {
	if m, ok := c.memos.Load(name); ok {
		return m.(*memo)
	}
	m, _ := c.memos.LoadOrStore(name, &memo{})
	return m.(*memo)
}

// drain hands over what the shield has to learn; a batch that could not deliver it
// keeps it again.
func (m *memo) drain() []sale.Settlement {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.learned
	m.learned = nil
	return s
}

// keep remembers what the shield has to learn of a SKU.
func (c *Checkout) keep(name string, s []sale.Settlement) {
	for len(s) > 0 && !c.memoOf(name).add(s) {
		// The memo was swept between finding and locking it; the next one is new.
	}
}

func (m *memo) add(s []sale.Settlement) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return false
	}
	m.learned = append(m.learned, s...)
	if over := len(m.learned) - maxLearned; over > 0 {
		m.learned = append([]sale.Settlement(nil), m.learned[over:]...)
	}
	return true
}

func (m *memo) beWary(now time.Time)      { m.wary.Store(now.Add(waryFor).UnixNano()) }
func (m *memo) isWary(now time.Time) bool { return now.UnixNano() < m.wary.Load() }

// mayReload reports, to one caller in each pause, that the shield may be loaded anew.
func (m *memo) mayReload(now time.Time) bool {
	calm := m.calm.Load()
	return now.UnixNano() >= calm && m.calm.CompareAndSwap(calm, now.Add(reloadPause).UnixNano())
}

// loaded makes the pause after a load fit how long that took.
func (m *memo) loaded(now time.Time, took time.Duration) {
	m.calm.Store(now.Add(max(reloadPause, reloadShare*took)).UnixNano())
}

// forget marks a memo with nothing worth remembering as gone.
func (m *memo) forget(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = len(m.learned) == 0 && !m.soldOut.recent(now) && now.UnixNano() >= max(m.wary.Load(), m.calm.Load())
	return m.gone
}

// sweep forgets SKUs that nobody asked for lately, so that memory follows what is on
// sale now and not the catalogue.
func (c *Checkout) sweep() {
	now := time.Now()
	c.memos.Range(func(k, v any) bool {
		if v.(*memo).forget(now) {
			c.memos.CompareAndDelete(k, v)
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
func (s *soldOut) note(now time.Time) {
	last := s.seen.Swap(now.UnixNano())
	switch interval := s.interval.Load(); {
	case last == 0:
		s.interval.Store(int64(soldOutMin))
	case now.UnixNano()-last >= interval:
		s.interval.Store(min(interval*5/4, int64(soldOutMax)))
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
