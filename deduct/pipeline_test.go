package deduct

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	good := Config{Addrs: []string{"x:1"}, DialTimeout: 1, ReadTimeout: 1, PoolSize: 1, MaxBatch: 10, Grace: 1}
	l := newFakeLedger(testSKU(0, 1), 1)
	if _, err := New(good, l); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"address":   func(c *Config) { c.Addrs = nil },
		"batches":   func(c *Config) { c.MaxBatch = maxBatch + 1 },
		"grace":     func(c *Config) { c.Grace = 0 },
		"timeouts":  func(c *Config) { c.ReadTimeout = 0 },
		"pool size": func(c *Config) { c.PoolSize = 0 },
	} {
		c := good
		spoil(&c)
		if _, err := New(c, l); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(good, nil); err == nil {
		t.Error("no ledger: accepted")
	}
	r := prometheus.NewRegistry()
	good.Registerer = r
	if _, err := New(good, l); err != nil {
		t.Fatal(err)
	}
	if _, err := New(good, l); err == nil {
		t.Error("metrics registered twice: accepted")
	}
}

func TestManySKUsShareThePipelines(t *testing.T) {
	m := startMini(t)
	l := newFakeLedger(testSKU(0, 1), 1000)
	s := newShield(t, m.Addr(), l)
	var wg sync.WaitGroup
	for i := range 60 {
		sku := testSKU(0, 1)
		sku.Name = fmt.Sprintf("sku-%d", i)
		wg.Go(func() {
			if err := s.Rebuild(context.Background(), &sku); err != nil {
				t.Error(err)
				return
			}
			for k := range 5 {
				d, err := s.Deduct(context.Background(), &sku, claims(i+1, 100*k), nil)
				if err != nil || d.Left != int64(1000-(k+1)*(i+1)) {
					t.Errorf("%s has %d left, %v", sku.Name, d.Left, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestScriptIsLoadedAgainAfterAFlush(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	s := newShield(t, m.Addr(), newFakeLedger(sku, 10))
	rebuild(t, s, &sku)
	for i := range 3 {
		if err := s.client.ScriptFlush(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
		wantAnswers(t, deduct(t, s, &sku, claims(2, 2*i)), "11")
	}
	if n := left(t, s, &sku); n != 4 {
		t.Errorf("%d units left, want 4: a call was carried out twice", n)
	}
}

func TestBatchThatIsTooLarge(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	s := newShield(t, m.Addr(), newFakeLedger(sku, 10), func(c *Config) { c.MaxBatch = 3 })
	if _, err := s.Deduct(context.Background(), &sku, claims(4, 0), nil); !errors.Is(err, sale.ErrInvalid) {
		t.Fatal(err)
	}
}

// A refusal is about what was asked for: it is no answer to another payload under the
// same key, which was not judged.
func TestSameIDOtherPayload(t *testing.T) {
	sku := testSKU(3, 1)
	s := newShield(t, startMini(t).Addr(), newFakeLedger(sku, 5))
	rebuild(t, s, &sku)
	d := deduct(t, s, &sku, []*sale.Claim{
		claim("a", "k", 4), claim("a", "k", 4), claim("a", "k", 1), // over the limit
		claim("b", "k", 3), claim("b", "k", 3), claim("b", "k", 1),
		claim("c", "k", 3), claim("c", "k", 3), claim("c", "k", 2), // more than are left
	})
	wantAnswers(t, d, "332"+"122"+"442")
}

func TestLargestBatch(t *testing.T) {
	addrs := map[string]string{"embedded": startMini(t).Addr()}
	if !testing.Short() {
		addrs["redis"] = testenv.Redis(t).Addr
	}
	for name, addr := range addrs {
		t.Run(name, func(t *testing.T) {
			sku := testSKU(2, 1)
			l := newFakeLedger(sku, 10_000)
			s := newShield(t, addr, l)
			rebuild(t, s, &sku)
			first := claims(maxBatch, 0)
			d := deduct(t, s, &sku, first)
			// The second orders of all buyers move the first ones: four values each.
			second := make([]*sale.Claim, maxBatch)
			for i := range second {
				second[i] = claim(first[i].User, "second", 1)
			}
			refuseAll := sale.Settlement{Token: d.Token, LedgerLeft: 7}
			d2 := deduct(t, s, &sku, second)
			if n := len(admitted(d2)); n != maxBatch {
				t.Fatalf("%d admitted", n)
			}
			for _, c := range first {
				refuseAll.Refused = append(refuseAll.Refused, sale.Refused{ID: c.ID, User: c.User, Quantity: 1, Restock: true})
			}
			// A give-back of many orders at once is cut up.
			var orders []sale.Order
			for i := range 2 * maxBatch {
				orders = append(orders, sale.NewOrder(second[i%maxBatch], &sku, 0, 1))
			}
			if err := s.Release(context.Background(), &sku, orders); err != nil {
				t.Fatal(err)
			}
			if n := left(t, s, &sku); n != 9000 {
				t.Fatalf("%d units left, want 9000", n)
			}
			d3 := deduct(t, s, &sku, nil, refuseAll)
			if d3.Left != 7 {
				t.Fatalf("%d units left, want 7", d3.Left)
			}
		})
	}
}

func TestUnknownOutcome(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	server := testenv.Redis(t)
	proxy := testenv.NewProxy(t, server.Addr)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	s := newShield(t, proxy.Addr, l)
	rebuild(t, s, &sku)
	wantAnswers(t, deduct(t, s, &sku, claims(1, 0)), "1")

	id := claims(1, 1)[0].ID
	sprung := proxy.SwallowReply(string(id[:]))
	_, err := s.Deduct(context.Background(), &sku, claims(2, 1), nil)
	if !errors.Is(err, sale.ErrUnknown) || !errors.Is(err, sale.ErrUnavailable) {
		t.Fatal(err)
	}
	<-sprung
	// It was carried out, once: the same ids take nothing.
	wantAnswers(t, deduct(t, s, &sku, claims(2, 1)), "22")
	if n := left(t, s, &sku); n != 7 {
		t.Fatalf("%d units left, want 7", n)
	}
}

func TestRedisThatHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	server := testenv.Redis(t)
	sku := testSKU(0, 1)
	// On a busy machine a healthy Redis is as slow as that, too: whatever has to succeed
	// is tried again.
	s := newShield(t, server.Addr, newFakeLedger(sku, 10), func(c *Config) { c.ReadTimeout = 50 * time.Millisecond })
	ctx := context.Background()
	testenv.Eventually(t, func() bool { return s.Rebuild(ctx, &sku) == nil }, "the shield is loaded")
	server.Stop()
	if _, err := s.Deduct(ctx, &sku, claims(1, 0), nil); !errors.Is(err, sale.ErrUnavailable) {
		t.Fatal(err)
	}
	if err := s.Ping(ctx); !errors.Is(err, sale.ErrUnavailable) {
		t.Error(err)
	}
	server.Cont()
	testenv.Eventually(t, func() bool { return s.Ping(ctx) == nil }, "Redis is back")
	// The call that had no answer may have been carried out, and so may tries of this one.
	testenv.Eventually(t, func() bool {
		d, err := s.Deduct(ctx, &sku, claims(3, 0), nil)
		return err == nil && d.Loaded && strings.Trim(answers(d), "12") == "" && d.Left == 7
	}, "three orders have taken three units")
}

func TestCallersThatGiveUp(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	l := newFakeLedger(sku, 10)
	s, stop := startShield(t, m.Addr(), l)
	rebuild(t, s, &sku)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Deduct(ctx, &sku, claims(1, 0), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop()
	if _, err := s.Deduct(context.Background(), &sku, claims(1, 0), nil); !errors.Is(err, sale.ErrShuttingDown) {
		t.Error(err)
	}
	idle, err := New(Config{Addrs: []string{m.Addr()}, DialTimeout: testenv.Patience, ReadTimeout: testenv.Patience, PoolSize: 1, MaxBatch: 1, Grace: 1}, l)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(idle.selling.Close(), idle.client.Close()) }()
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := idle.do(ctx, []any{"evalsha", "", 3, "key"}, 0); !errors.Is(err, sale.ErrOverloaded) || errors.Is(err, sale.ErrUnknown) {
		t.Errorf("not running: %v", err)
	}
}

func TestIdleSKUsAreForgotten(t *testing.T) {
	l := newFakeLedger(testSKU(0, 1), 1)
	s := newShield(t, startMini(t).Addr(), l)
	s.view("idle")
	s.Distrust("distrusted", 5)
	s.forgetIdle(time.Now().Add(viewIdle / 2))
	if len(s.views) != 2 {
		t.Fatal(len(s.views))
	}
	s.forgetIdle(time.Now().Add(2 * viewIdle))
	if _, ok := s.views["distrusted"]; !ok || len(s.views) != 1 {
		t.Fatal(s.views)
	}
	s.forgetIdle(time.Now().Add(2 * idle))
	if len(s.views) != 0 {
		t.Fatal(s.views)
	}
}

func TestForeignIsBounded(t *testing.T) {
	var f foreign
	f.init()
	for i := range maxForeign + 10 {
		f.add(sale.BatchToken(i+1), 3)
	}
	if len(f.of) > maxForeign {
		t.Fatal(len(f.of))
	}
	if got := fmt.Sprint(f.pop(maxForeign+5, 0), f.pop(maxForeign+5, 0)); got != "[0 3] [0]" {
		t.Error(got)
	}
}

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	addrs := testenv.Cluster(t, 3).Addrs()
	ctx := context.Background()
	l := newFakeLedger(testSKU(2, 4), 5, 5, 5, 5)
	s := newShield(t, addrs[0], l, func(c *Config) { c.Addrs = addrs; c.Grace = 50 * time.Millisecond })
	if _, ok := s.client.(*redis.ClusterClient); !ok {
		t.Fatalf("several addresses give a %T", s.client)
	}
	if err := s.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		sku := testSKU(2, 4)
		sku.Name = fmt.Sprintf("sku-%d", i)
		wg.Go(func() {
			if err := s.Rebuild(ctx, &sku); err != nil {
				t.Error(err)
				return
			}
			d, err := s.Deduct(ctx, &sku, claims(21, 0), nil)
			if err != nil || answers(d) != "111111111111111111114" {
				t.Error(answers(d), err)
			}
		})
	}
	wg.Wait()
	if err := s.Remember(ctx, []sale.Order{sale.Rejected(claims(1, 0)[0], sale.SoldOut), sale.Rejected(claims(1, 1)[0], sale.SoldOut)}, time.Minute); err != nil {
		t.Fatal(err)
	}
	total := 0
	testenv.Eventually(t, func() bool {
		rep, err := s.Reconcile(ctx)
		if err != nil {
			t.Fatal(err)
		}
		total += rep.Returned
		return total == 12*20 && rep.Families == 48 && rep.Tentative == 0
	}, "the reconciler finds the batches on every master")
}
