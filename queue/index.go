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

func (x *index) shard(id sale.OrderID) *indexShard { return &x.shards[id[0]%shardCount] }

// maxFollowers bounds how many repeats of one claim may wait for its verdict; more
// than any honest client sends, and a bound on what a dishonest one can pile up.
const maxFollowers = 64

// follow joins a claim to the undecided one of the same id and payload. The second
// result is false when there is none.
func (x *index) follow(c *sale.Claim, async bool) (*sale.Ticket, bool, error) {
	s := x.shard(c.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tickets[c.ID]
	if t == nil || t.Claim.Hash != c.Hash {
		return nil, false, nil
	}
	if len(s.followers[t]) >= maxFollowers {
		return nil, false, sale.ErrQueueFull
	}
	f := t.Follow()
	if async {
		f.Detach()
	}
	s.followers[t] = append(s.followers[t], f)
	return f, true, nil
}

func (x *index) add(t *sale.Ticket) {
	s := x.shard(t.Claim.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tickets[t.Claim.ID] == nil {
		s.tickets[t.Claim.ID] = t
	}
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
	f := s.followers[t]
	if f != nil {
		delete(s.followers, t)
	}
	return f
}
