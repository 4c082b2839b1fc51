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
	// gateway takes its place; beatEvery is how often it gives one.
	loaderSilence = 3 * time.Second
	beatEvery     = 500 * time.Millisecond
	// unfinishedTTL bounds how long keys of a load that nobody finished stay.
	unfinishedTTL = time.Minute
	// busyPoll is how often one looks whether another gateway's load is done.
	busyPoll = 30 * time.Millisecond
	// loadAttempts is how often Redis may lose what is being loaded.
	loadAttempts = 3
	// loadChunk is how many fields go into one HSET.
	loadChunk = 500
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
// one that is in use and not distrusted is success at once, also when another gateway
// loaded it. Otherwise it loads one from the ledger under a new generation. While it
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
	f.gaveUp = f.err != nil && ctx.Err() != nil
	s.metrics.rebuilt(time.Since(began), f.err)
	v.mu.Lock()
	v.loading = nil
	v.mu.Unlock()
	close(f.done)
	return f.err
}

func (s *Shield) rebuild(ctx context.Context, v *view, sku *sale.SKU) error {
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
	fields   int64             // fields written into the new hash
	carry    map[string]string // token -> record: what was tentative in the old generation
	carried  []taken           // of those, the claims that the ledger does not know
	settled  []sale.Order      // of those, the orders that it has by now
	carriers map[sale.OrderID]string
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
	tag := familyTag(sku.Name, segment)
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
		l := &load{tag: tag, segment: segment, old: pointer, gen: newGeneration(sku, s.beginTime(v, segment, pointer))}
		reply, err := s.scripts.begin.Run(ctx, s.client,
			[]string{pointerKey(tag), loadKey(tag), hashKey(tag, pointer), batchesKey(tag, pointer), hashKey(tag, l.gen.name)},
			pointer, l.gen.name, loaderSilence.Milliseconds(), unfinishedTTL.Milliseconds()).StringSlice()
		if err != nil {
			return nil, false, away(err)
		}
		switch reply[0] {
		case "busy":
			return nil, true, nil
		case "moved":
			continue
		}
		l.fields = 1 // the script's own
		l.carry = make(map[string]string)
		for i := 1; i+1 < len(reply); i += 2 {
			l.carry[reply[i]] = reply[i+1]
		}
		return l, false, nil
	}
}

