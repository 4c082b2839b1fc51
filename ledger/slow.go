package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"flashgate/ledger/dialect"
	"flashgate/sale"
)

// skuKey tells SKUs apart by what all their order ids begin with.
type skuKey [5]byte

func keyOfOrder(id sale.OrderID) skuKey { return skuKey(id[:5]) }
func keyOfSKU(name string) skuKey       { return keyOfOrder(sale.OrderID{}.Beside(name)) }

// slowSKUs are those whose rows buyers or operators have waited for in vain. Until one of
// them gets through, they go one at a time for each SKU, on connections apart: however many
// want to cancel orders of a SKU whose rows somebody holds, they keep nobody from
// cancelling others.
type slowSKUs struct {
	mu sync.Mutex
	of map[skuKey]*slowSKU
}

type slowSKU struct {
	turn chan struct{} // held by who tries
	seen time.Time     // when a row was last waited for in vain
}

// slowFor is how long a SKU is remembered that nobody asks for any more.
const slowFor = time.Minute

// enter returns the pool to take a connection of for the SKU, once it is the caller's
// turn, and what the caller has to tell when it has given the connection back: how its
// transaction ended. Work that is about no one SKU has none.
func (s *slowSKUs) enter(ctx context.Context, sku skuKey, pool, apart *sql.DB) (from *sql.DB, leave func(dialect.Failure), err error) {
	if sku == (skuKey{}) {
		return pool, func(dialect.Failure) {}, nil
	}
	for {
		slow := s.find(sku)
		if slow == nil {
			return pool, func(f dialect.Failure) { s.note(sku, f) }, nil
		}
		select {
		case slow.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%w: %w", errHeld, ctx.Err())
		}
		if s.find(sku) == slow {
			return apart, func(f dialect.Failure) { s.note(sku, f); <-slow.turn }, nil
		}
		<-slow.turn // somebody got through meanwhile
	}
}

func (s *slowSKUs) find(sku skuKey) *slowSKU {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[sku]
}

// note remembers how a transaction of the SKU ended.
func (s *slowSKUs) note(sku skuKey, f dialect.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f != dialect.WaitedOut {
		delete(s.of, sku)
		return
	}
	now := time.Now()
	for other, slow := range s.of {
		if now.Sub(slow.seen) > slowFor {
			delete(s.of, other)
		}
	}
	if s.of[sku] == nil {
		s.of[sku] = &slowSKU{turn: make(chan struct{}, 1)}
	}
	s.of[sku].seen = now
}
