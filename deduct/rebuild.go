package deduct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

const (
	// loaderSilence is how long a loader may give no sign of life before another
	// gateway replaces it; beatEvery is how often it gives one.
	loaderSilence = 3 * time.Second
	beatEvery     = 500 * time.Millisecond
	// unfinishedTTL bounds how long keys of a load that nobody finished stay.
	unfinishedTTL = time.Minute
	// busyPoll is how often one looks whether another gateway's load is done.
	busyPoll = 30 * time.Millisecond
	// loadAttempts is how often Redis may lose what is being loaded.
	loadAttempts = 3
)

// errLost says that a load came to nothing though no call failed: another gateway was
// first, or Redis forgot a part of what was loaded.
var errLost = errors.New("deduct: the load was lost")

// flight is a rebuild that several callers wait for.
type flight struct {
	done   chan struct{}
	err    error
	gaveUp bool // given up by the caller who flew it: the others have to see for themselves
}

// Rebuild makes sure that the SKU has a copy in the shield that this gateway trusts:
// one that is in use and not distrusted is success, also when another gateway loaded it.
// Otherwise it loads one from the ledger under a new generation. While it
// does, the SKU's batches go around the shield, on every gateway. To force a new
// generation call Distrust first.
//
// The copy is never too poor for good: units are read from the ledger after the copy
// in use was frozen, and before it is settled which tentative batches the ledger knows,
// so that whatever commits meanwhile makes the copy too generous, which the ledger
// then refuses, and never too poor.
func (s *Shield) Rebuild(ctx context.Context, sku *sale.SKU) error {
	v := s.view(sku.Name)
	f := &flight{done: make(chan struct{})}
	for {
		v.mu.Lock()
		other := v.loading
		if other == nil {
			v.loading = f
			v.mu.Unlock()
			break
		}
		v.mu.Unlock()
		select {
		case <-other.done:
			if !other.gaveUp {
				return other.err
			}
		case <-ctx.Done():
			return away(ctx.Err())
		}
	}
	began := time.Now()
	f.err = s.rebuild(ctx, v, sku)
	f.gaveUp = f.err != nil && over(ctx)
	s.metrics.rebuilt(time.Since(began), f.err)
	v.mu.Lock()
	v.loading = nil
	v.mu.Unlock()
	close(f.done)
	return f.err
}

// over reports whether the context has ended or is just ending: a connection keeps to its
// deadline by a timer of its own, which may be the first.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || (ok && !time.Now().Before(deadline))
}

func (s *Shield) rebuild(ctx context.Context, v *view, sku *sale.SKU) error {
	// A copy stays in use when the ledger does not answer.
	if _, err := s.ledger.Stocks(ctx, []string{sku.Name}); err != nil {
		return fmt.Errorf("deduct: stock of %s: %w", sku.Name, err)
	}
	lost := 0
	for {
		loads, busy, err := s.beginAll(ctx, v, sku)
		if err != nil {
			return err
		}
		if len(loads) > 0 {
			err := s.load(ctx, v, sku, loads)
			if errors.Is(err, errLost) {
				if lost++; lost < loadAttempts {
					continue
				}
				return away(err)
			}
			if err != nil {
				return err
			}
		}
		if !busy {
			return nil
		}
		if err := pause(ctx, busyPoll); err != nil {
			return away(err)
		}
	}
}

// load is one family being loaded.
type load struct {
	tag      string
	segment  int
	old      string // the pointer that the load began with, "" = none
	gen      generation
	fields   int64                   // fields written into the new hash
	carry    map[string]string       // token -> record: what was tentative in the old generation
	carried  []taken                 // of those, the claims that the ledger does not know
	settled  []sale.Order            // of those, the orders that it has by now
	carriers map[sale.OrderID]string // id of a carried claim -> token of its batch
	inUse    bool
}

// beginAll begins to load every family of the SKU that has no trusted copy. Busy says
// that another gateway is loading one.
func (s *Shield) beginAll(ctx context.Context, v *view, sku *sale.SKU) (loads []*load, busy bool, err error) {
	for segment := range segmentsOf(sku) {
		l, other, err := s.begin(ctx, v, sku, segment)
		if err != nil {
			return nil, false, err
		}
		if l != nil {
			loads = append(loads, l)
		}
		busy = busy || other
	}
	return loads, busy, nil
}

// begin returns the load of one family, or nil when there is nothing to load (busy:
// not by this gateway).
func (s *Shield) begin(ctx context.Context, v *view, sku *sale.SKU, segment int) (l *load, busy bool, err error) {
	tag := s.keys.tag(sku.Name, segment)
	for {
		pointer, err := s.pointer(ctx, tag)
		if err != nil {
			return nil, false, err
		}
		if g, ok := s.adopt(v, sku, segment, pointer); ok {
			inUse, err := s.client.HExists(ctx, hashKey(tag, g.name), "m").Result()
			if err != nil || inUse {
				return nil, false, away(err)
			}
		}
		l := s.newLoad(v, sku, segment, pointer)
		keys, args := l.beginning()
		reply, err := s.scripts.begin.Run(ctx, s.client, keys, args...).StringSlice()
		if err != nil {
			return nil, false, away(err)
		}
		switch l.begun(reply) {
		case loadBusy:
			return nil, true, nil
		case loadBegun:
			return l, false, nil
		}
	}
}

