package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flashgate/sale"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is ledger, outbox, results stream and shield in memory. Whatever happens in it
// happens as in the real ones: an order and its outbox rows at once, then a publication,
// then the row's end.
type world struct {
	orders  map[sale.OrderID]sale.Order
	outbox  []message
	stream  []message // Seq = index + 1
	dropped int       // so many messages of the stream's beginning are gone
	since   int64
	total   int64
	sold    int64
	copies  []sale.ShieldCopy
	heat    sale.Heat
	parked  int64
	differs []string // of the streams
	checks  []sale.Checked
	away    map[string]error
	refunds []sale.Refund
	last    int64                  // when something was last done
	changed map[sale.OrderID]int64 // when each order was
	touched []string               // SKUs, besides those told of
	changes int64                  // position of the last change
	made    int64                  // which stream it is
	step    func()                 // called whenever somebody reads: the world moves on
	next    int
	decode  map[string]message // outbox payloads, by their text
}

func (w *world) payloads() map[string]message {
	if w.decode == nil {
		w.decode = make(map[string]message)
	}
	return w.decode
}

// message is a batch of events of one kind; an empty kind is no batch.
type message struct {
	kind   sale.Kind
	orders []sale.Order
}

func newWorld() *world {
	return &world{orders: make(map[sale.OrderID]sale.Order), total: 1000, heat: sale.HeatHot, away: make(map[string]error), changed: make(map[sale.OrderID]int64),
		copies: []sale.ShieldCopy{{SKU: "shoe", Left: 1000}}}
}

const began = int64(1_700_000_000_000)

// reserve makes an order; the shield has taken its units and heard of it.
func (w *world) reserve(coupon string) sale.Order {
	w.next++
	user := strconv.Itoa(w.next)
	c := &sale.Claim{ID: sale.DeriveOrderID("shoe", user, "k"), SKU: "shoe", User: user, Quantity: 1, Coupon: coupon, Hash: sale.HashRequest(1, coupon)}
	w.last = max(w.last+1, began+int64(w.next)*1000)
	o := sale.NewOrder(c, &sale.SKU{Name: "shoe", UnitPrice: 5, Currency: "EUR", PayWithin: 900_000}, 0, w.last)
	w.commit(o, sale.KindReserved)
	if coupon != "" {
		w.outbox = append(w.outbox, message{sale.KindCouponRedeem, []sale.Order{o}})
	}
	w.sold++
	w.copies[0].Left--
	return o
}

func (w *world) commit(o sale.Order, kinds ...sale.Kind) {
	w.orders[o.ID], w.changed[o.ID] = o, w.last
	for _, k := range kinds {
		w.outbox = append(w.outbox, message{k, []sale.Order{w.told(o)}})
	}
}

// told is the order as an event tells it.
func (w *world) told(o sale.Order) sale.Order {
	if o.Version > 1 {
		o.ChangedAt = w.last
	}
	return o
}

// change moves an order on; what it gives back or takes, the shield hears at once.
func (w *world) change(o sale.Order, to sale.Status) sale.Order {
	w.last++
	live := o.Status.Live()
	o.Status = to
	o.Version++
	w.commit(o, sale.Kind("results."+to.String()))
	if to == sale.StatusPaid {
		w.outbox = append(w.outbox, message{sale.KindInventoryDeduct, []sale.Order{w.told(o)}})
	} else if o.Coupon != "" {
		w.outbox = append(w.outbox, message{sale.KindCouponRelease, []sale.Order{w.told(o)}})
	}
	if live != to.Live() {
		n := int64(1)
		if live {
			n = -1
		}
		w.sold += n
		w.copies[0].Left -= n
	}
	return o
}

// publish stores the outbox's first rows on the stream, and ack forgets them.
func (w *world) publish(n int) { w.stream = append(w.stream, w.outbox[:n]...) }
func (w *world) ack(n int)     { w.outbox = slices.Clone(w.outbox[n:]) }

func (w *world) publishAll() {
	w.publish(len(w.outbox))
	w.ack(len(w.outbox))
}

// fill fills the world with orders in all states.
func (w *world) fill(n int) []sale.Order {
	var all []sale.Order
	for i := range n {
		o := w.reserve([]string{"", "TEN"}[i%2])
		switch i % 6 {
		case 1:
			o = w.change(o, sale.StatusPaid)
		case 2:
			o = w.change(o, sale.StatusCancelled)
		case 3:
			o = w.change(w.change(o, sale.StatusExpired), sale.StatusPaid)
		case 4:
			o = w.change(o, sale.StatusExpired)
		}
		all = append(all, o)
	}
	return all
}

func (w *world) read(part string) error {
	if w.step != nil {
		w.step()
	}
	return w.away[part]
}

// The ledger.

func (w *world) Now() int64 { return began }

