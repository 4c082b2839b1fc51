package results

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// maxTogether is how many messages the server takes in one batch, by default.
	maxTogether = 1000
	// maxTogetherBytes bounds the payloads of a flight, which the server keeps twice until
	// a batch is complete.
	maxTogetherBytes = 8 << 20
	// minTogether is how many messages are worth a batch: the server makes a store of its
	// own for each, which costs it about 1.5 ms of processor (measured, server 2.15).
	minTogether = 32
)

// The headers of an atomic batch of messages: NATS ADR-50.
const (
	batchID     = "Nats-Batch-Id"
	batchSeq    = "Nats-Batch-Sequence"
	batchCommit = "Nats-Batch-Commit"
)

// codeBatchDuplicate is the server's error for a batch that holds a message it has stored
// already: none of the batch is stored then.
const codeBatchDuplicate = 10201

// errUnanswered says that it is not known whether a message is stored.
var errUnanswered = errors.New("no acknowledgement in time")

// flightSize is how many of the messages, at least one, fly together.
func flightSize(msgs []*nats.Msg) int {
	n, bytes := 0, 0
	for ; n < len(msgs) && n < maxTogether; n++ {
		if bytes += len(msgs[n].Data); n > 0 && bytes > maxTogetherBytes {
			break
		}
	}
	return n
}

// flight is messages that are on their way into one stream together, and what is known of
// each. It is what publisher, relay and backlog send with. One goroutine owns it; replies
// come to it through a channel.
type flight struct {
	conn   *Conn
	stream int // its place in Conn.kept
	msgs   []*nats.Msg
	// errs is nil where a message is stored, now or before. errUnanswered may be stored, any
	// other error certainly is not.
	errs []error
	done []bool
	open int // messages without an answer
	// sends counts how often they were sent. After the first time a refusal may be the answer
	// to a repetition of what was stored.
	sends int

	token   string
	replies chan *nats.Msg
}

// commitReply is the last part of the subject on which the answer to a batch arrives; that
// to a message ends in its index.
const commitReply = "c"

// newFlight has room for so many answers.
func (c *Conn) newFlight(stream int, msgs []*nats.Msg, answers int) *flight {
	return &flight{
		conn: c, stream: stream, msgs: msgs,
		errs: make([]error, len(msgs)), done: make([]bool, len(msgs)), open: len(msgs),
		replies: make(chan *nats.Msg, answers),
	}
}

// publish sends messages in whatever order, together where that is quicker.
func (c *Conn) publish(ctx context.Context, stream int, msgs []*nats.Msg, sends int, again time.Duration) []error {
	began, kept := time.Now(), &c.kept[stream]
	together := kept.batches() && kept.ways.together(len(msgs), began)
	errs := c.fly(ctx, stream, msgs, together, sends, again)
	if errors.Join(errs...) == nil {
		now := time.Now()
		kept.ways.took(len(msgs), together, now.Sub(began), now)
	}
	return errs
}

// fly sends the messages and waits for their answers, until ctx ends. Together, the server
// stores all of them or none, in their order and with one sync; what it refused together,
// and what is not to be sent together, it gets one by one. Messages without an answer after
// again are sent once more, sends times in all.
func (c *Conn) fly(ctx context.Context, stream int, msgs []*nats.Msg, together bool, sends int, again time.Duration) []error {
	f := c.newFlight(stream, msgs, sends*len(msgs)+1)
	if err := c.mayUse(stream); err != nil {
		f.settle(err)
		return f.errs
	}
	c.replies.enter(f)
	defer c.replies.leave(f)
	if together {
		if err := f.together(ctx, again); errors.Is(err, errUnanswered) {
			f.sends++
		}
		if f.sends >= sends || ctx.Err() != nil {
			f.settle(errUnanswered)
			return f.errs
		}
	}
	f.singly(ctx, sends, again)
	return f.errs
}

