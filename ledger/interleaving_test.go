package ledger

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// act is one step of a random life of a SKU.
type act struct {
	kind     string
	user     int
	order    int // which of the orders made so far
	n        int64
	segments int
}

var actKinds = []string{
	"buy", "buy", "buy", "buy", "buy around", "pay", "pay", "pay again", "pay less", "cancel", "cancel", "expire",
	"add stock", "reduce stock", "limit", "segments", "withhold", "pause", "repair", "restore",
}

func drawActs(r *rapid.T, label string) []act {
	return rapid.SliceOfN(rapid.Custom(func(r *rapid.T) act {
		return act{
			kind: rapid.SampledFrom(actKinds).Draw(r, "kind"), user: rapid.IntRange(0, 4).Draw(r, "user"),
			order: rapid.IntRange(0, 1000).Draw(r, "order"), n: rapid.Int64Range(0, 6).Draw(r, "n"),
			segments: rapid.IntRange(1, 3).Draw(r, "segments"),
		}
	}), 1, 25).Draw(r, label)
}

// play is the acting on one SKU, by several at once.
type play struct {
	b     *bed
	db    *DB
	name  string
	token int64

	mu     sync.Mutex
	orders []sale.Order // as they were reserved
	number int
}

func (p *play) pick(n int) (sale.Order, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.orders) == 0 {
		return sale.Order{}, false
	}
	return p.orders[n%len(p.orders)], true
}

// insist repeats what was disturbed by others too often. Where rows contradict each
// other it never succeeds.
func (p *play) insist(a act) error {
	for hang := time.Now().Add(testenv.Patience); ; {
		if err := p.do(a); !errors.Is(err, errRefused) || time.Now().After(hang) {
			return err
		}
	}
}

// do returns what may not happen: infrastructure's errors.
func (p *play) do(a act) error {
	ctx := p.b.t.Context()
	o, ok := p.pick(a.order)
	switch a.kind {
	case "buy", "buy around":
		return p.buy(a)
	case "expire":
		_, err := p.db.expireDue(ctx, p.token, 1000, p.db.Now()+3_600_000)
		return err
	case "add stock", "reduce stock":
		if a.kind == "reduce stock" {
			a.n = -a.n
		}
		_, _, _, err := p.db.AddStock(ctx, p.name, a.n, "")
		return operators(err)
	case "limit":
		_, _, err := p.db.PatchSKU(ctx, p.name, sale.SKUPatch{PerUserLimit: &a.n})
		return operators(err)
	case "segments":
		_, _, err := p.db.PatchSKU(ctx, p.name, sale.SKUPatch{Segments: &a.segments})
		return operators(err)
	case "withhold":
		_, _, err := p.db.PatchSKU(ctx, p.name, sale.SKUPatch{Reserved: &a.n})
		return operators(err)
	case "pause":
		state := []sale.SaleState{sale.StateOpen, sale.StateOpen, sale.StatePaused, sale.StateClosed}[a.n%4]
		_, _, err := p.db.PatchSKU(ctx, p.name, sale.SKUPatch{State: &state})
		return operators(err)
	case "repair":
		stock, err := p.db.repairStock(ctx)
		if err != nil {
			return err
		}
		buyers, err := p.db.repairBuyers(ctx)
		if stock != (sale.Repairs{}) || buyers != (sale.Repairs{}) {
			return fmt.Errorf("repaired %+v and %+v", stock, buyers)
		}
		return err
	}
	if !ok {
		return nil
	}
	switch a.kind {
	case "pay":
		_, err := p.db.Pay(ctx, paymentOf(&o, fmt.Sprintf("%s-%d", o.ID, a.n%2)))
		return err
	case "pay again":
		_, err := p.db.Pay(ctx, paymentOf(&o, fmt.Sprintf("%s-0", o.ID)))
		return err
	case "pay less":
		q := paymentOf(&o, fmt.Sprintf("%s-0", o.ID))
		q.Amount--
		if _, err := p.db.Pay(ctx, q); !errors.Is(err, sale.ErrPaymentMismatch) {
			return fmt.Errorf("paying less: %w", err)
		}
	case "cancel":
		_, err := p.db.Cancel(ctx, o.ID, o.User)
		if errors.Is(err, sale.ErrAlreadyPaid) || errors.Is(err, sale.ErrOrderExpired) {
			err = nil
		}
		return err
	case "restore":
		o.Status, o.Version = []sale.Status{sale.StatusReserved, sale.StatusPaid, sale.StatusCancelled, sale.StatusExpired}[a.n%4], 2
		if o.Status == sale.StatusReserved {
			o.Version = 1
		}
		_, err := p.db.RestoreOrders(ctx, []sale.Order{o})
		return err
	}
	return nil
}

// operators drops their refusals.
func operators(err error) error {
	var below *sale.StockBelowSoldError
	if errors.As(err, &below) || errors.Is(err, sale.ErrInvalid) {
		return nil
	}
	return err
}

func (p *play) buy(a act) error {
	sku, err := p.db.SKU(p.b.t.Context(), p.name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.number++
	key := fmt.Sprint(p.number)
	p.mu.Unlock()
	c := claim(sku, fmt.Sprintf("user-%d", a.user), key, max(1, a.n%4))
	batch := direct(sku, c)
	if a.kind == "buy" {
		batch = admitted(sku, c)
		batch.Segments[0] = a.segments - 1
	}
	r, err := p.db.Commit(p.b.t.Context(), batch)
	if err != nil {
		return err
	}
	if v := r.Verdicts[0]; v.Outcome == sale.Reserved {
		p.mu.Lock()
		p.orders = append(p.orders, *v.Order)
		p.mu.Unlock()
	}
	return r.Verdicts[0].Err
}

// TestAnyInterleaving plays random lives, three at once on the same SKU: whatever
// happens in whatever order, the audit finds nothing.
func TestAnyInterleaving(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		db := b.open()
		token := b.lead(db)
		n := 0
		rapid.Check(t, func(r *rapid.T) {
			n++
			wished, stock := b.wish(fmt.Sprintf("p-%d", n), rapid.Int64Range(0, 12).Draw(r, "total"), func(s *sale.SKU) {
				s.PerUserLimit = rapid.Int64Range(0, 4).Draw(r, "limit")
				s.Segments = rapid.IntRange(1, 3).Draw(r, "segments")
			})
			b.put(db, wished, stock)
			p := &play{b: b, db: db, name: wished.Name, token: token}
			var wg sync.WaitGroup
			errs := make([]error, 3)
			for w := range errs {
				acts := drawActs(r, fmt.Sprint("acts ", w))
				wg.Go(func() {
					for _, a := range acts {
						if err := p.insist(a); err != nil {
							errs[w] = fmt.Errorf("%+v: %w", a, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				r.Fatal(err)
			}
			for check, f := range b.findings(db) {
				r.Errorf("%s: %+v", check, f)
			}
		})
	})
}
