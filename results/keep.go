package results

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The places of Conn.kept.
const (
	keptResults = iota
	keptBacklog
)

// keptStream is what is known of one stream. Everybody who uses the stream goes by it,
// so that nobody puts in what nobody else takes out.
type keptStream struct {
	state atomic.Pointer[streamState]
	ways  ways
	met   atomic.Bool // it was usable once
	// foreign says that it is another installation's.
	foreign atomic.Bool
	// full is why the stream takes nothing more, as it last said.
	full atomic.Pointer[jetstream.APIError]
}

// streamState is immutable.
type streamState struct {
	usable  bool
	batches bool     // it takes messages together
	notes   []string // what is not as the configuration says, or why it cannot be used
	// What was looked at: a stream that was made then, and differed in that.
	created time.Time
	differs []difference
	tried   time.Time // when what differs could not be changed
}

// holds reports whether a look would find out nothing new.
func (s *streamState) holds(info *jetstream.StreamInfo, differs []difference) bool {
	same := func(a, b difference) bool { return a.what == b.what }
	return s != nil && s.usable && s.created.Equal(info.Created) && slices.EqualFunc(s.differs, differs, same) &&
		(len(differs) == 0 || time.Since(s.tried) < keepLate)
}

func (k *keptStream) usable() bool {
	s := k.state.Load()
	return s != nil && s.usable
}

// batches reports whether the stream takes messages together.
func (k *keptStream) batches() bool {
	s := k.state.Load()
	return s != nil && s.batches
}

func (k *keptStream) notes() []string {
	if s := k.state.Load(); s != nil {
		return s.notes
	}
	return []string{"it was not looked at yet"}
}

// The server's errors for a message that there is no room for: of a stream's own limits,
// and of those of an account or a server.
var fullCodes = []jetstream.ErrorCode{codeStoreFailed, 10002, 10023, 10047}

// answered notes whether the stream has room, by its answer to a message. It reports
// whether that is news.
func (k *keptStream) answered(err error) bool {
	var answer *jetstream.APIError
	switch {
	case err == nil && k.full.Load() != nil:
		return k.full.Swap(nil) != nil
	case errors.As(err, &answer) && slices.Contains(fullCodes, answer.ErrorCode):
		return k.full.Swap(answer) == nil
	}
	return false
}

// answered notes what a stream answered to a message.
func (c *Conn) answered(stream int, err error) {
	if !c.kept[stream].answered(err) {
		return
	}
	name := c.streams()[stream].Name
	if err != nil {
		c.cfg.Log.Error("a stream is full: make room in it, or raise its limits", "stream", name, "err", err)
	} else {
		c.cfg.Log.Info("a stream has room again", "stream", name)
	}
}

// Details says, a line each, what is not as it should be with the streams.
func (c *Conn) Details() []string {
	var out []string
	for i, want := range c.streams() {
		k := &c.kept[i]
		for _, note := range k.notes() {
			out = append(out, detail(want.Name, note, k.usable()))
		}
		if full := k.full.Load(); full != nil {
			out = append(out, detail(want.Name, "is full: "+full.Description, true))
		}
	}
	return append(out, c.syncing.Load().notes()...)
}

func detail(stream, note string, usable bool) string {
	if !usable {
		note = "cannot be used: " + note
	}
	return "nats stream " + stream + ": " + note
}

// CompareStreams is Details for whoever does not keep the streams: it looks how they
// differ from what the configuration says. Errors wrap sale.ErrUnavailable.
func (c *Conn) CompareStreams(ctx context.Context) ([]string, error) {
	if c.kept[keptBacklog].state.Load() != nil {
		return c.Details(), nil
	}
	if !c.Connected() {
		return nil, fmt.Errorf("%w: %w", sale.ErrUnavailable, nats.ErrDisconnected)
	}
	var out []string
	for _, want := range c.streams() {
		ask, cancel := context.WithTimeout(ctx, c.askTimeout)
		s, err := c.js.Stream(ask, want.Name)
		cancel()
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // no gateway has run yet
		}
		if err != nil {
			return nil, fmt.Errorf("%w: stream %s: %w", sale.ErrUnavailable, want.Name, err)
		}
		if err := c.checkOwner(&s.CachedInfo().Config); err != nil {
			out = append(out, detail(want.Name, err.Error(), false))
			continue
		}
		for _, d := range differences(&s.CachedInfo().Config, &want) {
			out = append(out, detail(want.Name, d.what, !d.fatal))
		}
	}
	return out, nil
}

// keepStreams makes the streams, or brings them to what the configuration says, and
// notes whether they can be used. It returns when they are to be looked at again.
func (c *Conn) keepStreams(ctx context.Context) (again time.Duration) {
	again = keepEvery
	if c.cfg.Installation != nil && c.owner() == "" {
		return ownerPoll // the ledger has not said yet whose they have to be
	}
	for i, want := range c.streams() {
		s, err := c.keepStream(ctx, want, c.kept[i].state.Load(), func(s streamState) { c.note(i, want.Name, s) })
		switch {
		case ctx.Err() != nil:
			return again
		case errors.Is(err, errOwner):
			if !c.kept[i].met.Load() {
				c.refuse(err)
			}
			c.kept[i].foreign.Store(true)
			c.note(i, want.Name, streamState{notes: []string{err.Error()}})
		case err == nil:
			c.kept[i].foreign.Store(false)
			c.note(i, want.Name, s)
			if s.usable {
				c.kept[i].met.Store(true)
			}
		case c.kept[i].usable():
			// An election of a leader, or a moment's trouble, changes nothing.
			c.cfg.Log.Debug("a stream cannot be looked at now", "stream", want.Name, "err", err)
		default:
			c.note(i, want.Name, streamState{notes: []string{err.Error()}})
		}
		if err != nil || !s.usable {
			again = keepSoon
		}
	}
	return again
}

