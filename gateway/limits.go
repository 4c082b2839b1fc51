package gateway

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"golang.org/x/time/rate"
)

// Limit is a token bucket. Rate 0 turns it off.
type Limit struct {
	Rate  float64 // requests per second
	Burst int     // how many may come at once
}

// Limits are the buckets that purchases and reads pass through.
type Limits struct {
	User   Limit
	IP     Limit // IPv6 addresses count by their /64
	SKU    Limit
	Global Limit
	// MaxEntries is how many users, addresses and SKUs each are remembered at a time.
	MaxEntries int
}

func (l *Limits) validate() error {
	if l.MaxEntries < limitShards {
		return fmt.Errorf("limits: max_entries must be at least %d", limitShards)
	}
	for name, x := range map[string]Limit{"user": l.User, "ip": l.IP, "sku": l.SKU, "global": l.Global} {
		switch {
		case x.Rate < 0 || math.IsNaN(x.Rate) || math.IsInf(x.Rate, 0):
			return fmt.Errorf("limits: the rate of %s must be 0 (off) or more", name)
		case x.Rate > 0 && x.Burst < 1:
			return errors.New("limits: the burst of " + name + " must be at least 1")
		}
	}
	return nil
}

// limiters are the buckets at work. A nil one is off.
type limiters struct {
	seed   maphash.Seed
	user   *buckets
	ip     *buckets
	sku    *buckets
	global *buckets
}

func newLimiters(cfg Limits) *limiters {
	l := &limiters{seed: maphash.MakeSeed()}
	l.user = newBuckets("user", cfg.User, cfg.MaxEntries)
	l.ip = newBuckets("ip", cfg.IP, cfg.MaxEntries)
	l.sku = newBuckets("sku", cfg.SKU, cfg.MaxEntries)
	l.global = newBuckets("global", cfg.Global, limitShards)
	return l
}

func (l *limiters) byName(k *buckets, name string, now time.Time) (time.Duration, bool) {
	return k.allow(maphash.String(l.seed, name), now)
}

func (l *limiters) byAddr(a netip.Addr, now time.Time) (time.Duration, bool) {
	b := a.As16()
	if a.Is6() {
		clear(b[8:])
	}
	return l.ip.allow(maphash.Bytes(l.seed, b[:]), now)
}

const limitShards = 64

// buckets is one bucket per key in bounded memory: no strings, only hashes of them (two
// keys share a bucket with a chance of about one in 2^32 at 100,000 entries), in a fixed
// number of slots that are given up by second chance. A key that keeps coming keeps
// its slot; one that is forgotten starts with a full bucket. TestAMillionAddresses
// measures both. BenchmarkHandler: 0.1 us for each of the four limits.
type buckets struct {
	name   string
	limit  rate.Limit
	burst  int
	policy string // the RateLimit-Policy field
	most   int    // slots per shard
	shards [limitShards]limitShard
}

type limitShard struct {
	mu    sync.Mutex
	index map[uint64]int32
	slots []limitSlot
	hand  int
}

type limitSlot struct {
	key    uint64
	seen   bool // since the hand last passed
	bucket *rate.Limiter
}

func newBuckets(name string, cfg Limit, entries int) *buckets {
	if cfg.Rate == 0 {
		return nil
	}
	k := &buckets{name: name, limit: rate.Limit(cfg.Rate), burst: cfg.Burst, most: entries / limitShards}
	window := int64(math.Max(1, math.Ceil(float64(cfg.Burst)/cfg.Rate)))
	k.policy = `"` + name + `";q=` + strconv.Itoa(cfg.Burst) + `;w=` + strconv.FormatInt(window, 10)
	for i := range k.shards {
		k.shards[i].index = make(map[uint64]int32)
	}
	return k
}

// allow spends one token of the key's bucket, or says after how long there will be one.
func (k *buckets) allow(key uint64, now time.Time) (time.Duration, bool) {
	s := &k.shards[key%limitShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(k, key)
	if b.AllowN(now, 1) {
		return 0, true
	}
	missing := 1 - b.TokensAt(now)
	return time.Duration(math.Ceil(missing / float64(k.limit) * float64(time.Second))), false
}

// bucket finds the key's bucket or makes it, giving up another's slot when all are
// taken. The hand looks at no more than eight slots, so that a flood of new keys costs
// each of them the same.
func (s *limitShard) bucket(k *buckets, key uint64) *rate.Limiter {
	if i, ok := s.index[key]; ok {
		s.slots[i].seen = true
		return s.slots[i].bucket
	}
	fresh := limitSlot{key: key, bucket: rate.NewLimiter(k.limit, k.burst)}
	if len(s.slots) < k.most {
		s.index[key] = int32(len(s.slots))
		s.slots = append(s.slots, fresh)
		return fresh.bucket
	}
	for range 8 {
		s.hand = (s.hand + 1) % len(s.slots)
		if !s.slots[s.hand].seen {
			break
		}
		s.slots[s.hand].seen = false
	}
	delete(s.index, s.slots[s.hand].key)
	s.slots[s.hand] = fresh
	s.index[key] = int32(s.hand)
	return fresh.bucket
}

// refuseLimited answers a request that found its bucket empty. The fields are those of
// draft-ietf-httpapi-ratelimit-headers.
func (g *Gateway) refuseLimited(c *fiber.Ctx, k *buckets, delay time.Duration) error {
	seconds := int64(math.Max(1, math.Ceil(delay.Seconds())))
	if err := g.refuse(c, rateLimited); err != nil {
		return err
	}
	resp := &c.Context().Response
	resp.Header.Set("RateLimit-Policy", k.policy)
	resp.Header.Set("RateLimit", `"`+k.name+`";r=0;t=`+strconv.FormatInt(seconds, 10))
	setRetryAfter(resp, seconds)
	return nil
}
