package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// suspectsMost bounds how many SKUs are suspected at a time; what is left out is found
// out again.
const suspectsMost = 1000

// suspects are SKUs whose rows refused what they themselves promised to accept, so that
// their sums disagree with their orders. Nothing else looks for such rows while a sale
// goes on, since it would have to read every order.
type suspects struct {
	mu   sync.Mutex
	skus map[string]struct{}
}

// note suspects the SKU where that is what the error says.
func (s *suspects) note(sku string, err error) {
	if sku != "" && errors.Is(err, errRefused) {
		s.add(sku)
	}
}

func (s *suspects) add(skus ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.skus == nil {
		s.skus = make(map[string]struct{})
	}
	for _, sku := range skus {
		if len(s.skus) < suspectsMost {
			s.skus[sku] = struct{}{}
		}
	}
}

func (s *suspects) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Sorted(maps.Keys(s.skus))
	s.skus = nil
	return names
}

// RepairSuspects computes anew the sums of SKUs whose rows were found here to contradict
// their orders; it is the body of a job of every gateway. One whose rows are held is
// looked at the next time, and holds up no other: the error is sale.ErrPartly then. Other
// errors wrap sale.ErrUnavailable.
func (db *DB) RepairSuspects(ctx context.Context) error {
	var left []error
	names := db.suspects.take()
	for i, sku := range names {
		err := db.repairSKU(ctx, sku)
		switch {
		case errors.Is(err, errHeld), errors.Is(err, errRefused):
			left = append(left, fmt.Errorf("SKU %s: %w", sku, err))
			db.suspects.add(sku)
		case err != nil:
			db.suspects.add(names[i:]...)
			return err
		}
	}
	return notRepaired(left)
}