// note takes over what is known of a stream, and says so where that is something new.
func (c *Conn) note(i int, name string, s streamState) {
	before := c.kept[i].state.Swap(&s)
	if before != nil && before.usable == s.usable && slices.Equal(before.notes, s.notes) {
		return
	}
	switch {
	case !s.usable:
		c.cfg.Log.Error("a stream cannot be used: nothing is put into it", "stream", name, "why", s.notes)
	case len(s.notes) > 0:
		c.cfg.Log.Warn("a stream is used as it is", "stream", name, "differs", s.notes)
	case before != nil:
		c.cfg.Log.Info("a stream is as the configuration says", "stream", name)
	}
}

// keepStream makes one stream, or finds out whether the one that is there can be used as it
// is, and changes what differs; where that is as it was before, it is left at that. What it
// is before the change, soon is told: an update takes long where this user may not make one.
// An error means that nothing is known.
func (c *Conn) keepStream(ctx context.Context, want jetstream.StreamConfig, before *streamState, soon func(streamState)) (streamState, error) {
	stream, err := c.streamNow(ctx, want)
	if err != nil {
		return definite(err, "it cannot be made or asked for")
	}
	have := stream.CachedInfo().Config
	if err := c.checkOwner(&have); err != nil {
		return streamState{}, err
	}
	found := differences(&have, &want)
	if before.holds(stream.CachedInfo(), found) {
		return *before, nil
	}
	s, err := c.judge(ctx, stream, found, nil)
	if err != nil || len(found) == 0 {
		return s, err
	}
	soon(s)
	left, why := c.mend(ctx, have, found)
	return c.judge(ctx, stream, left, why)
}

// judge says whether a stream that differs so can be used.
func (c *Conn) judge(ctx context.Context, stream jetstream.Stream, differs []difference, why error) (streamState, error) {
	s := streamState{usable: true, created: stream.CachedInfo().Created, differs: differs, tried: time.Now()}
	s.batches = !slices.ContainsFunc(differs, func(d difference) bool { return d.what == oneByOne })
	for _, d := range differs {
		note := d.what
		if why != nil {
			note += ", and cannot be changed: " + why.Error()
		}
		s.notes, s.usable = append(s.notes, note), s.usable && !d.fatal
	}
	if !s.usable {
		return s, nil
	}
	if err := c.prove(ctx, stream); err != nil {
		return definite(err, "it does not do what it is needed for")
	}
	return s, nil
}

// streamNow is the stream as it is, made if there is none.
func (c *Conn) streamNow(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, c.askTimeout)
	defer cancel()
	s, err := c.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = c.js.CreateStream(ctx, want)
	}
	return s, err
}

// definite makes a state of a server's no. That it does not answer, or has no leader for
// the stream, decides nothing.
func definite(err error, what string) (streamState, error) {
	var answer *jetstream.APIError
	if errors.As(err, &answer) && answer.Code != 503 {
		return streamState{notes: []string{what + ": " + err.Error()}}, nil
	}
	return streamState{}, fmt.Errorf("%s: %w", what, err)
}

// mend changes what differs, and only that: what else an operator has set stays. It
// returns what could not be changed, and why.
func (c *Conn) mend(ctx context.Context, have jetstream.StreamConfig, found []difference) (left []difference, why error) {
	update := func(some []difference) error {
		next := have
		for _, d := range some {
			d.mend(&next)
		}
		ask, cancel := context.WithTimeout(ctx, c.askTimeout)
		defer cancel()
		_, err := c.js.UpdateStream(ask, next)
		if err == nil {
			have = next
		}
		return err
	}
	why = update(found)
	var answer *jetstream.APIError
	if why == nil || len(found) == 1 || !errors.As(why, &answer) {
		if why != nil {
			left = found
		}
		return left, why
	}
	// One that the server cannot do, more replicas than there are servers, say, must not
	// keep the others from being done.
	for _, d := range found {
		if err := update([]difference{d}); err != nil {
			left, why = append(left, d), err
		}
	}
	return left, why
}

// prove does with a stream what is done with it all the time, and leaves no trace: it
// offers a message that has to be refused, and reads and deletes parked claims of a SKU
// that there cannot be.
func (c *Conn) prove(ctx context.Context, stream jetstream.Stream) error {
	name, subject := stream.CachedInfo().Config.Name, c.names.root+"results.!proof"
	if name == c.names.backlog {
		subject = c.names.parked("!proof")
	}
	ask, cancel := context.WithTimeout(ctx, c.askTimeout)
	defer cancel()
	_, err := c.js.Publish(ask, subject, nil, jetstream.WithExpectLastSequence(math.MaxInt64), jetstream.WithRetryAttempts(0))
	var answer *jetstream.APIError
	switch {
	case err == nil:
		return errors.New("a message was taken that had to be refused")
	case !errors.As(err, &answer):
		return fmt.Errorf("publish: %w", err)
	case answer.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence && answer.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return fmt.Errorf("publish: %w", err)
	case name != c.names.backlog:
		return nil
	}
	none := jetstream.ConsumerConfig{FilterSubject: subject, HeadersOnly: true}
	if err := c.read(ctx, name, none, 1, func([]jetstream.Msg) error { return nil }); err != nil {
		return err
	}
	if err := stream.Purge(ask, jetstream.WithPurgeSubject(subject)); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}
