package queue

import (
	"sync"

	"flashgate/sale"
)

// index finds the undecided claim of an order id, so that a repeat shares its verdict
// and a buyer can ask for its place. Of several claims with one id (same key, other
// payload) the first that waits is the one it knows.
type index struct {
	shards [shardCount]indexShard
}

type indexShard struct {
	mu        sync.Mutex
	tickets   map[sale.OrderID]*sale.Ticket
	followers map[*sale.Ticket][]*sale.Ticket
}

func (x *index) init() {
	for i := range x.shards {
		x.shards[i].tickets = make(map[sale.OrderID]*sale.Ticket)
		x.shards[i].followers = make(map[*sale.Ticket][]*sale.Ticket)
	}
}

func (x *index) shard(id sale.OrderID) *indexShard { return &x.shards[id[len(id)-1]%shardCount] }

// maxFollowers bounds how many repeats of one claim may wait for its verdict; more
// than any honest client sends, and a bound on what a dishonest one can pile up.
const maxFollowers = 64

// join lets a claim share the place of the undecided one of the same id and payload,
// or else enters the ticket that enqueue makes.
func (x *index) join(c *sale.Claim, enqueue func() (*sale.Ticket, error)) (*sale.Ticket, error) {
	s := x.shard(c.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.tickets[c.ID]
	if first == nil || first.Claim.Hash != c.Hash {
		t, err := enqueue()
		if err == nil && first == nil {
			s.tickets[c.ID] = t
		}
		return t, err
	}
	if len(s.followers[first]) >= maxFollowers {
		return nil, sale.ErrQueueFull
	}
	f := first.Follow()
	s.followers[first] = append(s.followers[first], f)
	return f, nil
}

func (x *index) find(id sale.OrderID) *sale.Ticket {
	s := x.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tickets[id]
}

// remove forgets the ticket and returns who joined it.
func (x *index) remove(t *sale.Ticket) []*sale.Ticket {
	s := x.shard(t.Claim.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tickets[t.Claim.ID] != t {
		return nil
	}
	delete(s.tickets, t.Claim.ID)
	if len(s.followers) == 0 {
		return nil
	}
	followers := s.followers[t]
	delete(s.followers, t)
	return followers
}
