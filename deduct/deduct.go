package deduct

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"flashgate/sale"
)

// emptyFor is how long a segment other than the home segment that was seen sold out is
// not asked again.
const emptyFor = 100 * time.Millisecond

// Deduct has the shield judge one batch of one SKU, after telling it what earlier
// batches ended as. Claims take units from this gateway's home segment, and those that
// found too few there from the others in turn.
//
// Of claims with the same id only the first is judged. A repeated call with ids that
// were admitted before takes nothing: they are answered Seen.
//
// An error of Redis wraps sale.ErrUnavailable, and sale.ErrUnknown where units may have
// been taken; they stay tentative until the reconciler judges them, and the claims may
// go around the shield under the same ids. Loaded=false is no error and means that the
// shield has no copy of the SKU that this gateway trusts.
func (s *Shield) Deduct(ctx context.Context, sku *sale.SKU, claims []*sale.Claim, settled []sale.Settlement) (sale.Deduction, error) {
	if len(claims) > s.cfg.MaxBatch {
		return sale.Deduction{}, fmt.Errorf("deduct: %w: batch of %d claims, at most %d", sale.ErrInvalid, len(claims), s.cfg.MaxBatch)
	}
	v := s.view(sku.Name)
	d := s.dedup.Get().(*dedup)
	distinct, place := d.split(claims)
	s.dedup.Put(d)

	segments := segmentsOf(sku)
	home := int(s.cfg.Home % uint32(segments))
	told := s.assign(settled, segments, home)
	for segment, l := range told {
		if segment != home {
			if _, err := s.ask(ctx, v, sku, segment, &request{learned: l}); err != nil {
				s.log.Debug("segment not told of settled batches", "sku", sku.Name, "segment", segment, "err", err)
			}
		}
	}
	b := &deduction{sku: sku, view: v, token: newToken(), claims: distinct,
		answers: make([]sale.Answer, len(distinct)), segments: make([]int, len(distinct)), copies: make(map[int]string, 1)}
	loaded, err := s.judge(ctx, b, home, told[home])
	if err != nil || !loaded {
		return sale.Deduction{}, err
	}
	out := sale.Deduction{Loaded: true, Token: b.token, Answers: b.answers, Segments: b.segments, Left: max(0, b.left), Copies: b.copies}
	if place != nil {
		out.Answers, out.Segments = b.repeated(claims, place)
	}
	s.metrics.answered(out.Answers)
	return out, nil
}

// deduction is one batch on its way through the segments.
type deduction struct {
	sku      *sale.SKU
	view     *view
	token    sale.BatchToken
	claims   []*sale.Claim
	answers  []sale.Answer
	segments []int
	left     int64
	copies   map[int]string
}

// judge asks the home segment, and the others about claims that found too few units.
// False means that a segment is not loaded: nothing has been taken.
func (s *Shield) judge(ctx context.Context, b *deduction, home int, l *learned) (bool, error) {
	all := make([]int, len(b.claims))
	for i := range all {
		all[i] = i
	}
	short, loaded, err := s.judgeIn(ctx, b, home, all, l)
	if err != nil || !loaded {
		return false, err
	}
	for k := 1; k < segmentsOf(b.sku); k++ {
		segment := (home + k) % segmentsOf(b.sku)
		left, at := b.view.lastLeft(segment)
		recent := time.Since(at) < emptyFor
		if len(short) == 0 || (recent && left < 1) {
			b.left += max(0, left)
			if at.IsZero() {
				b.left++ // nobody has looked: not known to be sold out
			}
			continue
		}
		if short, loaded, err = s.judgeIn(ctx, b, segment, short, nil); err != nil {
			return false, err
		}
		if !loaded {
			s.undo(ctx, b)
			return false, nil
		}
	}
	return true, nil
}

// judgeIn asks one segment about some of the claims and returns those that lack units.
func (s *Shield) judgeIn(ctx context.Context, b *deduction, segment int, which []int, l *learned) (short []int, loaded bool, err error) {
	req := &request{token: b.token, claims: b.claims, learned: l}
	if len(which) < len(b.claims) {
		req.claims = make([]*sale.Claim, len(which))
		for k, i := range which {
			req.claims[k] = b.claims[i]
		}
	}
	req.blob = string(appendBatch(make([]byte, 0, recordHead+40*len(which)), req.claims))
	got, err := s.ask(ctx, b.view, b.sku, segment, req)
	if err != nil || !got.loaded {
		return nil, false, err
	}
	b.left += max(0, got.left)
	b.copies[segment] = got.copy
	taken := false
	for k, i := range which {
		a := sale.Answer(got.answers[k] - '0')
		b.answers[i], b.segments[i] = a, segment
		switch a {
		case sale.ShieldSoldOut:
			short = append(short, i)
		case sale.Admitted:
			taken = true
		}
	}
	if taken && segment != int(s.cfg.Home%uint32(segmentsOf(b.sku))) {
		s.foreign.add(b.token, segment)
	}
	return short, true, nil
}

