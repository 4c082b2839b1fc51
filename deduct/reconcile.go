package deduct

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

const (
	// lookChunk is how many families are looked at in one pipeline.
	lookChunk = 200
	// raiseChecks bounds how many families a run compares with the ledger, and soldOutMax
	// and idleMax how long one that was right is left alone: when it is sold out, and when
	// it still has units, which are then not the last.
	raiseChecks = 500
	raiseChunk  = 100 // families for one read of the ledger
	soldOutMax  = 8 * time.Second
	idleMax     = time.Minute
)

// Report is what one run of Reconcile found and did.
type Report struct {
	Families  int   // families that were looked at: not those that had nothing to be repaired a moment ago
	Tentative int   // batches tentative in them
	Judged    int   // of those, batches older than the grace, which were judged
	Confirmed int   // order ids confirmed, because the ledger has them
	Returned  int   // order ids whose units were given back (repair rule a)
	Units     int64 // those units
	Raised    int   // families raised to the ledger's figure (repair rule c)
	Broken    int   // times that a family was left because its keys are not what they should be
}

// Reconcile compares the shield with the ledger and repairs it. Batches that are tentative for longer
// than the grace are judged: ids that the ledger knows are confirmed, the units of the
// others given back. Families that sell nothing, with nothing tentative, are raised to
// what the ledger has. When the ledger is away nothing is judged and its error is
// returned. A family whose keys are broken holds up no other: it is the error
// sale.ErrPartly, after all others have been looked at. One gateway at a time should run
// it; two do no harm.
func (s *Shield) Reconcile(ctx context.Context) (Report, error) {
	var rep Report
	err := s.reconcile(ctx, &rep)
	s.metrics.broken.Set(float64(rep.Broken))
	if err == nil && rep.Broken > 0 {
		err = fmt.Errorf("deduct: %w: %d families have broken keys", sale.ErrPartly, rep.Broken)
	}
	return rep, err
}

// reconcile does so. What a server that is away holds is nothing against looking after
// the rest.
func (s *Shield) reconcile(ctx context.Context, rep *Report) error {
	began := time.Now()
	looks, err := s.lookAtFamilies(ctx, rep)
	s.quiet.note(looks, began.Add(s.quietFor))
	rep.Families = len(looks)
	for _, l := range looks {
		rep.Tentative += l.tentative
	}
	return errors.Join(err, s.judgeOld(ctx, looks, rep), s.raise(ctx, s.dueChecks(looks, time.Now()), rep))
}

// look is what the reconciler sees of one family.
type look struct {
	key       familyKey
	gen       generation
	left      int64
	tentative int
	old       map[string]string // token -> record of batches older than the grace
}

func (l *look) keys() []string {
	return []string{hashKey(l.key.tag, l.gen.name), batchesKey(l.key.tag, l.gen.name)}
}

// lookAtFamilies finds every family in use, and removes tentative batches of
// generations that no pointer names. Beside an error it returns those that it could see.
func (s *Shield) lookAtFamilies(ctx context.Context, rep *Report) ([]*look, error) {
	tags, batches, failed := s.families(ctx)
	tags = s.quiet.without(tags, batches, time.Now())
	inUse := make(map[string]bool)
	var looks []*look
	for len(tags) > 0 {
		n := min(len(tags), lookChunk)
		some, err := s.look(ctx, tags[:n], rep)
		if err != nil {
			if failed = err; len(some) == 0 {
				return looks, failed // nobody answers
			}
		}
		for _, l := range some {
			inUse[batchesKey(l.key.tag, l.gen.name)] = true
		}
		looks = append(looks, some...)
		tags = tags[n:]
	}
	for _, k := range batches {
		if inUse[batchesKey(k.tag, k.gen)] {
			continue
		}
		if err := s.scripts.sweep.Run(ctx, s.client, []string{pointerKey(k.tag), batchesKey(k.tag, k.gen)}, k.gen).Err(); err != nil && !s.leave(k.tag, err, rep) {
			failed = away(err)
		}
	}
	return looks, failed
}

