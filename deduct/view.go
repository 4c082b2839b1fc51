package deduct

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

// view is what this gateway knows of one SKU's families. Forgetting it costs a look at
// the pointers.
type view struct {
	keys     keyspace
	mu       sync.Mutex
	since    int64 // generations that began before are distrusted
	families map[int]*family
	used     time.Time
	loading  *flight // the rebuild in progress, nil = none
}

// family is what this gateway knows of one segment's copy.
type family struct {
	tag     string
	slot    int        // of its keys, in a Cluster
	gen     generation // in use as far as this gateway knows; zero = unknown
	floor   int64      // began of the newest generation used: Redis must not go back behind it
	touched time.Time  // when its time to live was last set by this gateway
	left    int64      // units left when last asked, at leftAt
	leftAt  time.Time
}

func (s *Shield) view(sku string) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.views[sku]
	if !ok {
		v = &view{keys: s.keys, families: make(map[int]*family)}
		s.views[sku] = v
	}
	v.used = time.Now()
	return v
}

// forgetIdle keeps a gateway's memory at what is on sale now.
func (s *Shield) forgetIdle(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, v := range s.views {
		keep := viewIdle
		v.mu.Lock()
		if v.since != 0 {
			keep = idle
		}
		if v.loading == nil && now.Sub(v.used) > keep {
			delete(s.views, name)
		}
		v.mu.Unlock()
	}
}

// Distrust makes every generation whose loading began before since (Unix ms, ledger's
// clock) unusable for this gateway, of one SKU or, with "", of all: Deduct answers
// Loaded=false until the SKU is rebuilt, here or by another gateway. After the ledger's clock
// was set back, all that were loaded before are meant.
func (s *Shield) Distrust(sku string, since int64) {
	if s.setBack() {
		since = s.now()
	}
	s.newest.raise(since)
	if sku == "" {
		s.since.raise(since)
		return
	}
	v := s.view(sku)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.since = max(v.since, since)
}

// DistrustAll has every copy that is loaded now loaded anew before it is used again.
func (s *Shield) DistrustAll() { s.Distrust("", s.now()) }

// familyOf returns the view's family; the caller holds v.mu.
func (v *view) familyOf(sku string, segment int) *family {
	f, ok := v.families[segment]
	if !ok {
		f = &family{tag: v.keys.tag(sku, segment), slot: slotOf(sku + ":" + strconv.Itoa(segment))}
		v.families[segment] = f
	}
	return f
}

// trusts reports whether a generation may be used; the caller holds v.mu. One that is
// older than what was in use before means that Redis has gone back in time.
func (s *Shield) trusts(v *view, f *family, g generation, sku *sale.SKU) bool {
	return g.name != "" && g.serves(sku) && !s.distrusted(v, f, g) && g.began >= f.floor
}

// stillTrusts reports whether a generation that was used just now has not been distrusted
// meanwhile.
func (s *Shield) stillTrusts(v *view, sku *sale.SKU, segment int, g generation) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return !s.distrusted(v, v.familyOf(sku.Name, segment), g)
}

// distrusted reports whether Distrust was told of a generation; the caller holds v.mu.
func (s *Shield) distrusted(v *view, f *family, g generation) bool {
	return g.began < s.distrustOf(v, f)
}

// distrustOf is since when copies of the family are distrusted, 0 = never; the caller
// holds v.mu.
func (s *Shield) distrustOf(v *view, f *family) int64 {
	return max(s.since.latest(), v.since, s.slots.since(f.slot))
}

// current returns the generation to use, and whether its time to live wants setting.
func (s *Shield) current(v *view, sku *sale.SKU, segment int) (tag string, g generation, touch, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.familyOf(sku.Name, segment)
	if !s.trusts(v, f, f.gen, sku) {
		return f.tag, generation{}, false, false
	}
	if now := time.Now(); now.Sub(f.touched) > idle/4 {
		f.touched, touch = now, true
	}
	return f.tag, f.gen, touch, true
}

// loaded returns the generation to use, for a call that does not count as using it.
func (s *Shield) loaded(v *view, sku *sale.SKU, segment int) (tag string, g generation, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.familyOf(sku.Name, segment)
	return f.tag, f.gen, s.trusts(v, f, f.gen, sku)
}

// adopt takes up the generation that a family's pointer names, if it can be trusted.
func (s *Shield) adopt(v *view, sku *sale.SKU, segment int, pointer string) (generation, bool) {
	g, ok := parseGeneration(pointer)
	if !ok {
		return generation{}, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.familyOf(sku.Name, segment)
	now := s.ledger.Now() + clocksApart
	if since := s.distrustOf(v, f); since != 0 && since <= now && now < g.began && s.newest.latest() < g.began {
		// It comes from before the clock was set back, which this gateway did not know when
		// it was told of a distrust: that may have come later.
		v.since = g.began + 1
	}
	s.newest.raise(g.began)
	if !s.trusts(v, f, g, sku) {
		return generation{}, false
	}
	if f.gen.name != g.name {
		f.gen, f.floor, f.left, f.leftAt = g, max(f.floor, g.began), 0, time.Time{}
	}
	return g, true
}

// follow reads a family's pointer and adopts what it names.
func (s *Shield) follow(ctx context.Context, v *view, sku *sale.SKU, segment int) (generation, bool, error) {
	pointer, err := s.pointer(ctx, s.keys.tag(sku.Name, segment))
	if err != nil {
		return generation{}, false, err
	}
	g, ok := s.adopt(v, sku, segment, pointer)
	return g, ok, nil
}

// pointer reads which generation is in use, "" = none.
func (s *Shield) pointer(ctx context.Context, tag string) (string, error) {
	p, err := s.client.Get(ctx, pointerKey(tag)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", away(err)
	}
	return p, nil
}

// noteLeft remembers how many units a family had left.
func (v *view) noteLeft(segment int, left int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f, ok := v.families[segment]; ok {
		f.left, f.leftAt = left, time.Now()
	}
}

// lastLeft returns what noteLeft remembered, and when.
func (v *view) lastLeft(segment int) (int64, time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f, ok := v.families[segment]; ok {
		return f.left, f.leftAt
	}
	return 0, time.Time{}
}