// undo gives back what a batch took before it met a segment that is not loaded. When
// this fails too, the reconciler does it.
func (s *Shield) undo(ctx context.Context, b *deduction) {
	undo := sale.Settlement{Token: b.token, LedgerLeft: -1}
	for i, c := range b.claims {
		if b.answers[i] == sale.Admitted {
			undo.Refused = append(undo.Refused, sale.Refused{ID: c.ID, User: c.User, Quantity: c.Quantity, Segment: b.segments[i], Restock: true})
		}
	}
	if len(undo.Refused) == 0 {
		return
	}
	if err := s.Settle(ctx, b.sku, []sale.Settlement{undo}); err != nil {
		s.log.Debug("units not given back at once", "sku", b.sku.Name, "err", err)
	}
}

// repeated gives every claim of the batch the answer of its id's first claim: the
// second claim with an id that took units, or was seen, has been seen. A refusal is the
// answer to the same payload only; another one was not judged, and the ledger decides.
func (b *deduction) repeated(claims []*sale.Claim, place []int) ([]sale.Answer, []int) {
	outA, outS := make([]sale.Answer, len(place)), make([]int, len(place))
	met := make([]bool, len(b.answers))
	for i, at := range place {
		outA[i], outS[i] = b.answers[at], b.segments[at]
		if met[at] && (outA[i] == sale.Admitted || claims[i].Hash != b.claims[at].Hash) {
			outA[i] = sale.Seen
		}
		met[at] = true
	}
	return outA, outS
}

// Settle tells the shield what batches ended as, without a new batch. What it cannot
// be told (no trusted copy) is dropped: the ledger knows it. A settlement with token 0
// is about orders of the ledger, whichever batch they came from: see Release.
func (s *Shield) Settle(ctx context.Context, sku *sale.SKU, settled []sale.Settlement) error {
	v := s.view(sku.Name)
	segments := segmentsOf(sku)
	var failed error
	for segment, l := range s.assign(settled, segments, int(s.cfg.Home%uint32(segments))) {
		if done, err := s.confirm(ctx, v, sku, segment, l); done || err != nil {
			failed = cmp.Or(err, failed)
			continue
		}
		if _, err := s.ask(ctx, v, sku, segment, &request{learned: l}); err != nil {
			failed = err
		}
	}
	return failed
}

// confirm tells a family that every claim of some batches is an order, which is all that
// most sales have to tell: then it is one HDEL instead of a run of the script, a third of
// what that costs Redis. It is no more than the script would do first. False means that
// there is more to do, or that the batches are not in the generation that this gateway has.
func (s *Shield) confirm(ctx context.Context, v *view, sku *sale.SKU, segment int, l *learned) (bool, error) {
	if len(l.named) > 0 || len(l.confirm) == 0 {
		return false, nil
	}
	tag, g, ok := s.loaded(v, sku, segment)
	if !ok {
		return false, nil
	}
	key := batchesKey(tag, g.name)
	args := append(make([]any, 0, 2+len(l.confirm)), "hdel", key)
	for _, t := range l.confirm {
		args = append(args, tokenBytes(t))
	}
	reply, err := s.send(ctx, key, args, 0)
	if err != nil {
		return false, err
	}
	return reply == int64(len(l.confirm)), nil
}

// Release gives back the units of orders that the ledger cancelled or expired: to be
// called after that was committed. Orders that the shield does not know, or has
// released before, change nothing.
func (s *Shield) Release(ctx context.Context, sku *sale.SKU, orders []sale.Order) error {
	if len(orders) == 0 {
		return nil
	}
	r := sale.Settlement{LedgerLeft: -1}
	users := make([]string, len(orders))
	for i := range orders {
		o := &orders[i]
		users[i] = o.User
		r.Refused = append(r.Refused, sale.Refused{ID: o.ID, User: o.User, Quantity: o.Quantity, Segment: o.Segment, Restock: true, Keep: true})
	}
	err := s.Settle(ctx, sku, []sale.Settlement{r})
	if segmentsOf(sku) == 1 || sku.PerUserLimit == 0 {
		return err
	}
	// Other segments may count the same units for these buyers since they were loaded;
	// forgetting them is safe, because the ledger keeps the limit.
	if other := s.forgetUnits(ctx, sku, users); err == nil {
		err = other
	}
	return err
}

