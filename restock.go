package main

import (
	"context"
	"sync"
	"time"

	"flashgate/deduct"
	"flashgate/fallback"
	"flashgate/ledger"
)

const (
	restockEvery = 100 * time.Millisecond
	// restockTries covers a lane's linger, after which nothing of a quiet SKU is
	// tentative any more; the reconciler does the rest.
	restockTries = 15
)

// restocks are the SKUs of which units came back lately. The shield may not have known
// the order that held them, so each is held against the ledger until that can be told.
type restocks struct {
	ledger  *ledger.DB
	shield  *deduct.Shield
	breaker *fallback.Breaker // of the shield

	mu    sync.Mutex
	tries map[string]int // SKU -> looks left
}

func (r *restocks) add(sku string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tries == nil {
		r.tries = make(map[string]int)
	}
	r.tries[sku] = restockTries
}

// take returns the SKUs to look at now, each with the looks it has left after this one.
func (r *restocks) take() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make(map[string]int, len(r.tries))
	for sku, n := range r.tries {
		now[sku] = n - 1
		if r.tries[sku] = n - 1; n <= 1 {
			delete(r.tries, sku)
		}
	}
	return now
}

// done forgets a SKU, unless more came back since it was taken.
func (r *restocks) done(sku string, left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tries[sku] == left {
		delete(r.tries, sku)
	}
}

// look is the body of a job of every gateway, which looks at what it gave back itself.
func (r *restocks) look(ctx context.Context, _ int64) error {
	for name, left := range r.take() {
		sku, err := r.ledger.SKU(ctx, name)
		if err != nil {
			return err
		}
		settled := false
		err = r.breaker.Do(ctx, func(ctx context.Context) (err error) {
			settled, err = r.shield.Raise(ctx, sku)
			return err
		})
		if err != nil {
			return answered(err)
		}
		if settled {
			r.done(name, left)
		}
	}
	return nil
}
