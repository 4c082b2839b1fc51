package deduct

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

// model is the dumb copy of one family: what deduct.lua should do, claim by claim.
type model struct {
	limit int64
	left  int64
	ids   map[sale.OrderID]string // token, "ledger" or "released"
	units map[string]int64        // by buyer, under a limit; 0 is known too
	open  map[string]bool         // tentative tokens
}

func (m *model) seen(c *sale.Claim) bool {
	_, known := m.units[c.User]
	_, ok := m.ids[c.ID]
	return ok && (known || m.limit == 0)
}

func (m *model) deduct(token string, cs []*sale.Claim) []sale.Answer {
	out := make([]sale.Answer, len(cs))
	first := make(map[sale.OrderID]int)
	for i, c := range cs {
		if k, ok := first[c.ID]; ok {
			if out[i] = out[k]; out[k] == sale.Admitted || c.Hash != cs[k].Hash {
				out[i] = sale.Seen
			}
			continue
		}
		first[c.ID] = i
		switch {
		case m.seen(c):
			out[i] = sale.Seen
		case m.limit > 0 && m.units[c.User]+c.Quantity > m.limit:
			out[i] = sale.ShieldLimit
		case c.Quantity > m.left:
			out[i] = sale.ShieldSoldOut
		default:
			out[i] = sale.Admitted
			m.left -= c.Quantity
			m.ids[c.ID] = token
			m.open[token] = true
			if m.limit > 0 {
				m.units[c.User] += c.Quantity
			}
		}
	}
	return out
}

func (m *model) settle(st sale.Settlement) {
	token := ""
	if st.Token != 0 {
		token = tokenBytes(st.Token)
		if !m.open[token] {
			return
		}
		delete(m.open, token)
	}
	for _, r := range st.Refused {
		has, ok := m.ids[r.ID]
		if !ok || has == "released" || (token != "" && has != token) {
			continue
		}
		if r.Restock {
			m.left += r.Quantity
		}
		if _, known := m.units[r.User]; known && (r.Restock || !r.Keep) {
			m.units[r.User] = max(0, m.units[r.User]-r.Quantity)
		}
		switch {
		case !r.Keep:
			delete(m.ids, r.ID)
		case r.Restock:
			m.ids[r.ID] = "released"
		default:
			m.ids[r.ID] = "ledger"
		}
	}
	if st.LedgerLeft >= 0 {
		m.left = min(m.left, st.LedgerLeft)
	}
}

// stored reads a family back from the server in the model's terms.
func stored(t *rapid.T, c redis.UniversalClient, tag string, limit int64) *model {
	ctx := context.Background()
	gen, err := c.Get(ctx, pointerKey(tag)).Result()
	if err != nil {
		t.Fatal(err)
	}
	m := &model{limit: limit, ids: make(map[sale.OrderID]string), units: make(map[string]int64), open: make(map[string]bool)}
	h, err := c.HGetAll(ctx, hashKey(tag, gen)).Result()
	if err != nil {
		t.Fatal(err)
	}
	for f, v := range h {
		switch {
		case f == "l":
			m.left, _ = strconv.ParseInt(v, 10, 64)
		case strings.HasPrefix(f, "o:"):
			id := sale.OrderID([]byte(f[2:]))
			if _, ok := m.ids[id]; !ok { // what stands with the buyer counts
				m.ids[id] = v
			}
		case strings.HasPrefix(f, "u:"):
			if len(v) > 24 {
				m.ids[sale.OrderID([]byte(v[:16]))] = v[16:24]
				v = v[24:]
			}
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				t.Fatalf("buyer %q holds %q", f, v)
			}
			m.units[f[2:]] = n
		}
	}
	tokens, err := c.HKeys(ctx, batchesKey(tag, gen)).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range tokens {
		m.open[k] = true
	}
	return m
}

func (m *model) String() string {
	return fmt.Sprintf("left %d, %d ids, units %v, %d open", m.left, len(m.ids), m.units, len(m.open))
}

func (m *model) equal(o *model) bool {
	return m.left == o.left && maps.Equal(m.ids, o.ids) && maps.Equal(m.units, o.units) && maps.Equal(m.open, o.open)
}

func TestScriptAgainstModel(t *testing.T) { modelTest(t, startMini(t).Addr()) }

func TestScriptAgainstModelOnRedis(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	modelTest(t, testenv.Redis(t).Addr)
}

// sent is a batch that the shield took.
type sent struct {
	d  sale.Deduction
	cs []*sale.Claim
}

