package deduct

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// stands reports whether a SKU's copy is used, and how many units it has left. The call
// takes nothing.
func stands(t *testing.T, s *Shield, sku *sale.SKU) (left int64, loaded bool) {
	t.Helper()
	testenv.Eventually(t, func() (ok bool) {
		d, err := s.Deduct(context.Background(), sku, nil, nil)
		left, loaded = d.Left, d.Loaded
		return err == nil
	}, "the shield answers")
	return left, loaded
}

// A link that broke, and a breaker that opened for it, leave copies as they were: they
// are used as soon as the server is reached again.
func TestTheSameServerIsTrustedAgain(t *testing.T) {
	front := testenv.NewProxy(t, testenv.Redis(t).Addr)
	sku := testSKU(0, 1)
	s := newShield(t, front.Addr, newFakeLedger(sku, 10))
	if err := s.Rebuild(context.Background(), &sku); err != nil {
		t.Fatal(err)
	}
	// The link breaks while the server is asked who it is, and afterwards.
	for _, asked := range []string{"server", "replication"} {
		sprung := front.CutBefore(asked)
		front.Cut()
		testenv.Eventually(t, func() bool {
			stands(t, s, &sku)
			select {
			case <-sprung:
				return true
			default:
				front.Cut()
				return false
			}
		}, "the link breaks while the server is asked")
		s.Doubt()
	}
	for range 3 {
		front.Cut()
		s.Doubt() // as on every change of the breaker
		if left, loaded := stands(t, s, &sku); !loaded || left != 10 {
			t.Fatalf("after a broken link: loaded %t, %d left", loaded, left)
		}
	}
}

// A replica that lagged and took its master's place has a copy under the same name, with
// units that were sold: not one batch is judged by it.
func TestAReplicaThatTookOverIsNotTrusted(t *testing.T) {
	master := testenv.Redis(t)
	replica := testenv.RedisReplica(t, master)
	front := testenv.NewProxy(t, master.Addr)
	ctx := context.Background()
	sku := testSKU(0, 1)
	s := newShield(t, front.Addr, newFakeLedger(sku, 10))
	if err := s.Rebuild(ctx, &sku); err != nil {
		t.Fatal(err)
	}
	pointer := master.MustDo(t, "GET", pointerKey(familyTag(sku.Name, 0)))
	testenv.Eventually(t, func() bool {
		return replica.MustDo(t, "GET", pointerKey(familyTag(sku.Name, 0))) == pointer
	}, "the replica has the copy")
	replica.Promote(t)
	if d, err := s.Deduct(ctx, &sku, claims(10, 0), nil); err != nil || d.Left != 0 {
		t.Fatalf("%+v, %v", d, err)
	}
	front.Retarget(replica.Addr)
	front.Cut()
	if left, loaded := stands(t, s, &sku); loaded {
		t.Errorf("a copy with %d units left is used, of which all were sold", left)
	}
}

// Where a server does not say who it is, a breaker's change is all there is to go by.
func TestAServerThatDoesNotSayWhoItIs(t *testing.T) {
	sku := testSKU(0, 1)
	s := newShield(t, startMini(t).Addr(), newFakeLedger(sku, 10))
	if err := s.Rebuild(context.Background(), &sku); err != nil {
		t.Fatal(err)
	}
	if _, loaded := stands(t, s, &sku); !loaded {
		t.Fatal("not loaded")
	}
	testenv.Eventually(t, func() bool {
		s.Doubt()
		_, loaded := stands(t, s, &sku)
		return !loaded
	}, "the copy is distrusted")
}

// A server that may take single keys away is warned of, once.
func TestAServerThatEvictsIsWarnedOf(t *testing.T) {
	for _, policy := range []string{"noeviction", "allkeys-lru"} {
		server := testenv.Redis(t)
		server.MustDo(t, "CONFIG", "SET", "maxmemory-policy", policy)
		var log lines
		sku := testSKU(0, 1)
		s := newShield(t, server.Addr, newFakeLedger(sku, 10), func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		rebuild(t, s, &sku)
		stands(t, s, &sku)
		want := 0
		if policy != "noeviction" {
			want = 1
		}
		if n := strings.Count(log.String(), "policy="+policy); n != want {
			t.Errorf("%s: warned %d times, want %d", policy, n, want)
		}
	}
}

// lines is a log in memory.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
