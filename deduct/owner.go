package deduct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// ownerEvery is how often a Redis that is used is asked whose it is: after a flush its
	// mark is missing, and is made again.
	ownerEvery = 5 * time.Second
	// ownerSoon is how soon it is asked again while that is not known.
	ownerSoon = 100 * time.Millisecond
	// ownerPoll is how soon the ledger's word is looked for again, which is in memory.
	ownerPoll = 5 * time.Millisecond
	// ownerPatience is how long Redis is left alone because it does not say whose it is. The
	// master of a Cluster that has the mark may be away, and what the others have is ours as
	// a rule.
	ownerPatience = 2 * time.Second
)

// Whose a Redis is, as far as this gateway knows.
const (
	ownerUnknown = iota
	ownerSelf
	ownerOther
)

// errOwner says that another installation uses this Redis. Its copies are not ours, however
// alike its SKUs are called.
var errOwner = errors.New("deduct: this Redis belongs to another installation")

// errNobodys says that Redis is not used yet, because it is not known whose it is.
var errNobodys = errors.New("deduct: it is not known yet whose this Redis is")

// commands is what the mark is read and made with: one connection, or all of them.
type commands interface {
	SetNX(ctx context.Context, key string, value any, ttl time.Duration) *redis.BoolCmd
	Get(ctx context.Context, key string) *redis.StringCmd
}

// checkOwner compares the mark in Redis with this installation's id. Where there is none,
// after a flush, that is no sign of somebody else; whoever may, makes it.
func (s *Shield) checkOwner(ctx context.Context, c commands, id string) (marked bool, err error) {
	owner, err := c.Get(ctx, s.keys.owner()).Result()
	if errors.Is(err, redis.Nil) {
		if s.cfg.MayMark == nil || !s.cfg.MayMark() {
			return false, nil
		}
		if err := c.SetNX(ctx, s.keys.owner(), id, 0).Err(); err != nil {
			return false, err
		}
		owner, err = c.Get(ctx, s.keys.owner()).Result()
	}
	if err != nil {
		return false, err
	}
	if owner != id {
		return false, fmt.Errorf("%w: %s, and the ledger is %s's: give each a namespace, or a Redis", errOwner, owner, id)
	}
	return true, nil
}

// installation is this gateway's, "" while it is not known because the ledger has not
// answered yet, or where nobody has to care.
func (s *Shield) installation() string {
	if s.cfg.Installation == nil {
		return ""
	}
	return s.cfg.Installation()
}

// ownership is what is known of whose Redis is.
type ownership struct {
	state atomic.Int32 // ownerUnknown, ownerSelf or ownerOther
	met   atomic.Bool  // it was ownerSelf once

	mu    sync.Mutex
	next  time.Time // when it may be looked again, while it is not known
	since time.Time // since when it was looked in vain
}

// lookAtOwner compares the mark and takes note. While it is not known whose Redis is,
// looks that follow each other closely are one.
func (s *Shield) lookAtOwner(ctx context.Context, id string) (marked bool, err error) {
	o := &s.owner
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state.Load() == ownerUnknown && time.Now().Before(o.next) {
		return false, errNobodys
	}
	marked, err = s.checkOwner(askOwner(ctx), s.client, id)
	now := time.Now()
	o.next = now.Add(ownerSoon)
	if o.since.IsZero() {
		o.since = now
	}
	switch {
	case errors.Is(err, errOwner):
		if o.state.Swap(ownerOther) != ownerOther && o.met.Load() {
			s.log.Error("Redis has become another installation's: it is left alone", "err", err)
		}
	case err == nil:
		o.met.Store(true)
		if o.state.Swap(ownerSelf) == ownerOther {
			s.log.Warn("Redis is this installation's again")
			s.DistrustAll()
		}
	case now.Sub(o.since) > ownerPatience && o.state.CompareAndSwap(ownerUnknown, ownerSelf):
		o.met.Store(true)
	}
	return marked, err
}

// watchOwner compares the mark as soon as both are known, and then now and then, until ctx
// ends. Only what is found first is an error: a gateway that sells goes on around the
// shield, and asks nothing of a Redis of somebody else until it is its own again.
func (s *Shield) watchOwner(ctx context.Context) error {
	if s.cfg.Installation == nil {
		return nil
	}
	wait := time.Duration(0)
	for pause(ctx, wait) == nil {
		id := s.installation()
		if id == "" {
			wait = ownerPoll
			continue
		}
		wait = ownerSoon
		marked, err := s.lookAtOwner(ctx, id)
		if errors.Is(err, errOwner) && !s.owner.met.Load() {
			return err
		}
		if marked {
			wait = s.ownerEvery
		}
	}
	return nil
}

// refuses says why nothing may be asked of Redis now, or nil. The first call of all finds
// out whose it is.
func (s *Shield) refuses(ctx context.Context) error {
	if s.cfg.Installation == nil || s.owner.state.Load() == ownerSelf || ctx.Value(askingOwner{}) != nil {
		return nil
	}
	if id := s.installation(); id != "" && s.owner.state.Load() == ownerUnknown {
		_, _ = s.lookAtOwner(ctx, id) // what it finds is in the state
	}
	switch s.owner.state.Load() {
	case ownerSelf:
		return nil
	case ownerOther:
		return errOwner
	}
	return errNobodys
}

// askOwner marks the calls that find out whose Redis is, and what it is.
func askOwner(ctx context.Context) context.Context {
	return context.WithValue(ctx, askingOwner{}, true)
}

// askingOwner marks the calls that find out whose Redis is.
type askingOwner struct{}

// ownerGuard refuses every call to a Redis that is not known to be ours before it is sent.
type ownerGuard struct{ s *Shield }

// DialHook is part of redis.Hook: connections are judged by meet.
func (ownerGuard) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook is part of redis.Hook.
func (g ownerGuard) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := g.s.refuses(ctx); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook is part of redis.Hook.
func (g ownerGuard) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if err := g.s.refuses(ctx); err != nil {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
			return err
		}
		return next(ctx, cmds)
	}
}
