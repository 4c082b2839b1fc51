package deduct

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

// Breaker stands in front of one server of a Cluster.
type Breaker interface {
	// Do makes the call and counts how it ended, or returns sale.ErrNotCalled.
	Do(ctx context.Context, call func(context.Context) error) error
}

// lane is the way to one server: its own senders, so that no pipeline waits for another
// server, and in a Cluster its own breaker, so that SKUs of other servers keep to theirs.
type lane struct {
	calls   chan *call
	breaker Breaker // nil: whoever calls the Shield has one
}

// lanes are the ways to the servers that were asked so far. A server that is gone leaves
// its idle senders behind: there are as many as addresses that were ever masters.
type lanes struct {
	opened chan *lane // to Run, which starts their senders

	mu sync.Mutex
	of map[string]*lane // by address; "" = the only server there is
}

func (l *lanes) init() { l.opened, l.of = make(chan *lane), make(map[string]*lane) }

// laneOf is the lane of the master that has the key.
func (s *Shield) laneOf(ctx context.Context, key string) (*lane, error) {
	server := ""
	if cluster := s.cluster(); cluster != nil {
		master, err := cluster.MasterForKey(ctx, key)
		if err != nil {
			return nil, away(err)
		}
		server = master.Options().Addr
	}
	s.lanes.mu.Lock()
	l, ok := s.lanes.of[server]
	if !ok {
		l = &lane{calls: make(chan *call)}
		if server != "" && s.cfg.Breaker != nil {
			l.breaker = s.cfg.Breaker(server)
		}
		s.lanes.of[server] = l
	}
	s.lanes.mu.Unlock()
	if ok {
		return l, nil
	}
	// Its senders take what is put into it, also by others, once Run has started them.
	select {
	case s.lanes.opened <- l:
		return l, nil
	case <-s.stopped:
		return nil, fmt.Errorf("deduct: %w", sale.ErrShuttingDown)
	case <-ctx.Done():
		// The next call opens it; others that wait for this one run out of time.
		s.lanes.mu.Lock()
		delete(s.lanes.of, server)
		s.lanes.mu.Unlock()
		return nil, away(fmt.Errorf("%w: %w", errNotSent, ctx.Err()))
	}
}

// cluster is the senders' client where that is a Cluster's.
func (s *Shield) cluster() *redis.ClusterClient {
	c, _ := s.selling.(*redis.ClusterClient)
	return c
}

// Sharded reports whether the copies are spread over the servers of a Cluster, each with
// a breaker of its own.
func (s *Shield) Sharded() bool { return s.cluster() != nil }

// lookForMasters is called when a server did not answer: it may be no master any more.
// By itself the library looks once a minute, or when another server says so.
func (s *Shield) lookForMasters(ctx context.Context) {
	if cluster := s.cluster(); cluster != nil {
		cluster.ReloadState(ctx)
	}
}

// through makes the call behind the lane's breaker, where it has one.
func (l *lane) through(ctx context.Context, call func(context.Context) error) error {
	if l.breaker == nil {
		return call(ctx)
	}
	return l.breaker.Do(ctx, call)
}
