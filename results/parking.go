package results

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// maxSends bounds how often one claim is sent within one call of Park.
const maxSends = 4

// parkings is the line of calls of Park: those that wait at the same time share a flight,
// and thereby the server's syncs, whatever SKUs they are of. One flight is under way at a
// time, so that the next one is full: two side by side parked 17,000 claims a second where
// one parks 24,000 (a server that syncs, 512 claims waiting).
type parkings struct {
	conn        *Conn
	resendAfter *time.Duration
	wake        chan struct{} // capacity 1: there are calls

	mu      sync.Mutex
	closed  bool
	waiting []*parking
}

// parking is one call of Park, of claims of one SKU in their order.
type parking struct {
	msgs  []*nats.Msg
	bytes int
	done  chan []error // capacity 1; parallel to msgs
}

func (l *parkings) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// park returns an error for each message, or an unknown outcome for all when ctx ends.
func (l *parkings) park(ctx context.Context, msgs []*nats.Msg) []error {
	p := &parking{msgs: msgs, done: make(chan []error, 1)}
	for _, m := range msgs {
		p.bytes += len(m.Data)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return forAll(len(msgs), errClosed)
	}
	l.waiting = append(l.waiting, p)
	l.mu.Unlock()
	l.nudge()
	select {
	case errs := <-p.done:
		return errs
	case <-ctx.Done():
	}
	if l.withdraw(p) {
		return forAll(len(msgs), fmt.Errorf("%w: not sent in time: %w", sale.ErrUnavailable, ctx.Err()))
	}
	return forAll(len(msgs), fmt.Errorf("%w: no acknowledgement: %w", sale.ErrUnknown, ctx.Err()))
}

// forAll is the same error n times.
func forAll(n int, err error) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

var errClosed = fmt.Errorf("%w: the backlog takes nothing any more", sale.ErrUnavailable)

// close answers the calls that are in line, and those that come, when nobody sends any more.
func (l *parkings) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, p := range l.waiting {
		p.done <- forAll(len(p.msgs), errClosed)
	}
	l.waiting = nil
}

// withdraw reports whether the call was still in line.
func (l *parkings) withdraw(p *parking) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, q := range l.waiting {
		if q == p {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take removes what one flight carries: whole calls, so that the claims of one stay in
// their order.
func (l *parkings) take() []*parking {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, msgs, bytes := 0, 0, 0
	for ; n < len(l.waiting); n++ {
		p := l.waiting[n]
		msgs, bytes = msgs+len(p.msgs), bytes+p.bytes
		if n > 0 && (msgs > maxTogether || bytes > maxTogetherBytes) {
			break
		}
	}
	calls := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	if len(l.waiting) > 0 {
		l.nudge() // for the next flight
	}
	return calls
}

// run sends what waits until ctx ends.
func (l *parkings) run(ctx context.Context) {
	for ctx.Err() == nil {
		if calls := l.take(); len(calls) > 0 {
			l.fly(ctx, calls)
			continue
		}
		select {
		case <-ctx.Done():
		case <-l.wake:
		}
	}
}

// fly sends the claims of several calls and tells each what became of its own.
func (l *parkings) fly(ctx context.Context, calls []*parking) {
	var msgs []*nats.Msg
	for _, p := range calls {
		msgs = append(msgs, p.msgs...)
	}
	var errs []error
	if l.conn.Connected() && !l.conn.BacklogReady() {
		errs = forAll(len(msgs), errNotDrained)
	} else {
		errs = l.conn.publish(ctx, keptBacklog, msgs, maxSends, *l.resendAfter)
	}
	for _, p := range calls {
		own := errs[:len(p.msgs):len(p.msgs)]
		errs = errs[len(p.msgs):]
		for i, err := range own {
			own[i] = storeError(err)
		}
		p.done <- own
	}
}

var errNotDrained = errors.New("nobody could drain what is parked")

// codeStoreFailed is the server's error when a limit of the stream keeps a message out.
const codeStoreFailed = 10077

// storeError says in the words of Park what became of a claim.
func storeError(err error) error {
	var answer *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errUnanswered):
		return fmt.Errorf("%w: %w", sale.ErrUnknown, err)
	case errors.As(err, &answer) && answer.ErrorCode == codeStoreFailed:
		return fmt.Errorf("%w: %w", sale.ErrQueueFull, err)
	}
	return fmt.Errorf("%w: %w", sale.ErrUnavailable, err)
}