// newLoad is the load of one family whose pointer is as given.
func (s *Shield) newLoad(v *view, sku *sale.SKU, segment int, pointer string) *load {
	return &load{tag: s.keys.tag(sku.Name, segment), segment: segment, old: pointer, gen: newGeneration(sku, s.beginTime(v, segment, pointer))}
}

// beginning is the call of begin.lua.
func (l *load) beginning() (keys []string, args []any) {
	return []string{pointerKey(l.tag), loadKey(l.tag), hashKey(l.tag, l.old), batchesKey(l.tag, l.old), hashKey(l.tag, l.gen.name)},
		[]any{l.old, l.gen.name, loaderSilence.Milliseconds(), unfinishedTTL.Milliseconds()}
}

// loadState is what begin.lua said.
type loadState uint8

const (
	loadBegun loadState = iota
	loadBusy            // another gateway is loading the family
	loadMoved           // the pointer is another by now
)

// begun takes up the reply of begin.lua.
func (l *load) begun(reply []string) loadState {
	switch reply[0] {
	case "busy":
		return loadBusy
	case "moved":
		return loadMoved
	}
	l.fields = 2 // the script's own
	l.carry = make(map[string]string)
	for i := 1; i+1 < len(reply); i += 2 {
		l.carry[reply[i]] = reply[i+1]
	}
	return loadBegun
}

// beginTime is the ledger's time, moved where gateways' clocks differ so that a
// generation is never older than the one it replaces.
func (s *Shield) beginTime(v *view, segment int, pointer string) int64 {
	began := s.now()
	if g, ok := parseGeneration(pointer); ok {
		began = max(began, g.began+1)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f, ok := v.families[segment]; ok {
		began = max(began, f.floor+1)
	}
	s.newest.raise(began)
	return began
}

// load fills the new generations and puts them into use.
func (s *Shield) load(ctx context.Context, v *view, sku *sale.SKU, loads []*load) (err error) {
	defer func() {
		if err != nil {
			s.abort(context.WithoutCancel(ctx), loads)
		}
	}()
	filling, cancel := context.WithCancelCause(ctx)
	var beating sync.WaitGroup
	beating.Go(func() { s.beat(filling, cancel, loads) })
	left, err := s.fill(filling, sku, loads)
	lost := errors.Is(context.Cause(filling), errLost)
	cancel(nil)
	beating.Wait()
	if lost {
		return errLost
	}
	if err != nil {
		return err
	}
	for _, l := range loads {
		if err := s.flip(ctx, v, sku, l, left[l.segment]); err != nil {
			return err
		}
	}
	return nil
}

// abort removes what a load that failed has left behind, and gives the copies that were
// in use back to those who trust them: with the ledger away they are all there is. Where
// this fails too, the next load waits until the loader counts as dead.
func (s *Shield) abort(ctx context.Context, loads []*load) {
	for _, l := range loads {
		if l.inUse {
			continue
		}
		if err := s.scripts.abort.Run(ctx, s.client, []string{
			pointerKey(l.tag), loadKey(l.tag), hashKey(l.tag, l.old), hashKey(l.tag, l.gen.name)}, l.old, l.gen.name).Err(); err != nil {
			s.log.Debug("load not cleared away", "family", l.tag, "err", err)
			return
		}
	}
}

// beat shows that the loader lives, until ctx ends, which it ends itself when one of
// the loads has been replaced or forgotten.
func (s *Shield) beat(ctx context.Context, cancel context.CancelCauseFunc, loads []*load) {
	for pause(ctx, beatEvery) == nil {
		for _, l := range loads {
			alive, err := s.scripts.beat.Run(ctx, s.client, []string{loadKey(l.tag), hashKey(l.tag, l.gen.name)},
				l.gen.name, unfinishedTTL.Milliseconds()).Int()
			if err == nil && alive == 0 {
				cancel(errLost)
				return
			}
		}
	}
}

// flip puts the new generation into use. errLost says that another came before it.
func (s *Shield) flip(ctx context.Context, v *view, sku *sale.SKU, l *load, left int64) error {
	keys, args := l.flipping(left)
	return s.flipped(v, sku, l, s.scripts.flip.Run(ctx, s.client, keys, args...))
}

// flipping is the call of flip.lua.
func (l *load) flipping(left int64) (keys []string, args []any) {
	args = []any{l.old, l.gen.name, l.fields, left, idle.Milliseconds()}
	for token, rec := range l.carry {
		args = append(args, token, rec)
	}
	return []string{
		pointerKey(l.tag), loadKey(l.tag), hashKey(l.tag, l.old), batchesKey(l.tag, l.old),
		hashKey(l.tag, l.gen.name), batchesKey(l.tag, l.gen.name)}, args
}

// flipped takes up the reply of flip.lua.
func (s *Shield) flipped(v *view, sku *sale.SKU, l *load, reply *redis.Cmd) error {
	won, err := reply.Int()
	if err != nil {
		return away(err)
	}
	if won != 1 {
		return errLost
	}
	l.inUse = true
	if _, ok := s.adopt(v, sku, l.segment, l.gen.name); !ok {
		return errLost // distrusted while it was loaded
	}
	return nil
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
