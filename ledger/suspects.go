package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"flashgate/sale"
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
	if sku == "" || !errors.Is(err, errRefused) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.skus == nil {
		s.skus = make(map[string]struct{})
	}
	if len(s.skus) < suspectsMost {
		s.skus[sku] = struct{}{}
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
			db.suspects.note(sku, errRefused)
		case err != nil:
			for _, again := range names[i:] {
				db.suspects.note(again, errRefused)
			}
			return err
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%w: rows of %d SKUs cannot be repaired, as of %w", sale.ErrPartly, len(left), left[0])
	}
	return nil
}

// repairSKU looks for rows of one SKU that are wrong, without a lock, and again at those
// that it finds.
func (db *DB) repairSKU(ctx context.Context, sku string) error {
	var segments []int
	err := db.listWrong(ctx, `SELECT s.segment FROM stock s WHERE s.sku = ? AND s.sold <> (SELECT COALESCE(SUM(o.quantity), 0) FROM orders o
		WHERE o.sku = s.sku AND o.segment = s.segment AND o.status IN `+live+`)`, []any{sku}, func(r scanner) error {
		segments = append(segments, 0)
		return r.Scan(&segments[len(segments)-1])
	})
	if err != nil {
		return err
	}
	var stock, buyers sale.Repairs
	for _, segment := range segments {
		if err := db.repairStockRow(ctx, sku, segment, &stock); err != nil {
			return err
		}
	}
	db.noteRepairs("stock", stock)
	var users []string
	err = db.listWrong(ctx, `SELECT u.user_id FROM (SELECT b.user_id, b.units AS held, 0 AS live FROM buyers b WHERE b.sku = ?
		UNION ALL SELECT o.user_id, 0, o.quantity FROM orders o WHERE o.sku = ? AND o.status IN `+live+`) u
		GROUP BY u.user_id HAVING SUM(u.held) <> SUM(u.live) ORDER BY u.user_id LIMIT ?`, []any{sku, sku, repairPage}, func(r scanner) error {
		users = append(users, "")
		return r.Scan(&users[len(users)-1])
	})
	if err != nil || len(users) == 0 {
		return err
	}
	// Of a SKU without a limit, or whose buyers are being counted, it repairs none.
	buyers.Repaired, err = db.repairBuyersOf(ctx, sku, users)
	db.noteRepairs("buyers", buyers)
	return err
}

// noteRepairs counts repairs, and says so.
func (db *DB) noteRepairs(table string, done sale.Repairs) {
	db.metrics.repaired.WithLabelValues(table, "repaired").Add(float64(done.Repaired))
	db.metrics.repaired.WithLabelValues(table, "left").Add(float64(done.Left))
	if done != (sale.Repairs{}) {
		db.log.Warn("the ledger's sums disagreed with its orders", "table", table, "repaired", done.Repaired, "left", done.Left)
	}
}
