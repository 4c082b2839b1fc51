package ledger

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// cacheWays is how many entries share a place of a cacheTable.
const cacheWays = 8

// cacheTable is a map of fixed size that forgets: names share places of cacheWays
// entries each, and a full place gives up an entry that was not asked for lately.
// get takes no lock and allocates nothing.
type cacheTable[V any] struct {
	seed   maphash.Seed
	mu     sync.Mutex // held by writers
	places []cachePlace[V]
}

type cachePlace[V any] struct {
	ways [cacheWays]atomic.Pointer[cacheEntry[V]]
	hand uint8 // where the search for an entry to give up goes on
}

// maxAsked is how many losses of neighbours an entry survives without being asked for.
const maxAsked = 3

// cacheEntry is immutable but for asked.
type cacheEntry[V any] struct {
	name  string
	value V
	asked atomic.Uint32 // up to maxAsked
}

func newCacheTable[V any](size int, seed maphash.Seed) cacheTable[V] {
	places := 1
	for places*cacheWays < size {
		places *= 2
	}
	return cacheTable[V]{seed: seed, places: make([]cachePlace[V], places)}
}

// names returns the names of all that is remembered.
func (t *cacheTable[V]) names() []string {
	var names []string
	for i := range t.places {
		for w := range t.places[i].ways {
			if e := t.places[i].ways[w].Load(); e != nil {
				names = append(names, e.name)
			}
		}
	}
	return names
}

func (t *cacheTable[V]) place(name string) *cachePlace[V] {
	return &t.places[maphash.String(t.seed, name)&uint64(len(t.places)-1)]
}

func (t *cacheTable[V]) get(name string) (V, bool) {
	p := t.place(name)
	for i := range p.ways {
		if e := p.ways[i].Load(); e != nil && e.name == name {
			// Concurrent readers may count as one; an entry in use soon stops counting,
			// and its cache line is then only read.
			if n := e.asked.Load(); n < maxAsked {
				e.asked.Store(n + 1)
			}
			return e.value, true
		}
	}
	var none V
	return none, false
}

// put stores the value under the name; where there is one already, only if replace
// says so.
func (t *cacheTable[V]) put(name string, value V, replace func(old V) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.place(name)
	way := -1
	for i := range p.ways {
		e := p.ways[i].Load()
		if e == nil && way < 0 {
			way = i
		}
		if e != nil && e.name == name {
			if !replace(e.value) {
				return
			}
			way = i
			break
		}
	}
	if way < 0 {
		way = p.victim()
	}
	p.ways[way].Store(&cacheEntry[V]{name: name, value: value})
}

// victim is the entry that was asked for least, in turn where several were; the others
// are a loss older.
func (p *cachePlace[V]) victim() int {
	least := uint32(maxAsked + 1)
	way := 0
	for i := range cacheWays {
		next := (int(p.hand) + i) % cacheWays
		if n := p.ways[next].Load().asked.Load(); n < least {
			least, way = n, next
		}
	}
	for i := range p.ways {
		if e := p.ways[i].Load(); i != way && e.asked.Load() > 0 {
			e.asked.Store(e.asked.Load() - 1)
		}
	}
	p.hand = uint8((way + 1) % cacheWays)
	return way
}

func (t *cacheTable[V]) drop(name string) {
	if _, ok := t.get(name); !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.place(name)
	for i := range p.ways {
		if e := p.ways[i].Load(); e != nil && e.name == name {
			p.ways[i].Store(nil)
		}
	}
}
