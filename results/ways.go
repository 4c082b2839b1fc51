package results

import (
	"errors"
	"math/bits"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ways tells whether messages reach a stream sooner together, in one atomic batch, or one
// by one. Which it is depends on something that no client is told: a server that syncs
// each message to its disk takes 2,900 a second one by one and 40,000 in batches of 1000,
// one that does not takes 80,000 and 55,000 (measured, server 2.15, two cores). So both are
// tried, and the quicker one is taken. It may be used by any number of goroutines.
type ways struct {
	mu sync.Mutex
	// of is by the size of the flight and by whether it was sent together.
	of [3][2]way
	// until then the server is not asked to take a batch.
	rest time.Time
}

// way is what is known of one way of sending.
type way struct {
	cost  time.Duration // per message, a moving average; zero is unknown
	tried time.Time
	anew  bool // the next flight says what it costs now, whatever it was before
}

const (
	// waysEvery is how often the way that was slower is tried again: what the disk does
	// beside us changes.
	waysEvery = 10 * time.Second
	// waysRest is how long a stream gets no batches after it refused one for what it was.
	waysRest = 10 * time.Second
)

// sizeOf is the place in ways.of of a flight of n messages: below 128, below 512, or more.
func sizeOf(n int) int { return max(0, min(2, (bits.Len(uint(n))-6)/2)) }

// allowed reports whether n messages may be sent together.
func (w *ways) allowed(n int, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return n >= minTogether && !now.Before(w.rest)
}

// together reports whether n messages should be.
func (w *ways) together(n int, now time.Time) bool {
	if !w.allowed(n, now) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	of := &w.of[sizeOf(n)]
	better := 0
	if of[1].cost > 0 && (of[0].cost == 0 || of[1].cost < of[0].cost) {
		better = 1
	}
	if other := 1 - better; now.Sub(of[other].tried) >= waysEvery {
		// This flight tries it, and not all that begin now.
		better = other
		of[other].tried, of[other].anew = now, true
	}
	return better == 1
}

// took notes how long a flight of n messages took that were all stored.
func (w *ways) took(n int, together bool, took time.Duration, now time.Time) {
	if n < minTogether {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	of := &w.of[sizeOf(n)][0]
	if together {
		of = &w.of[sizeOf(n)][1]
	}
	each := max(1, took/time.Duration(n))
	if of.cost == 0 || of.anew {
		of.cost, of.anew = each, false
	}
	of.cost += (each - of.cost) / 4
	of.tried = now
}

// answered notes how a stream answered to a batch.
func (w *ways) answered(err error) {
	var answer *jetstream.APIError
	if errors.As(err, &answer) && answer.ErrorCode == codeBatchDuplicate {
		return // that was the messages' doing
	}
	if err != nil {
		w.mu.Lock()
		w.rest = time.Now().Add(waysRest)
		w.mu.Unlock()
	}
}
