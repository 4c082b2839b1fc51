package deduct

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// ownerEvery is how often a Redis that is used is asked whose it is: after a flush its mark
// is missing, and is made again.
const ownerEvery = 5 * time.Second

// Whose a Redis is, as far as this gateway knows.
const (
	ownerUnknown = iota
	ownerSelf
	ownerOther
)

// errOwner says that another installation uses this Redis. Its copies are not ours, however
// alike its SKUs are called.
var errOwner = errors.New("deduct: this Redis belongs to another installation")

// commands is what the mark is read and made with: one connection, or all of them.
type commands interface {
	SetNX(ctx context.Context, key string, value any, ttl time.Duration) *redis.BoolCmd
	Get(ctx context.Context, key string) *redis.StringCmd
}

// checkOwner compares the mark in Redis with this gateway's installation, and makes it where
// there is none. While the installation is not known, because the ledger has not answered
// yet, there is nothing to compare.
func (s *Shield) checkOwner(ctx context.Context, c commands) error {
	if s.cfg.Installation == nil {
		return nil
	}
	id := s.cfg.Installation()
	if id == "" {
		return nil
	}
	owner, err := c.Get(ctx, s.keys.owner()).Result()
	if errors.Is(err, redis.Nil) {
		if err := c.SetNX(ctx, s.keys.owner(), id, 0).Err(); err != nil {
			return err
		}
		owner, err = c.Get(ctx, s.keys.owner()).Result()
	}
	if err != nil {
		return err
	}
	if owner != id {
		return fmt.Errorf("%w: %s, and the ledger is %s's: give each a namespace, or a Redis", errOwner, owner, id)
	}
	return nil
}

// watchOwner compares the mark as soon as both are known, and then now and then, until ctx
// ends. Only what is found first is an error: a gateway that sells goes on around the
// shield, and asks nothing of a Redis of somebody else until it is its own again.
func (s *Shield) watchOwner(ctx context.Context) error {
	if s.cfg.Installation == nil {
		return nil
	}
	asking := context.WithValue(ctx, askingOwner{}, true)
	for wait := 100 * time.Millisecond; pause(ctx, wait) == nil; {
		err := s.checkOwner(asking, s.client)
		switch foreign := errors.Is(err, errOwner); {
		case foreign && s.owner.Load() == ownerUnknown:
			return err
		case foreign && s.owner.Swap(ownerOther) != ownerOther:
			s.log.Error("Redis has become another installation's: it is left alone", "err", err)
		case err == nil && s.cfg.Installation() != "":
			wait = s.ownerEvery
			if s.owner.Swap(ownerSelf) == ownerOther {
				s.log.Warn("Redis is this installation's again")
				s.DistrustAll()
			}
		}
	}
	return nil
}

// askingOwner marks the calls that find out whose Redis is.
type askingOwner struct{}

// ownerGuard refuses every call to a Redis of another installation before it is sent.
type ownerGuard struct{ s *Shield }

func (g ownerGuard) refuses(ctx context.Context) bool {
	return g.s.owner.Load() == ownerOther && ctx.Value(askingOwner{}) == nil
}

// DialHook is part of redis.Hook: connections are judged by meet.
func (ownerGuard) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook is part of redis.Hook.
func (g ownerGuard) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if g.refuses(ctx) {
			cmd.SetErr(errOwner)
			return errOwner
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook is part of redis.Hook.
func (g ownerGuard) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if g.refuses(ctx) {
			for _, cmd := range cmds {
				cmd.SetErr(errOwner)
			}
			return errOwner
		}
		return next(ctx, cmds)
	}
}
