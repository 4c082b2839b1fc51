package gateway

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBucket(t *testing.T) {
	k := newBuckets("user", Limit{Rate: 10, Burst: 3}, 64)
	now := time.Now()
	for i := range 3 {
		if _, ok := k.allow(1, now); !ok {
			t.Fatalf("request %d of a burst of 3 was refused", i+1)
		}
	}
	delay, ok := k.allow(1, now)
	if ok || delay <= 0 || delay > 101*time.Millisecond {
		t.Fatalf("after the burst: %v %v", delay, ok)
	}
	if _, ok := k.allow(2, now); !ok {
		t.Error("another key shares the bucket")
	}
	if _, ok := k.allow(1, now.Add(delay)); !ok {
		t.Error("the delay that was told did not suffice")
	}
	if newBuckets("user", Limit{}, 64) != nil {
		t.Error("rate 0 is not off")
	}
}

// size is the number of keys remembered.
func (k *buckets) size() (n int) {
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		n += len(s.slots)
		s.mu.Unlock()
	}
	return n
}

// A million addresses leave memory as it is, and do not free one that keeps coming.
func TestAMillionAddresses(t *testing.T) {
	const entries = 1 << 14
	l := newLimiters(Limits{IP: Limit{Rate: 1, Burst: 5}, MaxEntries: entries})
	now := time.Now()
	greedy := netip.MustParseAddr("203.0.113.9")
	through := 0
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range 1_000_000 {
		l.byAddr(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
		if i%1000 == 0 {
			if _, ok := l.byAddr(greedy, now); ok {
				through++
			}
		}
	}
	if n := l.ip.size(); n != entries {
		t.Errorf("%d entries are remembered, the bound is %d", n, entries)
	}
	if grown := int64(heap()) - int64(before); grown > 400*entries {
		t.Errorf("memory grew by %d bytes for %d entries", grown, entries)
	}
	if through != 5 {
		t.Errorf("an address at its limit came through %d times, its burst is 5", through)
	}
}

func TestIPv6CountsByNetwork(t *testing.T) {
	l := newLimiters(Limits{IP: Limit{Rate: 1, Burst: 1}, MaxEntries: 64})
	now := time.Now()
	a, b, c := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff:2"), netip.MustParseAddr("2001:db8:0:1::1")
	_, first := l.byAddr(a, now)
	_, same := l.byAddr(b, now)
	_, other := l.byAddr(c, now)
	if !first || same || !other {
		t.Errorf("first %v, same /64 %v, other /64 %v", first, same, other)
	}
}

func TestLimitsAtTheEdge(t *testing.T) {
	one := Limit{Rate: 0.5, Burst: 1}
	for name, set := range map[string]func(*Limits){
		"user":   func(l *Limits) { l.User = one },
		"ip":     func(l *Limits) { l.IP = one },
		"sku":    func(l *Limits) { l.SKU = one },
		"global": func(l *Limits) { l.Global = one },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // buckets fill by the clock
				w := newWorld(t, func(c *Config) { set(&c.Limits) })
				w.queue.rule = reserved
				if r := w.buyer(t, purchase("")); r.status != 201 {
					t.Fatalf("%d %s", r.status, r.body)
				}
				r := w.buyer(t, purchase(""))
				r.check(t, 429, "rate_limited")
				if r.header("RateLimit-Policy") != fmt.Sprintf("%q;q=1;w=2", name) || !strings.HasPrefix(r.header("RateLimit"), fmt.Sprintf("%q;r=0;t=", name)) || r.header("Retry-After") != "2" {
					t.Errorf("%s | %s | %s", r.header("RateLimit-Policy"), r.header("RateLimit"), r.header("Retry-After"))
				}
				if name == "user" {
					c := call{method: "POST", path: "/v1/skus/phone/orders", header: []string{"X-User-ID", "bob"}}
					if r := w.buyer(t, c); r.status != 201 {
						t.Errorf("another buyer: %d", r.status)
					}
				}
				if name == "ip" {
					c := purchase("", "X-Forwarded-For", "198.51.100.1")
					if r := w.buyer(t, c); r.status != 201 {
						t.Errorf("another address: %d", r.status)
					}
					w.buyer(t, call{method: "GET", path: "/v1/skus/phone"}).check(t, 429, "rate_limited")
				}
			})
		})
	}
}

func TestLimitsRefuseConfiguration(t *testing.T) {
	for name, spoil := range map[string]func(*Limits){
		"negative":   func(l *Limits) { l.User.Rate = -1 },
		"no burst":   func(l *Limits) { l.IP.Rate = 1 },
		"NaN":        func(l *Limits) { l.SKU = Limit{Rate: math.NaN(), Burst: 1} },
		"infinite":   func(l *Limits) { l.Global = Limit{Rate: math.Inf(1), Burst: 1} },
		"no entries": func(l *Limits) { l.MaxEntries = 0 },
	} {
		l := Limits{MaxEntries: limitShards}
		if err := l.validate(); err != nil {
			t.Fatal(err)
		}
		if spoil(&l); l.validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