func modelTest(t *testing.T, addr string) {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { client.Close() })
	rapid.Check(t, func(r *rapid.T) {
		if err := client.FlushAll(ctx).Err(); err != nil {
			r.Fatal(err)
		}
		sku := testSKU(rapid.SampledFrom([]int64{0, 1, 3, 15}).Draw(r, "limit"), 1)
		l := newFakeLedger(sku, rapid.Int64Range(0, 30).Draw(r, "stock"))
		earlier := rapid.SliceOfN(claimGen(), 0, 6).Draw(r, "earlier")
		l.commit(earlier, nil)
		for _, c := range earlier {
			if rapid.Bool().Draw(r, "cancelled") {
				l.cancel(c.ID)
			}
		}
		m := &model{limit: sku.PerUserLimit, left: l.available(), ids: make(map[sale.OrderID]string), units: make(map[string]int64), open: make(map[string]bool)}
		for id, o := range l.orders {
			m.ids[id] = standsFor(!o.Status.Live())
			if o.Status.Live() && m.limit > 0 {
				m.units[o.User] += o.Quantity
			}
		}
		s, stop := startShield(t, addr, l)
		defer stop()
		if err := s.Rebuild(ctx, &sku); err != nil {
			r.Fatal(err)
		}
		var batches []sent
		settled := func() []sale.Settlement {
			var out []sale.Settlement
			for range rapid.IntRange(0, 3).Draw(r, "settlements") {
				if len(batches) > 0 {
					out = append(out, drawSettlement(r, batches))
				}
			}
			return out
		}
		// Settlements of one batch in one call are one settlement.
		learn := func(sts []sale.Settlement) {
			for _, l := range s.assign(sts, 1, 0) {
				for _, t := range l.confirm {
					m.settle(sale.Settlement{Token: t, LedgerLeft: -1})
				}
				for _, st := range l.named {
					m.settle(st)
				}
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"deduct": func(r *rapid.T) {
				cs := rapid.SliceOfN(claimGen(), 0, 8).Draw(r, "claims")
				sts := settled()
				learn(sts)
				d, err := s.Deduct(ctx, &sku, cs, sts)
				if err != nil || !d.Loaded {
					r.Fatal(d.Loaded, err)
				}
				want := m.deduct(tokenBytes(d.Token), cs)
				for i := range want {
					if want[i] != d.Answers[i] {
						r.Fatalf("claim %d of %s: answers %v, model says %v; claims %v", i, cs[i].User, d.Answers, want, show(cs))
					}
				}
				if d.Left != max(0, m.left) {
					r.Fatalf("left %d, model says %d", d.Left, m.left)
				}
				if len(admitted(d)) > 0 {
					batches = append(batches, sent{d, cs})
				}
			},
			"settle": func(r *rapid.T) {
				sts := settled()
				learn(sts)
				if err := s.Settle(ctx, &sku, sts); err != nil {
					r.Fatal(err)
				}
			},
			"release": func(r *rapid.T) {
				c := claimGen().Draw(r, "claim")
				o := sale.NewOrder(c, &sku, 0, 1)
				m.settle(sale.Settlement{LedgerLeft: -1, Refused: []sale.Refused{{ID: o.ID, User: o.User, Quantity: o.Quantity, Restock: true, Keep: true}}})
				if err := s.Release(ctx, &sku, []sale.Order{o}); err != nil {
					r.Fatal(err)
				}
			},
			"forget": func(r *rapid.T) {
				u := userGen().Draw(r, "user")
				if _, ok := m.units[u]; ok {
					m.units[u] = 0
				}
				if err := s.forgetUnits(ctx, &sku, []string{u}); err != nil {
					r.Fatal(err)
				}
			},
			"": func(r *rapid.T) {
				if got := stored(r, client, familyTag("shoe", 0), m.limit); !got.equal(m) {
					r.Fatalf("stored: %v\nmodel:  %v", got, m)
				}
			},
		})
	})
}

func show(cs []*sale.Claim) (out []string) {
	for _, c := range cs {
		out = append(out, fmt.Sprintf("%s/%x x%d", c.User, c.ID[:2], c.Quantity))
	}
	return out
}

func userGen() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"a", "bob", "carol-with-a-longer-name-than-most-buyers-have", "d", "~!"})
}

func claimGen() *rapid.Generator[*sale.Claim] {
	return rapid.Custom(func(t *rapid.T) *sale.Claim {
		return claim(userGen().Draw(t, "user"), rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "key"), rapid.SampledFrom([]int64{1, 1, 1, 2, 300}).Draw(t, "quantity"))
	})
}

// drawSettlement settles one of the batches in any way, as often as it likes.
func drawSettlement(r *rapid.T, batches []sent) sale.Settlement {
	b := rapid.SampledFrom(batches).Draw(r, "batch")
	st := sale.Settlement{Token: b.d.Token, LedgerLeft: rapid.Int64Range(-3, 20).Draw(r, "ledger left")}
	if st.LedgerLeft < 0 || st.LedgerLeft > 10 {
		st.LedgerLeft = -1
	}
	if rapid.IntRange(0, 9).Draw(r, "no token") == 0 {
		st.Token = 0
	}
	for _, i := range admitted(b.d) {
		if rapid.Bool().Draw(r, "refused") {
			c := b.cs[i]
			st.Refused = append(st.Refused, sale.Refused{ID: c.ID, User: c.User, Quantity: c.Quantity,
				Restock: rapid.Bool().Draw(r, "restock"), Keep: rapid.Bool().Draw(r, "keep")})
		}
	}
	return st
}