// beginTime is the ledger's time, moved where gateways' clocks differ so that a
// generation is never older than the one it replaces.
func (s *Shield) beginTime(v *view, segment int, pointer string) int64 {
	began := s.ledger.Now()
	if g, ok := parseGeneration(pointer); ok {
		began = max(began, g.began+1)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f, ok := v.families[segment]; ok {
		began = max(began, f.floor+1)
	}
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

// abort removes what a load that failed has left behind. Where this fails too, the
// next load waits until the loader is taken for dead.
func (s *Shield) abort(ctx context.Context, loads []*load) {
	for _, l := range loads {
		if l.inUse {
			continue
		}
		if err := s.scripts.abort.Run(ctx, s.client, []string{loadKey(l.tag), hashKey(l.tag, l.gen.name)}, l.gen.name).Err(); err != nil {
			s.log.Debug("load not cleared away", "family", l.tag, "err", err)
			return
		}
	}
}

// beat shows that the loader lives, until ctx ends, which it ends itself when one of
// the loads has been taken over or forgotten.
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

// fill reads the ledger and writes everything but the units left, which it returns by
// segment. The order of the reads is what keeps a copy from being too poor: buyers and
// stock before the look at what became of the batches that were still tentative.
func (s *Shield) fill(ctx context.Context, sku *sale.SKU, loads []*load) (map[int]int64, error) {
	if err := s.fillOrders(ctx, sku, loads); err != nil {
		return nil, err
	}
	if sku.PerUserLimit > 0 {
		if err := s.fillBuyers(ctx, sku, loads); err != nil {
			return nil, err
		}
	}
	left, err := s.unitsLeft(ctx, sku)
	if err != nil {
		return nil, err
	}
	if err := s.judgeCarried(ctx, loads); err != nil {
		return nil, err
	}
	for _, l := range loads {
		for _, t := range l.carried {
			left[l.segment] -= t.quantity
		}
		if err := s.writeCarried(ctx, sku, l); err != nil {
			return nil, err
		}
	}
	return left, nil
}

func (s *Shield) fillOrders(ctx context.Context, sku *sale.SKU, loads []*load) error {
	bySegment := make(map[int]*load, len(loads))
	for _, l := range loads {
		bySegment[l.segment] = l
	}
	fields := make(map[*load][]any, len(loads))
	err := s.ledger.EachOrder(ctx, sku.Name, func(ids []sale.OrderID, segments []int) error {
		for i, id := range ids {
			if l := bySegment[inFamily(segments[i], segmentsOf(sku))]; l != nil {
				fields[l] = append(fields[l], "o:"+string(id[:]), "ledger")
			}
		}
		for _, l := range loads {
			if err := s.write(ctx, l, fields[l]); err != nil {
				return err
			}
			fields[l] = fields[l][:0]
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("deduct: loading orders of %s: %w", sku.Name, err)
	}
	return nil
}

// fillBuyers gives every segment all of a buyer's units, so that a limit reached in one
// holds in all; what is bought later counts only where it was bought.
func (s *Shield) fillBuyers(ctx context.Context, sku *sale.SKU, loads []*load) error {
	var fields []any
	err := s.ledger.EachBuyer(ctx, sku.Name, func(users []string, units []int64) error {
		fields = fields[:0]
		for i, u := range users {
			if units[i] > 0 {
				fields = append(fields, "u:"+u, units[i])
			}
		}
		for _, l := range loads {
			if err := s.write(ctx, l, fields); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("deduct: loading buyers of %s: %w", sku.Name, err)
	}
	return nil
}

// write adds fields and values to a new generation's hash. The hash gets its time to
// live with every write: a loader that was stopped for a minute and goes on writing
// leaves nothing behind for good.
func (s *Shield) write(ctx context.Context, l *load, fields []any) error {
	if len(fields) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	key := hashKey(l.tag, l.gen.name)
	var added []*redis.IntCmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for len(fields) > 0 {
			n := min(len(fields), 2*loadChunk)
			added = append(added, p.HSet(ctx, key, fields[:n]...))
			fields = fields[n:]
		}
		p.PExpire(ctx, key, unfinishedTTL)
		return nil
	})
	if err != nil {
		return away(err)
	}
	for _, a := range added {
		l.fields += a.Val()
	}
	return nil
}

// unitsLeft is the formula (a - b) - ledger's log, less what is promised to claims in
// the backlog. The backlog is read last: what leaves it meanwhile is in neither.
func (s *Shield) unitsLeft(ctx context.Context, sku *sale.SKU) (map[int]int64, error) {
	stock, err := s.ledger.Stock(ctx, sku.Name)
	if err != nil {
		return nil, fmt.Errorf("deduct: stock of %s: %w", sku.Name, err)
	}
	left := make(map[int]int64)
	for segment, st := range stock {
		left[inFamily(segment, segmentsOf(sku))] += st.Available()
	}
	parked, err := s.parked(ctx, sku.Name)
	if err != nil {
		return nil, err
	}
	for segment := 0; segment < segmentsOf(sku) && parked > 0; segment++ {
		n := min(parked, max(0, left[segment]))
		left[segment] -= n
		parked -= n
	}
	return left, nil
}

func (s *Shield) parked(ctx context.Context, sku string) (int64, error) {
	if s.cfg.Parked == nil {
		return 0, nil
	}
	n, err := s.cfg.Parked(ctx, sku)
	if err != nil {
		return 0, fmt.Errorf("deduct: backlog of %s: %w", sku, err)
	}
	return n, nil
}

// judgeCarried sorts what was tentative in the old generations into what the ledger
// knows by now and what has to be carried over, to be settled or judged in the new one.
func (s *Shield) judgeCarried(ctx context.Context, loads []*load) error {
	for _, l := range loads {
		var ids []sale.OrderID
		batches := make(map[string]tentative, len(l.carry))
		for token, rec := range l.carry {
			t, err := decodeRecord(rec)
			if err != nil {
				s.log.Error("tentative batch dropped", "family", l.tag, "err", err)
				delete(l.carry, token)
				continue
			}
			batches[token] = t
			for _, c := range t.claims {
				ids = append(ids, c.id)
			}
		}
		found, err := s.find(ctx, ids)
		if err != nil {
			return err
		}
		l.carriers = make(map[sale.OrderID]string)
		for token, t := range batches {
			open := false
			for _, c := range t.claims {
				if o, ok := found[c.id]; ok {
					l.settled = append(l.settled, o)
					continue
				}
				open = true
				l.carried = append(l.carried, c)
				l.carriers[c.id] = token
			}
			if !open {
				delete(l.carry, token)
			}
		}
	}
	return nil
}

// find asks the ledger for the orders among the ids, some at a time.
func (s *Shield) find(ctx context.Context, ids []sale.OrderID) (map[sale.OrderID]sale.Order, error) {
	found := make(map[sale.OrderID]sale.Order)
	for len(ids) > 0 {
		n := min(len(ids), 1000)
		some, err := s.ledger.Find(ctx, ids[:n])
		if err != nil {
			return nil, fmt.Errorf("deduct: looking up tentative orders: %w", err)
		}
		for id, o := range some {
			found[id] = o
		}
		ids = ids[n:]
	}
	return found, nil
}

// writeCarried writes the ids and buyers' units of carried batches, and of those that
// the ledger committed while it was being read.
func (s *Shield) writeCarried(ctx context.Context, sku *sale.SKU, l *load) error {
	var fields []any
	for _, o := range l.settled {
		fields = append(fields, "o:"+string(o.ID[:]), "ledger")
	}
	units := make(map[string]int64)
	for _, c := range l.carried {
		fields = append(fields, "o:"+string(c.id[:]), l.carriers[c.id])
		units[c.user] += c.quantity
	}
	if err := s.write(ctx, l, fields); err != nil {
		return err
	}
	if sku.PerUserLimit == 0 || len(units)+len(l.settled) == 0 {
		return nil
	}
	key := hashKey(l.tag, l.gen.name)
	var first []*redis.BoolCmd
	sums := make(map[string]*redis.IntCmd, len(units))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range l.settled {
			// A buyer whom the ledger did not name yet bought for the first time; of the
			// others it is not known whether this order was counted.
			if o := &l.settled[i]; o.Status.Live() {
				first = append(first, p.HSetNX(ctx, key, "u:"+o.User, o.Quantity))
			}
		}
		for u, n := range units {
			sums[u] = p.HIncrBy(ctx, key, "u:"+u, n)
		}
		return nil
	})
	if err != nil {
		return away(err)
	}
	for _, f := range first {
		if f.Val() {
			l.fields++
		}
	}
	for u, n := range units {
		if sums[u].Val() == n { // the field is new: those written before are never 0
			l.fields++
		}
	}
	return nil
}

// flip puts the new generation into use, or adopts the one of whoever was first.
func (s *Shield) flip(ctx context.Context, v *view, sku *sale.SKU, l *load, left int64) error {
	args := []any{l.old, l.gen.name, l.fields, left, s.cfg.Idle.Milliseconds()}
	for token, rec := range l.carry {
		args = append(args, token, rec)
	}
	won, err := s.scripts.flip.Run(ctx, s.client, []string{
		pointerKey(l.tag), loadKey(l.tag), hashKey(l.tag, l.old), batchesKey(l.tag, l.old),
		hashKey(l.tag, l.gen.name), batchesKey(l.tag, l.gen.name)}, args...).Int()
	if err != nil {
		return away(err)
	}
	if won != 1 {
		return errLost
	}
	l.inUse = true
	s.adopt(v, sku, l.segment, l.gen.name)
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
