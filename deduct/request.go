package deduct

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"

	"flashgate/sale"
)

// What follows is the Go side of lua/deduct.lua; the layout of the arguments is
// described there.

// request is one call to one family.
type request struct {
	token   sale.BatchToken
	claims  []*sale.Claim // their ids are distinct
	blob    string        // the claims as packed by appendBatch
	learned *learned
}

// learned is what a family has to be told of earlier batches.
type learned struct {
	confirm []sale.BatchToken
	named   []sale.Settlement
}

// newToken makes a token that no other batch of any gateway has; never 0.
func newToken() sale.BatchToken {
	for {
		if t := rand.Uint64(); t != 0 {
			return sale.BatchToken(t)
		}
	}
}

func tokenBytes(t sale.BatchToken) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(t)))
}

const (
	opRestock = 1
	opKeep    = 2
)

// args lays out the call for one generation of one family. Field names share one
// string, and are passed by pointer, so that a batch of 500 costs as many allocations
// as a batch of one: 44 to 46 (BenchmarkDeduct).
func (r *request) args(sha, tag string, g generation, touchMs int64, repeats bool) []any {
	n := len(r.claims)
	size := 2 * n
	for _, c := range r.claims {
		size += max(16, len(c.User))
	}
	names := newNames(n, size)
	for _, c := range r.claims {
		if g.limit > 0 {
			names.user(c.User)
		} else {
			names.order(c.ID)
		}
	}
	touch, again := "", ""
	if touchMs > 0 {
		touch = strconv.FormatInt(touchMs, 10)
	}
	if repeats {
		again = "1"
	}
	var confirm []sale.BatchToken
	var named []sale.Settlement
	if r.learned != nil {
		confirm, named = r.learned.confirm, r.learned.named
	}
	args := make([]any, 0, 16+n+len(confirm)+4*len(named))
	args = append(args, "evalsha", sha, 3, hashKey(tag, g.name), batchesKey(tag, g.name), pointerKey(tag),
		g.limit, tokenBytes(r.token), r.blob, n, again, touch, len(confirm), len(named), "m", "l")
	args = names.appendTo(args)
	for _, t := range confirm {
		args = append(args, tokenBytes(t))
	}
	for i := range named {
		args = appendSettlement(args, &named[i], g)
	}
	return args
}

func appendSettlement(args []any, s *sale.Settlement, g generation) []any {
	floor := ""
	if s.LedgerLeft >= 0 && (s.Copy == "" || s.Copy == g.name) {
		floor = strconv.FormatInt(s.LedgerLeft, 10)
	}
	ops := make([]byte, 0, 3*len(s.Refused))
	names := newNames(2*len(s.Refused), 48*len(s.Refused))
	for i := range s.Refused {
		f := &s.Refused[i]
		op := byte(0)
		if f.Restock {
			op |= opRestock
		}
		if f.Keep {
			op |= opKeep
		}
		ops = append(ops, op, byte(f.Quantity>>8), byte(f.Quantity))
		names.order(f.ID)
	}
	if g.limit > 0 {
		for i := range s.Refused {
			names.user(s.Refused[i].User)
		}
	}
	args = append(args, tokenBytes(s.Token), floor, len(s.Refused), ops)
	return names.appendTo(args)
}

// names builds many field names in one buffer.
type names struct {
	buf  []byte
	ends []int
}

func newNames(n, size int) names {
	return names{buf: make([]byte, 0, size), ends: make([]int, 0, n)}
}

func (a *names) order(id sale.OrderID) {
	a.buf = append(append(a.buf, 'o', ':'), id[:]...)
	a.ends = append(a.ends, len(a.buf))
}

func (a *names) user(user string) {
	a.buf = append(append(a.buf, 'u', ':'), user...)
	a.ends = append(a.ends, len(a.buf))
}

func (a *names) appendTo(args []any) []any {
	all := string(a.buf)
	fields := make([]string, len(a.ends))
	from := 0
	for i, end := range a.ends {
		fields[i] = all[from:end]
		args = append(args, &fields[i])
		from = end
	}
	return args
}

// dedup finds claims of a batch that have the same id, and buyers that occur twice. A
// batch seldom has either, and Redis, which all gateways share, is spared looking.
type dedup struct {
	ids   map[sale.OrderID]int
	users map[string]struct{}
}

func newDedup() *dedup {
	return &dedup{ids: make(map[sale.OrderID]int), users: make(map[string]struct{})}
}

// split returns the claims with distinct ids, in order, and for each claim its place
// among them (nil when all are distinct).
func (d *dedup) split(claims []*sale.Claim) (distinct []*sale.Claim, place []int) {
	defer clear(d.ids)
	for i, c := range claims {
		at, again := d.ids[c.ID]
		switch {
		case again && place == nil:
			place = make([]int, i, len(claims))
			for k := range place {
				place[k] = k
			}
			distinct = append(distinct, claims[:i]...)
		case !again && place == nil:
			d.ids[c.ID] = i
			continue
		case !again:
			at = len(distinct)
			d.ids[c.ID] = at
			distinct = append(distinct, c)
		}
		place = append(place, at)
	}
	if place == nil {
		return claims, nil
	}
	return distinct, place
}

// repeats reports whether a buyer occurs twice among the claims.
func (d *dedup) repeats(claims []*sale.Claim) bool {
	defer clear(d.users)
	for _, c := range claims {
		d.users[c.User] = struct{}{}
	}
	return len(d.users) < len(claims)
}