// forgetUnits has every segment forget the units of buyers, who stay known.
func (s *Shield) forgetUnits(ctx context.Context, sku *sale.SKU, users []string) error {
	v := s.view(sku.Name)
	for segment := range segmentsOf(sku) {
		tag, g, _, ok := s.current(v, sku, segment)
		if !ok || g.limit == 0 {
			continue
		}
		for some := range slices.Chunk(users, maxBatch) {
			args := make([]any, len(some))
			for i, u := range some {
				args[i] = "u:" + u
			}
			if err := s.scripts.forget.Run(ctx, s.client, []string{hashKey(tag, g.name)}, args...).Err(); err != nil {
				return away(err)
			}
		}
	}
	s.metrics.repaired(ruleBuyer, len(users))
	return nil
}

// Left returns how many units the shield has left, all segments together; loaded is
// false when one of them has no copy in use that this gateway trusts.
func (s *Shield) Left(ctx context.Context, sku *sale.SKU) (left int64, loaded bool, err error) {
	v := s.view(sku.Name)
	for segment := range segmentsOf(sku) {
		g, ok, err := s.follow(ctx, v, sku, segment)
		if err != nil || !ok {
			return 0, false, err
		}
		got, err := s.client.HMGet(ctx, hashKey(s.keys.tag(sku.Name, segment), g.name), "m", "l").Result()
		if err != nil {
			return 0, false, away(err)
		}
		n, ok := integer(got[1])
		if got[0] == nil || !ok {
			return 0, false, nil
		}
		left += max(0, n)
	}
	return left, true, nil
}

// judged is a family's reply.
type judged struct {
	loaded  bool
	copy    string // its name
	left    int64
	answers string
}

// ask makes one call to one family, under the generation this gateway has; when that
// is no longer the one in use, under the one that is.
func (s *Shield) ask(ctx context.Context, v *view, sku *sale.SKU, segment int, req *request) (judged, error) {
	tag, g, touch, ok := s.current(v, sku, segment)
	if !ok {
		var err error
		if g, ok, err = s.follow(ctx, v, sku, segment); err != nil || !ok {
			return judged{}, err
		}
	}
	for second := false; ; second = true {
		var touchMs int64
		if touch {
			touchMs = idle.Milliseconds()
		}
		repeats := false
		if g.limit > 0 && len(req.claims) > 1 {
			d := s.dedup.Get().(*dedup)
			repeats = d.repeats(req.claims)
			s.dedup.Put(d)
		}
		reply, err := s.do(ctx, req.args(s.scripts.deduct.Hash(), tag, g, touchMs, repeats), len(req.claims))
		if err != nil {
			return judged{}, err
		}
		got, pointer, err := parseReply(reply, len(req.claims))
		if err != nil {
			return judged{}, unknown(err)
		}
		if got.loaded {
			// A connection that was made for this call may have met another server. What a
			// copy that is distrusted by now has taken is settled by the load that follows.
			if !s.stillTrusts(v, sku, segment, g) {
				return judged{}, nil
			}
			v.noteLeft(segment, got.left)
			got.copy = g.name
			return got, nil
		}
		next, ok := s.adopt(v, sku, segment, pointer)
		if !ok || second || next.name == g.name {
			return judged{}, nil
		}
		g = next
	}
}

// parseReply reads what deduct.lua returned.
func parseReply(reply []any, claims int) (judged, string, error) {
	if len(reply) == 2 && reply[0] == int64(0) {
		pointer, _ := reply[1].(string)
		return judged{}, pointer, nil
	}
	if len(reply) == 3 && reply[0] == int64(1) {
		left, ok := reply[1].(int64)
		answers, text := reply[2].(string)
		if ok && text && len(answers) == claims {
			return judged{loaded: true, left: left, answers: answers}, "", nil
		}
	}
	return judged{}, "", fmt.Errorf("reply of %d values is not the script's", len(reply))
}

func segmentsOf(sku *sale.SKU) int { return max(1, sku.Segments) }
