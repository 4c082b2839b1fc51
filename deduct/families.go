package deduct

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// scanCount is how many keys one SCAN step looks at.
const scanCount = 1000

// known is the families that the last scan found. Scanning reads every key, verdicts
// too, so that it is not done in every run: a family that is younger than half the
// grace has nothing to be judged yet.
type known struct {
	mu   sync.Mutex
	tags []familyKey
	at   time.Time
}

// families returns the families to look at and, when it had to scan for them, the keys
// of tentative batches.
func (s *Shield) families(ctx context.Context) (tags, batches []familyKey, err error) {
	s.known.mu.Lock()
	tags, at := s.known.tags, s.known.at
	s.known.mu.Unlock()
	now := time.Now()
	if now.Sub(at) < s.cfg.Grace/2 {
		return tags, nil, nil
	}
	found, batches, err := s.scan(ctx)
	if err != nil {
		// Those of a server that is away are where they were.
		return append(found, slices.DeleteFunc(slices.Clone(tags), func(k familyKey) bool { return slices.Contains(found, k) })...), batches, err
	}
	tags = found
	s.known.mu.Lock()
	s.known.tags, s.known.at = tags, now
	s.known.mu.Unlock()
	return tags, batches, nil
}

// scan returns the families that have a pointer, and the keys of tentative batches; beside
// an error, those of the servers that answered.
func (s *Shield) scan(ctx context.Context) (tags, batches []familyKey, err error) {
	var mu sync.Mutex
	seen := make(map[string]bool)
	err = s.eachMaster(ctx, func(ctx context.Context, c redis.UniversalClient) error {
		it := c.Scan(ctx, 0, string(s.keys)+"{*", scanCount).Iterator()
		for it.Next(ctx) {
			k, ok := s.keys.parse(it.Val())
			if !ok || (k.kind != "gen" && k.kind != "t") {
				continue
			}
			mu.Lock()
			if !seen[it.Val()] {
				seen[it.Val()] = true
				if k.kind == "gen" {
					tags = append(tags, k)
				} else {
					batches = append(batches, k)
				}
			}
			mu.Unlock()
		}
		return it.Err()
	})
	return tags, batches, away(err)
}

// quiet is which families had nothing tentative, and units left, when they were looked at,
// by their tags, and until when they are left alone. What is taken of them meanwhile is
// younger than the grace when that time is over, so it is judged no later than without.
// A look is two calls, as a purchase is: of ten thousand families, every two seconds, that
// was a half of what a sale over all of them asked of Redis.
type quiet struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// without returns the families that are to be looked at. Those that are gone are
// forgotten. Where the keys of tentative batches are known, no family that has any is
// left alone.
func (q *quiet) without(tags, batches []familyKey, now time.Time) []familyKey {
	busy := make(map[string]bool, len(batches))
	for _, k := range batches {
		busy[k.tag] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	kept := make(map[string]time.Time)
	var awake []familyKey
	for _, k := range tags {
		if until, ok := q.until[k.tag]; ok && now.Before(until) && !busy[k.tag] {
			kept[k.tag] = until
		} else {
			awake = append(awake, k)
		}
	}
	q.until = kept
	return awake
}

// note leaves families alone until then that have nothing to be repaired now.
func (q *quiet) note(looks []*look, until time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range looks {
		if l.tentative == 0 && l.left >= 1 {
			q.until[l.key.tag] = until
		}
	}
}

// has reports whether the family is left alone.
func (q *quiet) has(tag string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.until[tag]
	return ok
}