func (w *world) Checks(_ context.Context, _ int, skus []string, fn func(sale.Checked) error) error {
	if err := w.read("ledger"); err != nil {
		return err
	}
	for _, c := range w.checks {
		if skus != nil && !slices.Contains(skus, c.Findings[0].SKU) {
			c.Findings = nil
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

type frozen struct {
	w       *world
	orders  []sale.Order
	outbox  []message
	changed map[sale.OrderID]int64
	at      int64
}

func (w *world) Snapshot(_ context.Context, fn func(Snapshot) error) error {
	if err := w.read("ledger"); err != nil {
		return err
	}
	byID := func(a, b sale.Order) int { return slices.Compare(a.ID[:], b.ID[:]) }
	return fn(&frozen{w, slices.SortedFunc(maps.Values(w.orders), byID), slices.Clone(w.outbox), maps.Clone(w.changed), w.last})
}

func (f *frozen) EachOrder(_ context.Context, from, to sale.OrderID, fn func([]sale.Order) error) error {
	var in []sale.Order
	for _, o := range f.orders {
		if slices.Compare(o.ID[:], from[:]) >= 0 && slices.Compare(o.ID[:], to[:]) <= 0 {
			in = append(in, o)
		}
	}
	for chunk := range slices.Chunk(in, 3) {
		if err := f.w.read("ledger"); err != nil {
			return err
		}
		if err := fn(slices.Clone(chunk)); err != nil {
			return err
		}
	}
	return nil
}

func (f *frozen) EachPending(_ context.Context, fn func(sale.OutboxRow) error) error {
	for i, m := range f.outbox {
		if err := f.w.read("ledger"); err != nil {
			return err
		}
		payload := fmt.Append(nil, i)
		f.w.payloads()[string(payload)] = m
		if err := fn(sale.OutboxRow{ID: int64(i + 1), SKU: "shoe", Payload: payload}); err != nil {
			return err
		}
	}
	return nil
}

func (f *frozen) EachRefund(_ context.Context, skus []string, fn func([]sale.Refund) error) error {
	if err := f.w.read("ledger"); err != nil {
		return err
	}
	if skus != nil && !slices.Contains(skus, "shoe") {
		return nil
	}
	return fn(f.w.refunds)
}

func (f *frozen) Position(_ context.Context, margin time.Duration) (sale.AuditPosition, error) {
	p := sale.AuditPosition{At: f.at + 1, Change: f.w.changes}
	for _, m := range f.outbox {
		for _, o := range m.orders {
			p.At = min(p.At, max(o.ReservedAt, o.ChangedAt))
		}
	}
	p.At -= margin.Milliseconds()
	return p, f.w.read("ledger")
}

func (f *frozen) Touched(context.Context, sale.AuditPosition) ([]string, error) {
	return f.w.touched, f.w.read("ledger")
}

func (f *frozen) EachChanged(_ context.Context, sku string, since int64, fn func([]sale.Changed) error) error {
	var changed []sale.Changed
	for _, o := range f.orders {
		if at := f.changed[o.ID]; o.SKU == sku && at >= since {
			changed = append(changed, sale.Changed{Order: o, Since: at})
		}
	}
	if err := f.w.read("ledger"); err != nil {
		return err
	}
	return fn(changed)
}

func (w *world) Find(_ context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	if err := w.read("ledger"); err != nil {
		return nil, err
	}
	found := make(map[sale.OrderID]sale.Order)
	for _, id := range ids {
		if o, ok := w.orders[id]; ok {
			found[id] = o
		}
	}
	return found, nil
}

func (w *world) Stock(context.Context, string) (map[int]sale.Stock, error) {
	if err := w.read("ledger"); err != nil {
		return nil, err
	}
	return map[int]sale.Stock{0: {Total: w.total, Sold: w.sold}}, nil
}

func (w *world) SKU(context.Context, string) (*sale.SKU, error) {
	if err := w.read("ledger"); err != nil {
		return nil, err
	}
	return &sale.SKU{Name: "shoe", Heat: w.heat}, nil
}

// The stream.

// streamed is the world as Results.
type streamed struct{ *world }

func (w streamed) Extent(context.Context) (sale.Extent, error) {
	return sale.Extent{Last: uint64(len(w.stream)), Since: w.since, Made: began - w.made}, w.read("nats")
}

func (w streamed) EachEvent(_ context.Context, first, last uint64, fn func(sale.Kind, []sale.Order, uint64) error) error {
	for i := max(w.dropped, int(first)-1); i < int(last); i++ {
		if err := w.read("nats"); err != nil {
			return err
		}
		if err := fn(w.stream[i].kind, w.stream[i].orders, uint64(i+1)); err != nil {
			return err
		}
	}
	return nil
}

func (w streamed) Decode(payload []byte) (sale.Kind, []sale.Order, error) {
	m := w.payloads()[string(payload)]
	if m.kind == "" {
		return "", nil, errors.New("no events")
	}
	return m.kind, m.orders, nil
}

func (w streamed) CompareStreams(context.Context) ([]string, error) {
	return w.differs, w.read("nats")
}

func (w streamed) Parked(context.Context, string) (int64, error) { return w.parked, w.read("nats") }

// The shield.

func (w *world) Loaded(context.Context) ([]string, error) { return []string{"shoe"}, w.read("redis") }

func (w *world) Copies(context.Context, string) ([]sale.ShieldCopy, error) {
	if err := w.read("redis"); err != nil {
		return nil, err
	}
	copies := slices.Clone(w.copies)
	for i := range copies {
		copies[i].Tentative = slices.Clone(copies[i].Tentative)
	}
	return copies, nil
}

// auditor makes an auditor that does not wait.
func (w *world) auditor(t testing.TB, change ...func(*Auditor)) *Auditor {
	t.Helper()
	a, err := New(Config{MaxOrders: 1 << 20}, w, w, streamed{w})
	if err != nil {
		t.Fatal(err)
	}
	a.pause = 0
	for _, fn := range change {
		fn(a)
	}
	return a
}

// found audits and returns the findings' number by check, of those that are not fine.
func found(t testing.TB, a *Auditor) (map[string]int, Report) {
	t.Helper()
	return foundSince(t, a, sale.AuditPosition{})
}

func foundSince(t testing.TB, a *Auditor, since sale.AuditPosition) (map[string]int, Report) {
	t.Helper()
	r, err := a.Audit(context.Background(), since)
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]int)
	for i := range r.Checks {
		if c := &r.Checks[i]; !c.OK() {
			m[c.Check] = cmp.Or(len(c.Findings), -1)
		}
	}
	return m, r
}
