package gateway

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"flashgate/sale"
)

// The pace of the watch. Claims that wait in this gateway are looked for in memory with
// every tick; one that has left the line is asked for with the reads of this tick and
// the next few, until its verdict is known: as many as verdicts are given. Of all other
// orders that somebody follows, one read in each period asks for at most readMost in
// turn. So the ledger's work is bounded, whatever the number of streams.
const (
	watchTick   = 200 * time.Millisecond
	watchPeriod = 5 // ticks
	readMost    = 2000
	// freshFor is for how long a claim that left the line is asked for with every tick.
	freshFor = 2 * time.Second
	// lostAfter is for how long neither ledger nor shield may know a claim until it
	// counts as lost.
	lostAfter = 4 * time.Second
	// streamsPerUser is far above the tabs of a browser, and far below what could take
	// all streams from everybody else.
	streamsPerUser = 64
)

// streams are the event streams of this gateway and the watch that feeds them.
type streams struct {
	g           *Gateway
	most        int // open streams; every one holds a connection, and half are left to buy with
	mostPerUser int

	mu      sync.Mutex
	orders  map[sale.OrderID]*watched
	round   []*watched // the same, to go round in
	next    int        // where in the round the next read begins
	users   map[string]int
	open    int
	closing bool
}

// watched is an order that streams follow. The streams' lock guards what changes.
type watched struct {
	id      sale.OrderID
	user    string
	index   int // in the round
	streams []*stream

	order    *sale.Order  // as last seen; what it points to is immutable
	ticket   *sale.Ticket // while the claim waits in this gateway
	position int64
	left     time.Time // when it left the line, until its verdict is known
	missing  time.Time // since when nobody knows the claim
	lost     bool
}

func newStreams(g *Gateway) *streams {
	return &streams{
		g: g, most: max(1, g.cfg.MaxConnections/2), mostPerUser: streamsPerUser,
		orders: make(map[sale.OrderID]*watched), users: make(map[string]int),
	}
}

// join feeds the stream with what becomes of the order, until it leaves. There is a
// bound for a user besides the one for all, so that nobody can take every place.
func (s *streams) join(e *stream, found *standing, user string) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return shuttingDown
	case s.open >= s.most:
		return unavailable
	case s.users[user] >= s.mostPerUser:
		return rateLimited
	}
	w := s.orders[found.order.ID]
	if w == nil {
		w = &watched{id: found.order.ID, user: user, index: len(s.round), order: &found.order, position: nowhere}
		s.orders[w.id] = w
		s.round = append(s.round, w)
	}
	w.lost, w.missing = false, time.Time{} // it was found just now
	w.learn(&found.order)
	if found.ticket != nil && w.order.Status == sale.StatusQueued {
		w.ticket, w.position = found.ticket, found.ticket.Position()
	}
	w.streams = append(w.streams, e)
	s.users[user]++
	s.open++
	s.g.metrics.streams.Inc()
	e.of, e.wake = w, make(chan struct{}, 1)
	e.until = time.Now().Add(streamLifetime - rand.N(streamLifetime/8)) // streams that opened together do not end together
	return answerOK
}

// leave ends the feeding; again, or without having joined, it does nothing.
func (s *streams) leave(e *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := e.of
	if w == nil {
		return
	}
	e.of = nil
	for i, other := range w.streams {
		if other == e {
			last := len(w.streams) - 1
			w.streams[i], w.streams[last] = w.streams[last], nil
			w.streams = w.streams[:last]
			break
		}
	}
	s.open--
	s.g.metrics.streams.Dec()
	if s.users[w.user]--; s.users[w.user] == 0 {
		delete(s.users, w.user)
	}
	if len(w.streams) > 0 {
		return
	}
	delete(s.orders, w.id)
	last := len(s.round) - 1
	s.round[last].index = w.index
	s.round[w.index], s.round[last] = s.round[last], nil
	s.round = s.round[:last]
}

// news is what there is to tell now.
func (s *streams) news(e *stream) news {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := e.of
	return news{order: w.order, position: w.position, lost: w.lost, closing: s.closing}
}

// tell passes on a change that this gateway made, without waiting for the watch.
func (s *streams) tell(o *sale.Order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.orders[o.ID]; w != nil {
		w.learn(o)
	}
}

