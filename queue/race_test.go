package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// roomy is a configuration in which, in real time, nothing is full or late.
func roomy() Config {
	cfg := config()
	cfg.Capacity, cfg.MaxAge, cfg.DrainTimeout = 100_000, time.Hour, time.Hour
	return cfg
}

// Real goroutines: whoever joins while the queue closes is refused or answered.
func TestJoinRacesWithClosing(t *testing.T) {
	for round := range 60 {
		d := &plain{}
		cfg := roomy()
		cfg.Linger = time.Microsecond
		q, stop := started(t, cfg, d, func(q *Queue) { q.maxWaiting = maxWaiting })
		begin := make(chan struct{})
		var wg sync.WaitGroup
		var accepted, refused atomic.Int64
		for w := range 4 {
			wg.Go(func() {
				<-begin
				for i := range 200 {
					ticket, err := q.Join(claimAt(fmt.Sprint("sku", (w+i)%7), fmt.Sprint(round, " ", i%50)), i%5 == 0)
					switch {
					case err == nil:
						accepted.Add(1)
						select {
						case v := <-ticket.Verdict():
							if v.Err == nil && v.Outcome == sale.NoOutcome {
								t.Error("an empty verdict")
							}
						case <-time.After(testenv.Patience):
							t.Error("an accepted claim got no verdict")
							return
						}
					case errors.Is(err, sale.ErrShuttingDown):
						refused.Add(1)
					default:
						t.Errorf("Join: %v", err)
					}
				}
			})
		}
		close(begin)
		for range round * 20 {
			runtime.Gosched()
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		assertEmpty(t, q)
		if n := accepted.Load() + refused.Load(); n != 800 {
			t.Errorf("%d claims were accepted or refused, want 800", n)
		}
	}
}

// plain refuses everything at once and counts what it is told to remember.
type plain struct {
	mu   sync.Mutex
	kept map[*sale.Claim]int
}

func (p *plain) Settle(_ context.Context, _ string, claims []*sale.Claim, admitted func()) []sale.Verdict {
	admitted()
	out := make([]sale.Verdict, len(claims))
	for i := range out {
		out[i].Outcome = sale.SoldOut
	}
	return out
}

func (p *plain) Remember(_ context.Context, claims []*sale.Claim, _ []sale.Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == nil {
		p.kept = map[*sale.Claim]int{}
	}
	for _, c := range claims {
		p.kept[c]++
	}
}

func (p *plain) Quiet(context.Context, string) {}

// Real goroutines: of a verdict and a waiter that detaches at the same time, one sees
// the other.
func TestDetachRacesWithTheVerdict(t *testing.T) {
	d := &plain{}
	q, stop := started(t, roomy(), d, func(q *Queue) { q.maxWaiting = maxWaiting })
	const n = 5000
	unread := make([]*sale.Claim, 0, n)
	var read []*sale.Claim
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		c := claimAt("s", fmt.Sprint(i))
		ticket, err := q.Join(c, false)
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			<-ticket.Verdict()
			read = append(read, c)
			continue
		}
		for range rnd.IntN(4) {
			runtime.Gosched()
		}
		ticket.Detach()
		select {
		case <-ticket.Verdict(): // it was there: the waiter has it
		default:
			unread = append(unread, c)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, c := range unread {
		if d.kept[c] != 1 {
			t.Fatalf("a verdict nobody read was remembered %d times", d.kept[c])
		}
	}
	for _, c := range read {
		if d.kept[c] != 0 {
			t.Fatal("a verdict was remembered though its waiter never went away")
		}
	}
	t.Logf("%d of %d went unread", len(unread), n)
}
