package ledger

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

const (
	// unknownFor is how long a SKU that does not exist is remembered as such. The look
	// for changes ends it earlier when the SKU is made.
	unknownFor = 5 * time.Second
	// catalogBatch is how many missing SKUs one read asks for.
	catalogBatch = 256
	// catalogWaiting is how many different SKUs may wait to be read. Whoever asks for a
	// million that do not exist keeps one connection busy, and no more.
	catalogWaiting = 4096
	// unknownSize is how many SKUs that do not exist are remembered.
	unknownSize = 8192
)

// catalog is the gateway's memory of SKUs. Reads that hit take no lock and allocate
// nothing; misses are read in batches by one loop; memory is bounded.
type catalog struct {
	known   cacheTable[*sale.SKU]
	unknown cacheTable[time.Time] // until when

	mu      sync.Mutex
	closed  bool
	waiting map[string]*catalogMiss
	wake    chan struct{} // capacity 1: there are misses
}

// catalogMiss is a SKU that is being read; sku and err are set before done is closed.
type catalogMiss struct {
	name string
	done chan struct{}
	sku  *sale.SKU
	err  error
}

func newCatalog(size int) *catalog {
	seed := maphash.MakeSeed()
	return &catalog{
		known: newCacheTable[*sale.SKU](size, seed), unknown: newCacheTable[time.Time](unknownSize, seed),
		waiting: map[string]*catalogMiss{}, wake: make(chan struct{}, 1),
	}
}

// SKU returns the SKU as of at most a second ago, from memory where it can be. The
// value is shared and must not be changed. Errors: sale.ErrUnknownSKU, or
// sale.ErrUnavailable where the SKU is not remembered and the database is away.
func (db *DB) SKU(ctx context.Context, name string) (*sale.SKU, error) {
	if sku, ok := db.catalog.known.get(name); ok {
		return sku, nil
	}
	if until, ok := db.catalog.unknown.get(name); ok && time.Now().Before(until) {
		return nil, sale.ErrUnknownSKU
	}
	return db.readSKU(ctx, name)
}

// readSKU waits for the loop to read the SKU, together with whoever else waits for it.
func (db *DB) readSKU(ctx context.Context, name string) (*sale.SKU, error) {
	if sale.ValidateSKUName(name) != nil {
		return nil, sale.ErrUnknownSKU
	}
	if !db.Ready() {
		return nil, db.notReady()
	}
	miss, err := db.catalog.ask(name)
	if err != nil {
		return nil, err
	}
	select {
	case <-miss.done:
		return miss.sku, miss.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", sale.ErrUnavailable, ctx.Err())
	}
}

func (c *catalog) ask(name string) (*catalogMiss, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if miss, ok := c.waiting[name]; ok {
		return miss, nil
	}
	if c.closed {
		return nil, sale.ErrShuttingDown
	}
	if len(c.waiting) >= catalogWaiting {
		return nil, fmt.Errorf("%w: too many SKUs wait to be read", sale.ErrUnavailable)
	}
	// The caller's string may be a part of something larger, or not live as long.
	miss := &catalogMiss{name: string([]byte(name)), done: make(chan struct{})}
	c.waiting[miss.name] = miss
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return miss, nil
}

// batch is the next few misses; the second result says whether others wait as well.
func (c *catalog) batch() ([]*catalogMiss, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []*catalogMiss
	for _, miss := range c.waiting {
		if len(batch) == catalogBatch {
			return batch, true
		}
		batch = append(batch, miss)
	}
	return batch, false
}

// answer ends a miss: with its SKU, with nil for one that does not exist, or with an
// error.
func (c *catalog) answer(miss *catalogMiss, sku *sale.SKU, err error) {
	switch {
	case err != nil:
		miss.err = err
	case sku == nil:
		miss.err = sale.ErrUnknownSKU
		c.unknown.put(miss.name, time.Now().Add(unknownFor), func(time.Time) bool { return true })
	default:
		miss.sku = sku
		c.store(sku)
	}
	c.mu.Lock()
	delete(c.waiting, miss.name)
	c.mu.Unlock()
	close(miss.done)
}

