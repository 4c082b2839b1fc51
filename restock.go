package main

import (
	"context"
	"sync"
	"time"

	"flashgate/deduct"
	"flashgate/fallback"
	"flashgate/ledger"
)

// Units that came back are held against the ledger for a second and a half: longer than a
// lane's linger, in which the shield may still hear of a batch that found nothing left.
// The reconciler does the rest.
const (
	restockEvery = 100 * time.Millisecond
	restockLooks = 15
)

// restocks are the SKUs of which units came back lately. The shield may not have known
// the order that held them, so each is held against the ledger for a while.
type restocks struct {
	ledger  *ledger.DB
	shield  *deduct.Shield
	breaker *fallback.Breaker // of the shield

	mu    sync.Mutex
	looks map[string]int // SKU -> looks to come
}

func (r *restocks) add(sku string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looks == nil {
		r.looks = make(map[string]int)
	}
	r.looks[sku] = restockLooks
}

// take returns the SKUs to look at now, and counts the look.
func (r *restocks) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.looks))
	for sku, n := range r.looks {
		names = append(names, sku)
		if r.looks[sku] = n - 1; n <= 1 {
			delete(r.looks, sku)
		}
	}
	return names
}

// look is the body of a job of every gateway, which looks at what it gave back itself.
func (r *restocks) look(ctx context.Context, _ int64) error {
	for _, name := range r.take() {
		sku, err := r.ledger.SKU(ctx, name)
		if err != nil {
			return err
		}
		err = r.breaker.Do(ctx, func(ctx context.Context) error { return r.shield.Raise(ctx, sku) })
		if err != nil {
			return answered(err)
		}
	}
	return nil
}
