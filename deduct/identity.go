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
}

// meet runs on every new connection, before anything else does, and distrusts every copy
// when the server is not the one that was there before. An error means that the
// connection is of no use.
func (s *Shield) meet(ctx context.Context, cn *redis.Conn) error {
	master, id, err := identify(ctx, cn)
	if err != nil {
		return err
	}
	s.identities.unread.Store(id == "")
	if !master {
		return nil
	}
	if s.identities.changed(cn.String(), id) {
		s.log.Warn("Redis is another server, or an older one: every copy is loaded anew", "server", cn.String())
		s.DistrustAll()
	}
	return nil
}

// identify asks a server who it is, "" when it does not say, and whether it is a master:
// nothing else is asked of a replica.
func identify(ctx context.Context, cn *redis.Conn) (master bool, id string, err error) {
	var info [2]string
	for i, section := range []string{"server", "replication"} {
		var refused redis.Error
		if info[i], err = cn.Info(ctx, section).Result(); err != nil && !errors.As(err, &refused) {
			return false, "", err
		}
	}
	run, replication := infoField(info[0], "run_id"), infoField(info[1], "master_replid")
	if run == "" || replication == "" {
		return false, "", nil
	}
	return infoField(info[1], "role") == "master", run + " " + replication, nil
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
	if err := s.Ping(ctx); err != nil {
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