// store remembers the SKU unless a newer version is remembered already, and returns
// what was remembered before.
func (c *catalog) store(sku *sale.SKU) (before *sale.SKU) {
	c.known.put(sku.Name, sku, func(old *sale.SKU) bool {
		before = old
		return old.Version < sku.Version
	})
	c.unknown.drop(sku.Name)
	return before
}

// concerns reports whether a SKU that has changed has to be looked at: something is
// remembered of it, or is just being read, perhaps as it was before the change. The
// readings are asked first, because what they find is remembered before they end.
func (c *catalog) concerns(name string) bool {
	c.mu.Lock()
	_, waiting := c.waiting[name]
	c.mu.Unlock()
	if waiting {
		return true
	}
	if _, ok := c.known.get(name); ok {
		return true
	}
	_, ok := c.unknown.get(name)
	return ok
}

func (c *catalog) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for name, miss := range c.waiting {
		miss.err = sale.ErrShuttingDown
		delete(c.waiting, name)
		close(miss.done)
	}
}

// runCatalog reads what is missing, one batch after the other, until ctx ends.
func (db *DB) runCatalog(ctx context.Context) {
	defer db.catalog.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-db.catalog.wake:
		}
		for more := true; more && ctx.Err() == nil; {
			var batch []*catalogMiss
			batch, more = db.catalog.batch()
			db.readMisses(ctx, batch)
		}
	}
}

func (db *DB) readMisses(ctx context.Context, batch []*catalogMiss) {
	if len(batch) == 0 {
		return
	}
	names := make([]string, len(batch))
	for i, miss := range batch {
		names[i] = miss.name
	}
	found, err := db.readSKUs(ctx, names)
	for _, miss := range batch {
		db.catalog.answer(miss, found[miss.name], err)
	}
}

// skuColumns is what scanSKU reads, in its order.
const skuColumns = "sku, ordinal, title, unit_price, currency, per_user_limit, opens_at, closes_at, pay_within_ms, state, heat, counting, archive, segments, version, changed_at"

func scanSKU(r scanner) (*sale.SKU, error) {
	var s sale.SKU
	var state, heat, archive string
	err := r.Scan(&s.Name, &s.Ordinal, &s.Title, &s.UnitPrice, &s.Currency, &s.PerUserLimit, &s.OpensAt, &s.ClosesAt,
		&s.PayWithin, &state, &heat, &s.Counting, &archive, &s.Segments, &s.Version, &s.ChangedAt)
	if err != nil {
		return nil, err
	}
	if s.State, err = sale.ParseSaleState(state); err != nil {
		return nil, err
	}
	if s.Heat, err = sale.ParseHeat(heat); err != nil {
		return nil, err
	}
	if s.Archive, err = sale.ParseArchive(archive); err != nil {
		return nil, err
	}
	return &s, nil
}

// readSKUs returns those of the SKUs that exist. Errors wrap sale.ErrUnavailable.
func (db *DB) readSKUs(ctx context.Context, names []string) (map[string]*sale.SKU, error) {
	ctx, cancel := context.WithTimeout(ctx, db.times.call)
	defer cancel()
	s := dialect.NewScript(db.dialect)
	s.Raw("SELECT " + skuColumns + " FROM skus WHERE sku IN (")
	s.Strs(names)
	s.Raw(")")
	rows, err := read(ctx, db.pools.control, string(s.Text))
	if err != nil {
		return nil, db.away(ctx, err)
	}
	found, err := scanSKUs(rows)
	if err != nil {
		return nil, db.away(ctx, err)
	}
	db.noteErr(nil)
	return found, nil
}

// scanSKUs reads the result set to its end and closes it.
func scanSKUs(rows dialect.ResultSet) (map[string]*sale.SKU, error) {
	found := make(map[string]*sale.SKU)
	err := each(rows, nil, func(r scanner) error {
		sku, err := scanSKU(r)
		if err == nil {
			found[sku.Name] = sku
		}
		return err
	})
	return found, err
}