// look asks the families' generations how they stand. Beside an error it returns those
// that answered.
func (s *Shield) look(ctx context.Context, keys []familyKey, rep *Report) (looks []*look, failed error) {
	pointers := make([]*redis.StringCmd, len(keys))
	_, _ = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, k := range keys {
			pointers[i] = p.Get(ctx, pointerKey(k.tag))
		}
		return nil
	})
	for i, k := range keys {
		if err := pointers[i].Err(); err != nil && !errors.Is(err, redis.Nil) && !s.leave(k.tag, err, rep) {
			failed = away(err)
		}
		if g, ok := parseGeneration(pointers[i].Val()); ok {
			looks = append(looks, &look{key: k, gen: g})
		}
	}
	replies := make([]*redis.Cmd, len(looks))
	_, _ = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, l := range looks {
			replies[i] = s.scripts.stale.EvalSha(ctx, p, l.keys(), s.cfg.Grace.Milliseconds())
		}
		return nil
	})
	kept := looks[:0]
	for i, l := range looks {
		if noScript(replies[i].Err()) {
			replies[i] = s.scripts.stale.Run(ctx, s.client, l.keys(), s.cfg.Grace.Milliseconds())
		}
		if err := replies[i].Err(); err != nil {
			if !s.leave(l.key.tag, err, rep) {
				failed = away(err)
			}
			continue
		}
		if reply, ok := replies[i].Val().([]any); ok && l.read(reply) {
			kept = append(kept, l)
		}
	}
	return kept, failed
}

// read reads what stale.lua returned; false means that the family is not in use.
func (l *look) read(reply []any) bool {
	if len(reply) < 2 {
		return false
	}
	left, ok := integer(reply[0])
	tentative, ok2 := integer(reply[1])
	if !ok || !ok2 {
		return false
	}
	l.left, l.tentative, l.old = left, int(tentative), make(map[string]string)
	for i := 2; i+1 < len(reply); i += 2 {
		token, _ := reply[i].(string)
		rec, _ := reply[i+1].(string)
		l.old[token] = rec
	}
	return true
}

// judgeOld settles the batches that nobody has settled in time (repair rule a). The
// ledger is asked first; the script that settles a batch checks that it still is
// tentative, so that a settlement that comes in between is not done twice.
func (s *Shield) judgeOld(ctx context.Context, looks []*look, rep *Report) error {
	for _, l := range looks {
		if len(l.old) == 0 || (s.cfg.Waiting != nil && s.cfg.Waiting(l.key.sku)) {
			continue
		}
		settled, err := s.judgeFamily(ctx, l, rep)
		if err != nil {
			return err
		}
		for len(settled) > 0 {
			n := min(len(settled), 16)
			req := &request{learned: &learned{named: settled[:n]}}
			if _, err := s.do(ctx, req.args(s.scripts.deduct.Hash(), l.key.tag, l.gen, 0, false), 0); err != nil {
				if !s.leave(l.key.tag, err, rep) {
					return err
				}
				break
			}
			settled = settled[n:]
		}
	}
	return nil
}

func (s *Shield) judgeFamily(ctx context.Context, l *look, rep *Report) ([]sale.Settlement, error) {
	batches, found, err := s.findBatches(ctx, l.key.tag, l.old)
	if err != nil {
		return nil, err
	}
	var out []sale.Settlement
	for token, t := range batches {
		if len(token) != 8 {
			continue
		}
		st := sale.Settlement{Token: sale.BatchToken(binary.BigEndian.Uint64([]byte(token))), LedgerLeft: -1}
		for _, c := range t.claims {
			o, known := found[c.id]
			if known && o.Status.Live() {
				rep.Confirmed++
				continue
			}
			st.Refused = append(st.Refused, sale.Refused{ID: c.id, User: c.user, Quantity: c.quantity, Restock: true, Keep: known})
			rep.Returned++
			rep.Units += c.quantity
		}
		rep.Judged++
		s.metrics.repaired(ruleTentative, len(st.Refused))
		out = append(out, st)
	}
	if len(out) > 0 {
		s.log.Info("tentative batches judged", "sku", l.key.sku, "segment", l.key.segment, "batches", len(out))
	}
	return out, nil
}

// raiseCheck is when a family is compared with the ledger next.
type raiseCheck struct {
	next time.Time
	wait time.Duration
	left int64 // when it was last looked at
}

