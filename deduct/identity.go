package deduct

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// identities are which process and history each server was when this gateway last
// connected to it. A server that comes back as another one, or a replica that took a
// master's place, may hold copies that are older than those this gateway has used.
type identities struct {
	mu     sync.Mutex
	of     map[string]string // address -> run id and replication id of the master there
	met    atomic.Bool       // every master there was at the start has been met
	unread atomic.Bool       // some server does not say who it is
	warned sync.Map          // addresses of servers that were said to evict keys
}

// meet runs on every new connection, before anything else does, and distrusts every copy
// when the server is not the one that was there before. An error means that the
// connection is of no use.
func (s *Shield) meet(ctx context.Context, cn *redis.Conn) error {
	ctx = askOwner(ctx)
	master, id, evicts, err := identify(ctx, cn)
	if err != nil {
		return err
	}
	if evicts != "" {
		if _, said := s.identities.warned.LoadOrStore(cn.String(), true); !said {
			s.log.Warn("Redis may evict keys, and copies then have to be loaded again: set maxmemory-policy to noeviction",
				"server", cn.String(), "policy", evicts)
		}
	}
	if own := s.installation(); own != "" {
		if _, err := s.checkOwner(ctx, cn, own); errors.Is(err, errOwner) {
			return err
		}
	}
	s.identities.unread.Store(id == "")
	if !master {
		return nil
	}
	if !s.identities.changed(cn.String(), id) {
		return nil
	}
	// Of a Cluster's masters this one only: the others' copies are as they were.
	if s.Sharded() {
		if slots, err := slotsOf(ctx, cn); err == nil {
			s.log.Warn("a master of Redis is another server, or an older one: its copies are loaded anew", "server", cn.String())
			since := s.now()
			s.newest.raise(since)
			s.slots.distrust(slots, since)
			return nil
		}
	}
	s.log.Warn("Redis is another server, or an older one: every copy is loaded anew", "server", cn.String())
	s.DistrustAll()
	return nil
}

// identify asks a server who it is, "" when it does not say, whether it is a master, and
// by which policy it evicts keys, "" when it does not or does not say.
func identify(ctx context.Context, cn *redis.Conn) (master bool, id, evicts string, err error) {
	var info [3]*redis.StringCmd
	_, _ = cn.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, section := range [...]string{"server", "replication", "memory"} {
			info[i] = p.Info(ctx, section)
		}
		return nil
	})
	for _, reply := range info {
		if err := reply.Err(); err != nil && !isReply(err) {
			return false, "", "", err
		}
	}
	server, replication, memory := info[0].Val(), info[1].Val(), info[2].Val()
	if evicts = infoField(memory, "maxmemory_policy"); evicts == "noeviction" {
		evicts = ""
	}
	run, history := infoField(server, "run_id"), infoField(replication, "master_replid")
	if run == "" || history == "" {
		return false, "", evicts, nil
	}
	return infoField(replication, "role") == "master", run + " " + history, evicts, nil
}

// changed notes who answers at an address and reports whether that was somebody else
// before. A master at an address that was none while the masters were met has taken
// another's place.
func (i *identities) changed(addr, id string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	before, known := i.of[addr]
	if i.of == nil {
		i.of = make(map[string]string)
	}
	i.of[addr] = id
	return known && before != id || !known && i.met.Load()
}

// infoField returns a field of INFO's reply, "" where there is none.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// meetAll connects to every master, so that one that takes another's place is told from
// one that was there. Where one is away it is met when it comes, as another: what it has
// is then loaded anew, for nothing.
func (s *Shield) meetAll(ctx context.Context) {
	if err := s.Ping(askOwner(ctx)); err != nil {
		s.log.Debug("not every server of the shield was met", "err", err)
	}
	s.identities.met.Store(true)
}

// Doubt is called when Redis may have been another server for a while, as far as others
// can tell. Servers that say who they are leave no doubt; for others every copy is
// distrusted.
func (s *Shield) Doubt() {
	if s.identities.unread.Load() {
		s.DistrustAll()
	}
}