// close ends all streams and lets no more begin. Their writers end by themselves, and
// are waited for with the connections that they belong to.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for _, w := range s.round {
		w.nudge()
	}
}

// run is the watch; it blocks until ctx ends.
func (s *streams) run(ctx context.Context) {
	ticker := time.NewTicker(watchTick)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.look(time.Now(), n%watchPeriod == 0)
		}
	}
}

// look is one tick: it asks for what is due and passes on what it hears. Where the
// ledger is away nothing is learnt; what the shield remembers could be out of date.
func (s *streams) look(now time.Time, whole bool) {
	due := s.due(now, whole)
	if len(due) == 0 {
		return
	}
	ids := make([]sale.OrderID, len(due))
	for i, w := range due {
		ids[i] = w.id
	}
	found, err := s.g.deps.Ledger.Find(s.g.deadlines.context(), ids)
	if err != nil {
		s.g.log.Debug("the orders that streams follow could not be read", "orders", len(ids), "error", err)
		return
	}
	missing := ids[:0]
	for _, w := range due {
		if _, ok := found[w.id]; !ok {
			missing = append(missing, w.id)
		}
	}
	var remembered map[sale.OrderID]sale.Order
	asked := true
	if len(missing) > 0 {
		if remembered, err = s.g.deps.Shield.RecallAll(s.g.deadlines.context(), missing); err != nil {
			s.g.log.Debug("the shield could not be asked for verdicts", "orders", len(missing), "error", err)
			asked = false
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range due {
		o, ok := found[w.id]
		if !ok {
			o, ok = remembered[w.id]
		}
		switch {
		case ok && o.User == w.user:
			w.missing = time.Time{}
			w.learn(&o)
		case asked && w.order.Status == sale.StatusQueued:
			w.miss(now)
		}
	}
}

// due moves the positions of claims that wait here on and returns what is to be asked
// for: with whole, some of the orders of the round, too.
func (s *streams) due(now time.Time, whole bool) []*watched {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []*watched
	for _, w := range s.round {
		if w.ticket != nil {
			w.follow(s.g.deps.Queue.Find(w.id), now, whole)
		}
		switch {
		case w.fresh(now):
			due = append(due, w)
		case !w.left.IsZero():
			w.nowhere()
		}
	}
	if !whole {
		return due
	}
	for range s.round {
		if len(due) >= readMost {
			break
		}
		s.next = (s.next + 1) % len(s.round)
		if w := s.round[s.next]; w.ticket == nil && !w.fresh(now) {
			due = append(due, w)
		}
	}
	return due
}

// follow compares the claim's ticket with the one that its queue has now.
func (w *watched) follow(now *sale.Ticket, at time.Time, whole bool) {
	switch {
	case now != w.ticket:
		w.ticket, w.left = nil, at
	case whole && w.position != now.Position():
		w.position = now.Position()
		w.nudge()
	}
}

// fresh reports whether the claim left the line a moment ago and has no verdict yet.
func (w *watched) fresh(now time.Time) bool {
	return !w.left.IsZero() && now.Sub(w.left) < freshFor
}

// nowhere notes that a claim without a verdict is in no line of this gateway any more.
func (w *watched) nowhere() {
	w.left = time.Time{}
	if w.position != nowhere {
		w.position = nowhere
		w.nudge()
	}
}

// learn takes in how the order stands, unless it knows that already, or better.
func (w *watched) learn(o *sale.Order) {
	switch {
	case o.Version < w.order.Version || w.lost:
		return
	case o.Status == sale.StatusQueued && w.order.Status == sale.StatusQueued:
		if w.ticket == nil {
			w.nowhere()
		}
		return
	case o.Status != w.order.Status:
		known := *o
		w.order, w.ticket, w.left = &known, nil, time.Time{}
	default:
		return
	}
	w.nudge()
}

// miss notes that nobody knows the claim.
func (w *watched) miss(now time.Time) {
	if w.missing.IsZero() {
		w.missing = now
	}
	if now.Sub(w.missing) >= lostAfter {
		w.lost = true
		w.nudge()
	}
}

func (w *watched) nudge() {
	for _, e := range w.streams {
		e.nudge()
	}
}
