package deduct

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

// A pipeline ends at either bound, so that its replies come well within ReadTimeout.
const (
	maxPipelineCalls  = 128
	maxPipelineClaims = 4096
)

// call is one run of deduct.lua, or an HDEL in its stead, on its way. Whoever accepts it
// from the channel sends exactly one reply on done.
type call struct {
	ctx    context.Context // of the caller: a call that nobody waits for is not sent
	args   []any
	claims int
	cmd    once
	done   chan error // capacity 1
}

// once is a command that the client must not repeat on its own, whatever happened.
type once struct{ *redis.Cmd }

// NoRetry keeps the Cluster client from repeating a pipeline that it lost the replies of.
func (once) NoRetry() bool { return true }

// do has one of the server's senders run deduct.lua with these arguments, in a pipeline with
// whatever other SKUs' calls are ready. Which calls share a pipeline is decided by
// what piles up while the senders are busy; nobody waits for company.
func (s *Shield) do(ctx context.Context, args []any, claims int) ([]any, error) {
	got, err := s.send(ctx, args[keyArg].(string), args, claims)
	if err != nil {
		return nil, err
	}
	reply, ok := got.([]any)
	if !ok {
		return nil, unknown(fmt.Errorf("reply of type %T", got))
	}
	return reply, nil
}

// keyArg is where the arguments of deduct.lua have their first key.
const keyArg = 3

// send has one of the senders of the key's server make the call, and returns its reply.
func (s *Shield) send(ctx context.Context, key string, args []any, claims int) (any, error) {
	l, err := s.laneOf(ctx, key)
	if err != nil {
		return nil, err
	}
	var reply any
	err = l.through(ctx, func(ctx context.Context) error {
		reply, err = s.sendOne(ctx, l, args, claims)
		return err
	})
	return reply, err
}

// sendOne hands a call to the lane's senders and waits for its reply.
func (s *Shield) sendOne(ctx context.Context, l *lane, args []any, claims int) (any, error) {
	c := &call{ctx: ctx, args: args, claims: claims, done: make(chan error, 1)}
	began := time.Now()
	select {
	case l.calls <- c:
	case <-s.stopped:
		return nil, fmt.Errorf("deduct: %w", sale.ErrShuttingDown)
	case <-ctx.Done():
		return nil, away(fmt.Errorf("%w: %w", errNotSent, ctx.Err()))
	}
	var err error
	select {
	case err = <-c.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.metrics.call(claims, time.Since(began), err)
	if err != nil {
		if !isReply(err) {
			s.lookForMasters(ctx)
		}
		return nil, unknown(err)
	}
	return c.cmd.Val(), nil
}

// sendCalls sends the lane's pipelines until ctx ends.
func (s *Shield) sendCalls(ctx context.Context, l *lane) {
	batch := make([]*call, 0, maxPipelineCalls)
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-l.calls:
			batch = l.gather(append(batch[:0], c))
		}
		// What was accepted is sent even when ctx ends meanwhile; the client's own
		// timeouts bound it.
		s.roundTrip(context.WithoutCancel(ctx), batch)
		clear(batch)
	}
}

// gather adds the calls that are ready now.
func (l *lane) gather(batch []*call) []*call {
	claims := batch[0].claims
	for len(batch) < maxPipelineCalls && claims < maxPipelineClaims {
		select {
		case c := <-l.calls:
			batch = append(batch, c)
			claims += c.claims
		default:
			return batch
		}
	}
	return batch
}

// roundTrip sends the calls and answers each. Calls that Redis turned down because it
// did not have the script were not carried out: those, and only those, are sent again,
// with the script.
func (s *Shield) roundTrip(ctx context.Context, batch []*call) {
	live := make([]*call, 0, len(batch))
	for _, c := range batch {
		if err := c.ctx.Err(); err != nil {
			c.done <- fmt.Errorf("%w: %w", errNotSent, err)
			continue
		}
		live = append(live, c)
	}
	s.metrics.pipeline(len(live))
	s.exec(ctx, live)
	var missing []*call
	for _, c := range live {
		if noScript(c.cmd.Err()) {
			c.args[0], c.args[1] = "eval", s.scripts.deductSource
			missing = append(missing, c)
		}
	}
	s.exec(ctx, missing)
	for _, c := range live {
		c.done <- c.cmd.Err()
	}
}

func (s *Shield) exec(ctx context.Context, calls []*call) {
	if len(calls) == 0 {
		return
	}
	for _, c := range calls {
		c.cmd = once{redis.NewCmd(ctx, c.args...)}
	}
	// Each command carries its own error; those returned here only repeat the first.
	if len(calls) == 1 {
		_ = s.selling.Process(ctx, calls[0].cmd)
		return
	}
	pipe := s.selling.Pipeline()
	for _, c := range calls {
		_ = pipe.Process(ctx, c.cmd)
	}
	_, _ = pipe.Exec(ctx)
}

func noScript(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && strings.HasPrefix(reply.Error(), "NOSCRIPT")
}
