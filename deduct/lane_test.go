package deduct

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// countingBreaker counts what goes through it.
type countingBreaker struct {
	mu            sync.Mutex
	began, failed int
}

func (b *countingBreaker) Do(ctx context.Context, call func(context.Context) error) error {
	b.mu.Lock()
	b.began++
	b.mu.Unlock()
	err := call(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.failed++
	}
	return err
}

func (b *countingBreaker) counts() (began, failed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.began, b.failed
}

// shards is a Cluster, a SKU on each of its masters, and a breaker in front of each.
type shards struct {
	*testenv.RedisCluster
	s        *Shield
	skus     []*sale.SKU
	mu       sync.Mutex
	breakers map[string]*countingBreaker
}

func newShards(t *testing.T, l *fakeLedger) *shards {
	t.Helper()
	c := &shards{RedisCluster: testenv.Cluster(t, 3), breakers: make(map[string]*countingBreaker)}
	c.skus = make([]*sale.SKU, len(c.Masters))
	for i, left := 0, len(c.skus); left > 0; i++ {
		sku := testSKU(0, 1)
		sku.Name = fmt.Sprint("sku-", i)
		if at := c.MasterOf(t, pointerKey(familyTag(sku.Name, 0))); c.skus[at] == nil {
			c.skus[at] = &sku
			left--
		}
	}
	c.s = newShield(t, c.Masters[0].Addr, l, func(cfg *Config) {
		cfg.Addrs = c.Addrs()
		cfg.Breaker = func(server string) Breaker {
			b := &countingBreaker{}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.breakers[server] = b
			return b
		}
	})
	for _, sku := range c.skus {
		rebuild(t, c.s, sku)
		wantAnswers(t, deduct(t, c.s, sku, nil), "")
	}
	return c
}

func (c *shards) breaker(i int) *countingBreaker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.breakers[c.Masters[i].Addr]
}

// However many calls of one master's SKUs hang, those of the others go on, and nothing is
// counted against their masters.
func TestAMasterThatHangsHoldsUpNoOther(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	c := newShards(t, newFakeLedger(testSKU(0, 1), 1_000_000))
	c.Masters[0].Stop()
	var hanging sync.WaitGroup
	before, _ := c.breaker(0).counts()
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 * pipelines {
		hanging.Go(func() { _, _ = c.s.Deduct(ctx, c.skus[0], claims(1, 0), nil) })
	}
	testenv.Eventually(t, func() bool { n, _ := c.breaker(0).counts(); return n == before+4*pipelines }, "the calls are on their way")
	for i := range 200 {
		for _, sku := range c.skus[1:] {
			wantAnswers(t, deduct(t, c.s, sku, claims(1, i)), "1")
		}
	}
	cancel()
	c.Masters[0].Cont()
	hanging.Wait()
	for i := range c.skus {
		if _, failed := c.breaker(i).counts(); (failed > 0) != (i == 0) {
			t.Errorf("%d calls of master %d are counted as failed", failed, i)
		}
	}
}

// A master that comes back as another server, empty or older, has its own copies loaded
// anew, and nobody else's.
func TestOnlyTheChangedMastersCopiesAreDistrusted(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	l := newFakeLedger(testSKU(0, 1), 1_000_000)
	c := newShards(t, l)
	loaded := func(i int) bool {
		d, err := c.s.Deduct(t.Context(), c.skus[i], nil, nil)
		return err == nil && d.Loaded
	}
	c.Masters[0].MustDo(t, "SAVE") // so that it comes back with its copy
	c.Masters[0].Kill()
	testenv.Eventually(t, func() bool { return !loaded(0) }, "it is away")
	c.Masters[0].Restart(t)
	testenv.Eventually(t, func() bool {
		_, err := c.s.Deduct(t.Context(), c.skus[0], nil, nil)
		return err == nil
	}, "it is back")
	if n := c.Masters[0].MustDo(t, "EXISTS", pointerKey(familyTag(c.skus[0].Name, 0))); n != "1" {
		t.Fatal("it has come back empty")
	}
	if loaded(0) || !loaded(1) || !loaded(2) {
		t.Errorf("copies in use: %t, %t, %t, want the others' only", loaded(0), loaded(1), loaded(2))
	}
	rebuild(t, c.s, c.skus[0])
	if !loaded(0) {
		t.Error("it is not loaded anew")
	}
}
