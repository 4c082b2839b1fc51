package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"flashgate/sale"
)

// moody is a settler that keeps the contract and nothing more: slow, failing,
// finishing out of order, calling admitted early, late, often or never. It checks
// what the queue promises it.
type moody struct {
	rt       *rapid.T
	cfg      Config
	manners  []manner
	mu       sync.Mutex
	rnd      *rand.Rand
	entering map[string]bool
	inflight map[string]int
	last     map[string]int64 // number of the last claim that entered, per SKU
	kept     map[*sale.Claim]bool
	unread   []*sale.Claim // refusals whose waiters had gone away
}

type manner struct {
	admitAfter, endAfter time.Duration // from the batch's beginning
	admits               int
	after                bool // admitted again after the end
	outcome              sale.Outcome
}

func (m *moody) Settle(ctx context.Context, sku string, claims []*sale.Claim, admitted func()) []sale.Verdict {
	m.mu.Lock()
	how := m.manners[m.rnd.IntN(len(m.manners))]
	if m.entering[sku] {
		m.rt.Errorf("a batch of %s enters while another does", sku)
	}
	m.entering[sku] = true
	m.inflight[sku]++
	if n := m.inflight[sku]; n > m.cfg.Inflight {
		m.rt.Errorf("%d batches of %s are in flight", n, sku)
	}
	if n := len(claims); n < 1 || n > m.cfg.MaxBatch {
		m.rt.Errorf("a batch holds %d claims", n)
	}
	for _, c := range claims {
		if c.SKU != sku || c.Quantity <= m.last[sku] {
			m.rt.Errorf("claim %d of %s entered after %d of %s", c.Quantity, c.SKU, m.last[sku], sku)
		}
		m.last[sku] = c.Quantity
	}
	m.mu.Unlock()

	leave := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	leave(how.admitAfter)
	m.mu.Lock()
	m.entering[sku] = false
	m.mu.Unlock()
	for range how.admits {
		admitted()
	}
	leave(how.endAfter)
	if how.after {
		time.AfterFunc(time.Millisecond, admitted)
	}
	m.mu.Lock()
	m.inflight[sku]--
	m.mu.Unlock()
	out := make([]sale.Verdict, len(claims))
	for i := range out {
		if out[i].Outcome = how.outcome; how.outcome == sale.NoOutcome || ctx.Err() != nil {
			out[i] = sale.Verdict{Err: sale.ErrUnavailable}
		}
	}
	return out
}

func (m *moody) Remember(_ context.Context, claims []*sale.Claim, verdicts []sale.Verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, c := range claims {
		if m.kept[c] || !verdicts[i].Outcome.Refusal() {
			m.rt.Errorf("remembered again, or no refusal: %v", verdicts[i])
		}
		m.kept[c] = true
	}
}

func (m *moody) Quiet(context.Context, string) {}

// Whatever the settler does, every accepted claim gets exactly one verdict, in time,
// and the queue is empty in the end.
func TestQueueAgainstModel(t *testing.T) {
	ms := func(rt *rapid.T, most int, what string) time.Duration {
		return time.Duration(rapid.IntRange(0, most).Draw(rt, what)) * time.Millisecond
	}
	rapid.Check(t, func(rt *rapid.T) {
		cfg := Config{
			Capacity: rapid.IntRange(1, 12).Draw(rt, "capacity"), Inflight: rapid.IntRange(1, 3).Draw(rt, "inflight"),
			MaxAge: ms(rt, 300, "age") + 50*time.Millisecond, Linger: ms(rt, 50, "linger") + time.Millisecond,
			DrainTimeout: ms(rt, 400, "drain") + time.Millisecond,
		}
		cfg.MaxBatch = rapid.IntRange(1, cfg.Capacity).Draw(rt, "batch")
		most := int64(cfg.Capacity + rapid.IntRange(0, 40).Draw(rt, "more"))
		manners := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) manner {
			return manner{
				admitAfter: ms(rt, 120, "admit"), endAfter: ms(rt, 200, "end") + time.Millisecond, admits: rapid.IntRange(0, 2).Draw(rt, "admits"),
				after:   rapid.Bool().Draw(rt, "after"),
				outcome: rapid.SampledFrom([]sale.Outcome{sale.NoOutcome, sale.Reserved, sale.SoldOut, sale.Queued}).Draw(rt, "outcome"),
			}
		}), 1, 4).Draw(rt, "manners")
		seed := rapid.Uint64().Draw(rt, "seed")
		n := rapid.IntRange(1, 150).Draw(rt, "claims")
		end := ms(rt, 1500, "run's end")
		synctest.Test(t, func(t *testing.T) { playModel(t, rt, cfg, most, manners, seed, n, end) })
	})
}

