package checkout

import (
	"sync"
	"time"
)

const (
	// rebuildPause is the least time between two attempts at one SKU, so that a shield
	// that cannot be loaded is not loaded in a loop.
	rebuildPause = 200 * time.Millisecond
	// rebuildRetries is how often a load that failed is tried again by itself, each time
	// after twice as long: the first buyers of a SKU that was just put on sale would go around
	// it otherwise. Afterwards it waits for a batch that finds it missing.
	rebuildRetries = 6
	// After the second load of a SKU within rebuildRest no other one begins for rebuildShare
	// times as long as it took, up to rebuildRest: one whose copy keeps getting lost, or whose
	// rules keep changing, must not take the loaders' and the ledger's time from others. Less
	// takes more of it; more leaves its buyers to go around the shield for longer.
	rebuildShare = 10
	rebuildRest  = 2 * time.Second
)

// rebuilds is the set of SKUs whose shield wants loading. Each is first loaded together
// with others, and where that does not do, by itself. In either line, those that buyers
// wait for come before those that are loaded ahead of their sale.
type rebuilds struct {
	mu      sync.Mutex
	pending map[string]*pending
	bulk    line
	alone   line
	last    map[string]lastLoad
}

// pending is a SKU that is in line or being loaded.
type pending struct {
	in      *line // nil: it is being loaded
	urgent  bool  // buyers wait
	renewed bool  // to be loaded once more after the load that is under way
}

// line is names in the order they were asked for. A name stays where it is when it becomes
// urgent, and is then skipped there.
type line struct {
	urgent, ahead []string
	wake          chan struct{} // capacity 1: there are names
}

// lastLoad is how the latest load of a SKU ended, until it may be forgotten.
type lastLoad struct {
	at     time.Time     // when it ended
	failed int           // how many in a row have
	rest   time.Duration // how long from then no other one begins
	owed   bool          // somebody asked meanwhile
	urgent bool          // and buyers wait
}

// retry is when one that failed is tried again by itself.
func (l lastLoad) retry() time.Time { return l.at.Add(rebuildPause << l.failed) }

func (r *rebuilds) init() {
	r.pending = make(map[string]*pending)
	r.last = make(map[string]lastLoad)
	r.bulk.wake, r.alone.wake = make(chan struct{}, 1), make(chan struct{}, 1)
}

// want asks for a SKU's shield to be loaded, because buyers wait; asking again while it is
// changes nothing.
func (r *rebuilds) want(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ask(name, true)
}

// ahead asks for a SKU's shield to be loaded before buyers come.
func (r *rebuilds) ahead(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ask(name, false)
}

// renew asks for a load that begins after now: one that is under way may have read the
// ledger already.
func (r *rebuilds) renew(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pending[name]; p != nil && p.in == nil {
		p.renewed = true
		return
	}
	r.ask(name, false)
}

// ask puts the SKU in line, or further to the front; one that was loaded a moment ago comes
// into it later. The lock is held.
func (r *rebuilds) ask(name string, urgent bool) {
	p := r.pending[name]
	if last, ok := r.last[name]; ok && p == nil && time.Since(last.at) < last.rest {
		last.owed, last.urgent = true, last.urgent || urgent
		r.last[name] = last
		return
	}
	if p == nil {
		r.pending[name] = &pending{urgent: urgent}
		r.put(name, &r.bulk)
		return
	}
	if urgent && !p.urgent {
		p.urgent = true
		if p.in != nil {
			r.put(name, p.in)
		}
	}
}

// put adds a pending SKU to a line. The lock is held.
func (r *rebuilds) put(name string, l *line) {
	p := r.pending[name]
	p.in = l
	if p.urgent {
		l.urgent = append(l.urgent, name)
	} else {
		l.ahead = append(l.ahead, name)
	}
	l.nudge()
}

func (l *line) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next takes up to n SKUs out of the line, which are then being loaded.
func (r *rebuilds) next(l *line, n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for len(names) < n && len(l.urgent)+len(l.ahead) > 0 {
		urgent, from := len(l.urgent) > 0, &l.urgent
		if !urgent {
			from = &l.ahead
		}
		name := (*from)[0]
		*from = (*from)[1:]
		if p := r.pending[name]; p != nil && p.in == l && p.urgent == urgent {
			p.in, p.renewed = nil, false
			names = append(names, name)
		}
	}
	if len(l.urgent)+len(l.ahead) > 0 {
		l.nudge()
	}
	return names
}

// leave passes SKUs that were tried together on to be loaded one by one.
func (r *rebuilds) leave(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(name, &r.alone)
}

// done ends a load that took so long.
func (r *rebuilds) done(name string, failed bool, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	renewed := r.pending[name].renewed
	delete(r.pending, name)
	before, lately := r.last[name]
	last := lastLoad{at: time.Now()}
	if lately {
		last.rest = min(rebuildShare*took, rebuildRest)
	}
	if failed {
		last.failed, last.rest = before.failed+1, max(last.rest, rebuildPause)
	}
	r.last[name] = last
	if renewed {
		r.ask(name, false)
	}
}

// later puts in line what was asked for too soon, and loads that failed, where it is time,
// and forgets those of which nothing is owed.
func (r *rebuilds) later(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, last := range r.last {
		switch {
		case r.pending[name] != nil || now.Sub(last.at) < last.rest:
		case last.owed:
			last.owed = false
			r.last[name] = last
			r.ask(name, last.urgent)
		case now.Before(last.retry()):
		case last.failed > 0 && last.failed <= rebuildRetries:
			r.ask(name, false)
		case now.Sub(last.at) >= rebuildRest:
			delete(r.last, name)
		}
	}
}