// mayUse says why nothing may be put into a stream now, or nil.
func (c *Conn) mayUse(stream int) error {
	switch {
	case c.kept[stream].foreign.Load():
		return errOwner
	case !c.Connected():
		return nats.ErrDisconnected
	}
	return nil
}

// batch stores the messages in their order and all of them, or says why not.
// errUnanswered may have stored them; any other error certainly has not.
func (c *Conn) batch(ctx context.Context, stream int, msgs []*nats.Msg, patience time.Duration) error {
	f := c.newFlight(stream, msgs, 1)
	if err := c.mayUse(stream); err != nil {
		return err
	}
	c.replies.enter(f)
	defer c.replies.leave(f)
	return f.together(ctx, patience)
}

// together sends the messages as one batch. Those it leaves open may be sent singly.
func (f *flight) together(ctx context.Context, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	id := []string{f.token + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	last := len(f.msgs) - 1
	for i, msg := range f.msgs {
		msg.Header[batchID] = id
		msg.Header[batchSeq] = []string{strconv.Itoa(i + 1)}
		msg.Reply = ""
		if i == last {
			msg.Header[batchCommit] = []string{"1"}
			msg.Reply = f.conn.replies.subject(f, commitReply)
		}
		if err := f.conn.nc.PublishMsg(msg); err != nil {
			// Without its end a batch is nothing: none of it is stored.
			f.strip()
			return err
		}
	}
	f.strip()
	select {
	case msg := <-f.replies:
		err := batchError(msg, len(f.msgs))
		f.conn.kept[f.stream].ways.answered(err)
		f.conn.answered(f.stream, err)
		if err == nil {
			f.settle(nil)
		}
		return err
	case <-timer.C:
	case <-ctx.Done():
	}
	return errUnanswered
}

// strip takes the batch's headers off the messages.
func (f *flight) strip() {
	for _, msg := range f.msgs {
		delete(msg.Header, batchID)
		delete(msg.Header, batchSeq)
		delete(msg.Header, batchCommit)
	}
}

// singly sends what has no answer yet, each by itself, without waiting in between.
func (f *flight) singly(ctx context.Context, sends int, again time.Duration) {
	if f.open == 0 {
		return
	}
	timer := time.NewTimer(again)
	defer timer.Stop()
	f.send()
	for left := sends - f.sends; f.open > 0; {
		select {
		case msg := <-f.replies:
			f.answered(msg)
			continue
		case <-timer.C:
		case <-ctx.Done():
			left = 0
		}
		if left--; left < 0 {
			f.settle(errUnanswered)
			return
		}
		if f.conn.Connected() {
			f.send()
		}
		timer.Reset(again)
	}
}

// send publishes every message that has no answer. What cannot even be handed to the
// connection the first time has certainly not been stored.
func (f *flight) send() {
	f.sends++
	for i, msg := range f.msgs {
		if f.done[i] {
			continue
		}
		msg.Reply = f.conn.replies.subject(f, strconv.Itoa(i))
		if err := f.conn.nc.PublishMsg(msg); err != nil && f.sends == 1 {
			f.end(i, err)
		}
	}
}

func (f *flight) answered(msg *nats.Msg) {
	at := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	if at == commitReply {
		// The answer to a batch that was given up. A no leaves its messages open.
		if batchError(msg, len(f.msgs)) == nil {
			f.settle(nil)
		}
		return
	}
	i, err := strconv.Atoi(at)
	if err != nil || i < 0 || i >= len(f.msgs) {
		return
	}
	err = ackError(msg)
	f.conn.answered(f.stream, err)
	if err != nil && f.sends > 1 {
		err = fmt.Errorf("%w: sent again, and then: %w", errUnanswered, err)
	}
	f.end(i, err)
}

func (f *flight) end(i int, err error) {
	if !f.done[i] {
		f.done[i], f.errs[i] = true, err
		f.open--
	}
}

// settle ends every message that has no answer yet.
func (f *flight) settle(err error) {
	for i := range f.msgs {
		f.end(i, err)
	}
}
