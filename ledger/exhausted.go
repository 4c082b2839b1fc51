package ledger

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// exhaustedSets remembers which order ids SKUs have that the ledger itself has
// nothing left of. As long as no unit of a SKU came back, no order of it can have come
// into being, so a set that was loaded after the last unit went is complete.
type exhaustedSets struct {
	bound int // ids held in all sets together

	mu   sync.Mutex
	size int
	tick int64 // counts uses, for eviction
	sets map[string]*idSet
}

// idSet is the order ids of one SKU at one state of its stock.
type idSet struct {
	state   stockState
	asked   int            // ids that were looked up while nothing was loaded
	loaded  bool           // ids is complete
	loading bool           // one caller is at it
	tooMany bool           // the SKU has more orders than the bound
	ids     []sale.OrderID // sorted; immutable once loaded
	used    int64
}

// stockState is the sum over a SKU's stock rows. Equal states without anything
// available mean that no order was made between them: raises rises whenever units
// become available, and sold with every order.
type stockState struct{ raises, total, reserved, sold int64 }

func (e *exhaustedSets) init(bound int) { e.bound, e.sets = bound, make(map[string]*idSet) }

// FindExhausted does what Find does for a SKU that is said to be sold out, and reports
// whether the ledger itself has nothing left of it (available < 1 in all segments,
// shown by the point read of this very call). When it has something left, the orders
// are not looked up and found is nil. Where the SKU stays exhausted, most ids are
// judged from memory, without another read.
func (db *DB) FindExhausted(ctx context.Context, sku string, ids []sale.OrderID) (found map[sale.OrderID]sale.Order, exhausted bool, err error) {
	if !db.Ready() {
		return nil, false, db.notReady()
	}
	state, exhausted, err := db.stockState(ctx, sku)
	if err != nil || !exhausted {
		return nil, false, err
	}
	set, load := db.exhausted.use(sku, state, len(ids))
	if load {
		set = db.loadIDs(ctx, sku, state)
	}
	if set != nil {
		ids = slices.DeleteFunc(slices.Clone(ids), func(id sale.OrderID) bool { return !containsID(set, id) })
	}
	found, err = db.Find(ctx, ids)
	return found, err == nil, err
}

func containsID(sorted []sale.OrderID, id sale.OrderID) bool {
	_, ok := slices.BinarySearchFunc(sorted, id, compareOrderIDs)
	return ok
}

func compareOrderIDs(a, b sale.OrderID) int { return bytes.Compare(a[:], b[:]) }

// stockState reads the SKU's stock rows and whether nothing is left in any.
func (db *DB) stockState(ctx context.Context, sku string) (st stockState, exhausted bool, err error) {
	rows, err := read(ctx, db.pools.lookups, "SELECT total, reserved, sold, raises FROM stock WHERE sku = ?", sku)
	if err != nil {
		return st, false, db.away(ctx, err)
	}
	exhausted = true
	for rows.Next() {
		var s sale.Stock
		var raises int64
		if err = rows.Scan(&s.Total, &s.Reserved, &s.Sold, &raises); err != nil {
			break
		}
		st.total, st.reserved, st.sold, st.raises = st.total+s.Total, st.reserved+s.Reserved, st.sold+s.Sold, st.raises+raises
		exhausted = exhausted && s.Available() < 1
	}
	if err := dialect.CloseRows(rows, err); err != nil {
		return st, false, db.away(ctx, err)
	}
	db.noteErr(nil)
	return st, exhausted, nil
}

// use returns the SKU's complete set of ids at this state, or nil; load says that the
// caller has to load it, which pays once as many ids were looked up one by one as
// reading an eighth of the orders in one go costs.
func (e *exhaustedSets) use(sku string, state stockState, ids int) (set []sale.OrderID, load bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sets[sku]
	if s == nil || s.state != state {
		if s == nil && len(e.sets) >= maxExhaustedSets {
			e.evict(0)
		}
		if s != nil {
			e.size -= len(s.ids)
		}
		s = &idSet{state: state}
		e.sets[sku] = s
	}
	e.tick++
	s.used = e.tick
	if s.loaded {
		// An empty set is complete too, so it must not read as none.
		return s.ids[:len(s.ids):len(s.ids)], false
	}
	s.asked += ids
	if s.loading || s.tooMany || int64(s.asked) < state.sold/8 {
		return nil, false
	}
	s.loading = true
	return nil, true
}

// maxExhaustedSets bounds the map itself, whatever the sets hold.
const maxExhaustedSets = 4096

// evict drops the least recently used sets until need more ids fit, and at least one.
func (e *exhaustedSets) evict(need int) {
	for first := true; (first || e.size+need > e.bound) && len(e.sets) > 0; first = false {
		var oldest string
		for name, s := range e.sets {
			if !s.loading && (oldest == "" || s.used < e.sets[oldest].used) {
				oldest = name
			}
		}
		if oldest == "" {
			return
		}
		e.size -= len(e.sets[oldest].ids)
		delete(e.sets, oldest)
	}
}

// errTooMany ends a load that would pass the bound.
var errTooMany = errors.New("more order ids than the bound")

// loadIDs reads the SKU's order ids. The state was read before, so every order of it
// is there to be read. It returns nil where that failed or the SKU has moved on.
func (db *DB) loadIDs(ctx context.Context, sku string, state stockState) []sale.OrderID {
	e := &db.exhausted
	ids := make([]sale.OrderID, 0, min(state.sold, int64(e.bound)))
	err := db.EachOrder(ctx, sku, func(chunk []sale.HeldOrder) error {
		if len(ids)+len(chunk) > e.bound {
			return errTooMany
		}
		for i := range chunk {
			ids = append(ids, chunk[i].ID)
		}
		return nil
	})
	slices.SortFunc(ids, compareOrderIDs)

	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.sets[sku]
	if s == nil || s.state != state {
		if err != nil {
			return nil
		}
		return ids
	}
	s.loading = false
	if err != nil {
		s.tooMany = errors.Is(err, errTooMany)
		s.asked = 0
		return nil
	}
	s.loading = true // keeps it from being evicted for its own sake
	if e.size+len(ids) > e.bound {
		e.evict(len(ids))
	}
	s.loading, s.loaded, s.ids = false, true, ids
	e.size += len(ids)
	return ids
}