// raise compares families, which were seen with nothing tentative, with the ledger, and
// raises those that have less to its figure: repair rule c. The ledger is read after the
// family was looked at, so its figure counts everything that the family let through; a
// family that has sold something since stays as it is.
func (s *Shield) raise(ctx context.Context, settled []*look, rep *Report) error {
	var failed error
	for some := range slices.Chunk(settled, raiseChunk) {
		skus := make([]*sale.SKU, 0, len(some))
		for _, l := range some {
			skus = append(skus, &sale.SKU{Name: l.key.sku, Segments: l.gen.segments})
		}
		left, err := s.unitsLeft(ctx, skus)
		if err != nil {
			return err
		}
		if err := s.raiseTo(ctx, some, left, rep); err != nil {
			failed = err
		}
	}
	return failed
}

// raiseTo raises families to the units that their SKUs have left.
func (s *Shield) raiseTo(ctx context.Context, looks []*look, left map[string]map[int]int64, rep *Report) (failed error) {
	for _, l := range looks {
		units := left[l.key.sku][l.key.segment]
		if units <= max(0, l.left) {
			continue
		}
		raised, err := s.scripts.raise.Run(ctx, s.client, l.keys(), units, l.left).Int()
		if err != nil {
			if !s.leave(l.key.tag, err, rep) {
				failed = away(err)
			}
			continue
		}
		s.checked(l.key.tag)
		if raised == 1 {
			rep.Raised++
			s.metrics.repaired(ruleRaise, 1)
			s.log.Info("shield raised to the ledger's figure", "sku", l.key.sku, "segment", l.key.segment, "from", l.left, "to", units)
		}
	}
	return failed
}

// Raise is repair rule c for some SKUs, at once: to be called after units came back in
// the ledger, and again for as long as anything of them may be tentative. An order that
// went around the shield while it was being loaded is unknown to it, and so is that
// order's end; its units would stay hidden until the reconciler looks.
func (s *Shield) Raise(ctx context.Context, skus []*sale.SKU) error {
	var keys []familyKey
	for _, sku := range skus {
		for segment := range segmentsOf(sku) {
			keys = append(keys, familyKey{tag: s.keys.tag(sku.Name, segment), sku: sku.Name, segment: segment})
		}
	}
	var failed error
	for some := range slices.Chunk(keys, lookChunk) {
		var rep Report
		looks, err := s.look(ctx, some, &rep)
		looks = slices.DeleteFunc(looks, func(l *look) bool { return l.tentative > 0 })
		if failed = errors.Join(failed, err, s.raise(ctx, looks, &rep)); failed != nil && len(looks) == 0 {
			return failed
		}
	}
	return failed
}

// dueChecks picks the families to compare with the ledger now, those that have waited
// longest first: the sold-out ones, and those whose units did not change since the last
// run, since buyers of several may want more than they have. It forgets the others.
func (s *Shield) dueChecks(looks []*look, now time.Time) []*look {
	s.checkMu.Lock()
	defer s.checkMu.Unlock()
	checks := make(map[string]*raiseCheck)
	for tag, c := range s.checks {
		if s.quiet.has(tag) {
			checks[tag] = c
		}
	}
	var due []*look
	for _, l := range looks {
		if l.tentative > 0 {
			continue
		}
		c := s.checks[l.key.tag]
		changed := c == nil || c.left != l.left
		if changed {
			c = &raiseCheck{left: l.left}
		}
		checks[l.key.tag] = c
		if selling := changed && l.left >= 1; !selling && !now.Before(c.next) {
			due = append(due, l)
		}
	}
	s.checks = checks
	sort.SliceStable(due, func(i, j int) bool {
		return checks[due[i].key.tag].next.Before(checks[due[j].key.tag].next)
	})
	due = due[:min(len(due), raiseChecks)]
	for _, l := range due {
		c, longest := checks[l.key.tag], soldOutMax
		if l.left >= 1 {
			longest = idleMax
		}
		c.wait = min(max(2*c.wait, time.Second), longest)
		c.next = now.Add(c.wait)
	}
	return due
}

// checked has a family that was raised be looked at again soon.
func (s *Shield) checked(tag string) {
	s.checkMu.Lock()
	defer s.checkMu.Unlock()
	delete(s.checks, tag)
}

// integer reads a number as Redis sends it.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case string:
		n, err := strconv.ParseInt(v, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// String is for logs.
func (r Report) String() string {
	return fmt.Sprintf("%d families, %d tentative batches, %d judged, %d ids confirmed, %d returned (%d units), %d raised, %d left broken",
		r.Families, r.Tentative, r.Judged, r.Confirmed, r.Returned, r.Units, r.Raised, r.Broken)
}