func playModel(t *testing.T, rt *rapid.T, cfg Config, most int64, manners []manner, seed uint64, n int, end time.Duration) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	m := &moody{
		rt: rt, cfg: cfg, manners: manners, rnd: rand.New(rand.NewPCG(seed, 2)),
		entering: map[string]bool{}, inflight: map[string]int{}, last: map[string]int64{}, kept: map[*sale.Claim]bool{},
	}
	q, stop := started(t, cfg, m, func(q *Queue) { q.maxWaiting = most })
	stopped := make(chan struct{})
	time.AfterFunc(end, func() {
		defer close(stopped)
		stop() //nolint:errcheck // a drain timeout is part of the play
	})
	var wg sync.WaitGroup
	numbers := map[string]int64{}
	var refused atomic.Int64
	for range n {
		if rnd.IntN(3) == 0 {
			<-time.After(time.Duration(rnd.IntN(40)) * time.Millisecond)
		}
		sku := fmt.Sprint("sku", rnd.IntN(3))
		numbers[sku]++
		// The number in the line stands in Quantity, so that the settler sees the order.
		c := &sale.Claim{
			ID: sale.DeriveOrderID(sku, "user", fmt.Sprint(numbers[sku])), SKU: sku, Quantity: numbers[sku],
			QueuedAt: time.Now().UnixMilli(),
		}
		repeats, leaves := rnd.IntN(3), rnd.IntN(4)
		joined := time.Now()
		ticket, err := q.Join(c, leaves == 0)
		if err != nil {
			refused.Add(1)
			if !errors.Is(err, sale.ErrQueueFull) && !errors.Is(err, sale.ErrShuttingDown) {
				rt.Errorf("Join: %v", err)
			}
			continue
		}
		if d := q.Depth(sku); d > cfg.Capacity {
			rt.Errorf("%d claims wait", d)
		}
		if w := q.Waiting(); w > most {
			rt.Errorf("%d claims wait in all", w)
		}
		wg.Go(func() { m.watch(ticket, joined, leaves < 2, true) })
		// No batch ends in the instant it began, so the first is still undecided.
		for range repeats {
			again, err := q.Join(c, false)
			if err != nil {
				rt.Errorf("a repeat of a claim that waits: %v", err)
				continue
			}
			wg.Go(func() { m.watch(again, joined, false, false) })
		}
	}
	wg.Wait()
	<-stopped
	if n := q.Waiting(); n != 0 {
		rt.Errorf("%d claims wait in the end", n)
	}
	for _, c := range m.unread {
		if !m.kept[c] {
			rt.Error("a refusal nobody read was not remembered")
		}
	}
	for i := range q.lanes {
		if len(q.lanes[i].lanes) != 0 {
			rt.Error("a lane outlives the queue")
		}
	}
}

// watch follows one ticket to its verdict. With leaving, its waiter detaches on the
// way, as a buyer does who stops waiting.
func (m *moody) watch(t *sale.Ticket, joined time.Time, leaving, first bool) {
	patience := m.cfg.MaxAge / 2
	position := t.Position()
	for {
		select {
		case v := <-t.Verdict():
			m.judge(t, v, joined, first)
			return
		case <-time.After(10 * time.Millisecond):
		}
		p := t.Position()
		if p > position || p < 0 {
			m.rt.Errorf("the position went from %d to %d", position, p)
		}
		position = p
		if leaving && time.Since(joined) > patience {
			t.Detach()
			select {
			case v := <-t.Verdict():
				m.judge(t, v, joined, first)
			default:
				v := <-t.Verdict() // to judge it; a waiter that went away would not
				m.judge(t, v, joined, first)
				if v.Outcome.Refusal() {
					m.mu.Lock()
					m.unread = append(m.unread, t.Claim)
					m.mu.Unlock()
				}
			}
			return
		}
	}
}

func (m *moody) judge(t *sale.Ticket, v sale.Verdict, joined time.Time, first bool) {
	if (v.Outcome == sale.NoOutcome) == (v.Err == nil) {
		m.rt.Errorf("a verdict with outcome %q and error %v", v.Outcome, v.Err)
	}
	if v.Outcome == sale.Reserved && !first || v.Outcome == sale.Duplicate && first {
		m.rt.Errorf("first=%t got %q", first, v.Outcome)
	}
	if t.Position() != 0 {
		m.rt.Errorf("answered at position %d", t.Position())
	}
	// The longest it may take: its age, then a batch that began in time.
	if took := time.Since(joined); took > m.cfg.MaxAge+400*time.Millisecond {
		m.rt.Errorf("the verdict took %s", took)
	}
	select {
	case v := <-t.Verdict():
		m.rt.Errorf("a second verdict: %v", v)
	default:
	}
}
