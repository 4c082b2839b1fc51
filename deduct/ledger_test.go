package deduct

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"

	"flashgate/sale"
)

var errAway = errors.New("ledger away")

// fakeLedger is the truth of the tests: it refuses what a CHECK would refuse.
type fakeLedger struct {
	mu     sync.Mutex
	now    int64
	sku    sale.SKU
	stock  map[int]sale.Stock
	orders map[sale.OrderID]sale.Order
	buyers map[string]int64
	away   bool
	// loading is set between a load's first read and its read of the stock, which is
	// told from other reads of the stock ("stock" and "stock alone") by it.
	loading bool
	// hooks run, without the lock, before the read of that name.
	hooks map[string]func()
}

func newFakeLedger(sku sale.SKU, stock ...int64) *fakeLedger {
	l := &fakeLedger{now: 1_700_000_000_000, sku: sku, stock: make(map[int]sale.Stock),
		orders: make(map[sale.OrderID]sale.Order), buyers: make(map[string]int64), hooks: make(map[string]func())}
	for i, n := range stock {
		l.stock[i] = sale.Stock{Total: n}
	}
	return l
}

func (l *fakeLedger) enter(name string) error {
	l.mu.Lock()
	hook, away := l.hooks[name], l.away
	l.mu.Unlock()
	if hook != nil {
		hook()
	}
	if away {
		return errAway
	}
	return nil
}

func (l *fakeLedger) Now() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	return l.now
}

// Stocks says the same of every SKU it is asked for.
func (l *fakeLedger) Stocks(_ context.Context, skus []string) (map[string]map[int]sale.Stock, error) {
	l.mu.Lock()
	name := "stock alone"
	if l.loading {
		name, l.loading = "stock", false
	}
	l.mu.Unlock()
	if err := l.enter(name); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]map[int]sale.Stock)
	for _, sku := range skus {
		out[sku] = maps.Clone(l.stock)
	}
	return out, nil
}

func (l *fakeLedger) Holdings(_ context.Context, skus []string, most int) (map[string]*sale.Holdings, error) {
	if err := l.enter("holdings"); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &sale.Holdings{Stock: maps.Clone(l.stock), Partial: len(l.orders) > most || len(l.buyers) > most}
	for id, o := range l.orders {
		h.Orders = append(h.Orders, sale.HeldOrder{ID: id, Segment: o.Segment, Ended: !o.Status.Live()})
	}
	for u, n := range l.buyers {
		if n > 0 {
			h.Users, h.Units = append(h.Users, u), append(h.Units, n)
		}
	}
	return map[string]*sale.Holdings{l.sku.Name: h}, nil
}

func (l *fakeLedger) EachOrder(_ context.Context, _ string, fn func([]sale.HeldOrder) error) error {
	if err := l.enter("orders"); err != nil {
		return err
	}
	l.mu.Lock()
	l.loading = true
	var ids []sale.OrderID
	for id := range l.orders {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return string(ids[i][:]) < string(ids[j][:]) })
	orders := make([]sale.HeldOrder, len(ids))
	for i, id := range ids {
		o := l.orders[id]
		orders[i] = sale.HeldOrder{ID: id, Segment: o.Segment, Ended: !o.Status.Live()}
	}
	l.mu.Unlock()
	for len(orders) > 0 {
		n := min(len(orders), 700)
		if err := fn(orders[:n]); err != nil {
			return err
		}
		orders = orders[n:]
		if err := l.enter("orders chunk"); err != nil {
			return err
		}
	}
	return nil
}

func (l *fakeLedger) EachBuyer(_ context.Context, _ string, fn func([]string, []int64) error) error {
	if err := l.enter("buyers"); err != nil {
		return err
	}
	l.mu.Lock()
	var users []string
	var units []int64
	for u, n := range l.buyers {
		users, units = append(users, u), append(units, n)
	}
	l.mu.Unlock()
	return fn(users, units)
}

func (l *fakeLedger) Find(_ context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	if err := l.enter("find"); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[sale.OrderID]sale.Order)
	for _, id := range ids {
		if o, ok := l.orders[id]; ok {
			out[id] = o
		}
	}
	return out, nil
}

// commit decides claims in order, the way the lock-first path does: segments nil means
// any segment with units.
func (l *fakeLedger) commit(claims []*sale.Claim, segments []int) ([]sale.Outcome, map[int]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]sale.Outcome, len(claims))
	var left map[int]int64
	for i, c := range claims {
		if _, ok := l.orders[c.ID]; ok {
			out[i] = sale.Duplicate
			continue
		}
		if lim := l.sku.PerUserLimit; lim > 0 && l.buyers[c.User]+c.Quantity > lim {
			out[i] = sale.LimitReached
			continue
		}
		segment := -1
		if segments != nil {
			segment = segments[i]
			if l.stock[segment].Available() < c.Quantity {
				if left == nil {
					left = make(map[int]int64)
				}
				left[segment] = l.stock[segment].Available()
				segment = -1
			}
		} else {
			for k := range len(l.stock) {
				if l.stock[k].Available() >= c.Quantity {
					segment = k
					break
				}
			}
		}
		if segment < 0 {
			out[i] = sale.SoldOut
			continue
		}
		st := l.stock[segment]
		st.Sold += c.Quantity
		l.stock[segment] = st
		l.buyers[c.User] += c.Quantity
		l.orders[c.ID] = sale.NewOrder(c, &l.sku, segment, l.now)
		out[i] = sale.Reserved
	}
	return out, left
}

// cancel ends a live order and returns it.
func (l *fakeLedger) cancel(id sale.OrderID) (sale.Order, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, ok := l.orders[id]
	if !ok || !o.Status.Live() {
		return sale.Order{}, false
	}
	o.Status = sale.StatusCancelled
	l.orders[id] = o
	st := l.stock[o.Segment]
	st.Sold -= o.Quantity
	l.stock[o.Segment] = st
	l.buyers[o.User] -= o.Quantity
	return o, true
}

func (l *fakeLedger) restock(segment int, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.stock[segment]
	st.Total += n
	l.stock[segment] = st
}

func (l *fakeLedger) available() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, st := range l.stock {
		n += st.Available()
	}
	return n
}

// check reports a broken invariant of the truth itself.
func (l *fakeLedger) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	sold := make(map[int]int64)
	for _, o := range l.orders {
		if o.Status.Live() {
			sold[o.Segment] += o.Quantity
		}
	}
	for k, st := range l.stock {
		if st.Available() < 0 || st.Sold != sold[k] {
			return fmt.Errorf("segment %d: %+v, orders hold %d", k, st, sold[k])
		}
	}
	return nil
}

// fakeLedgers are the ledgers of several SKUs, by name, as one.
type fakeLedgers map[string]*fakeLedger

// Now is one clock for all of them.
func (ls fakeLedgers) Now() int64 { return ls[slices.Min(slices.Collect(maps.Keys(ls)))].Now() }

func (ls fakeLedgers) Stocks(ctx context.Context, skus []string) (map[string]map[int]sale.Stock, error) {
	out := make(map[string]map[int]sale.Stock)
	for _, sku := range skus {
		stocks, err := ls[sku].Stocks(ctx, []string{sku})
		if err != nil {
			return nil, err
		}
		maps.Copy(out, stocks)
	}
	return out, nil
}

func (ls fakeLedgers) Holdings(ctx context.Context, skus []string, most int) (map[string]*sale.Holdings, error) {
	out := make(map[string]*sale.Holdings)
	for _, sku := range skus {
		held, err := ls[sku].Holdings(ctx, skus, most)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, held)
	}
	return out, nil
}

func (ls fakeLedgers) EachOrder(ctx context.Context, sku string, fn func([]sale.HeldOrder) error) error {
	return ls[sku].EachOrder(ctx, sku, fn)
}

func (ls fakeLedgers) EachBuyer(ctx context.Context, sku string, fn func([]string, []int64) error) error {
	return ls[sku].EachBuyer(ctx, sku, fn)
}

func (ls fakeLedgers) Find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	out := make(map[sale.OrderID]sale.Order)
	for _, l := range ls {
		found, err := l.Find(ctx, ids)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, found)
	}
	return out, nil
}
