package ledger

// callLine is calls of Commit in the order of their arrival. The queue's lock guards it.
type callLine struct {
	calls  []*call
	claims int // of all of them
}

func (l *callLine) add(calls ...*call) {
	l.calls = append(l.calls, calls...)
	for _, c := range calls {
		l.claims += len(c.asks)
	}
}

// take removes the oldest calls, as many as hold at most limit claims together, but at
// least one where one is asked for, and marks them as begun.
func (l *callLine) take(limit int, one bool) []*call {
	n, claims := 0, 0
	for n < len(l.calls) && (one && n == 0 || claims+len(l.calls[n].asks) <= limit) {
		claims += len(l.calls[n].asks)
		l.calls[n].begun = true
		n++
	}
	taken := append([]*call(nil), l.calls[:n]...)
	rest := copy(l.calls, l.calls[n:])
	clear(l.calls[rest:])
	l.calls, l.claims = l.calls[:rest], l.claims-claims
	return taken
}

// remove takes out the calls of which it is true, wherever they stand.
func (l *callLine) remove(is func(*call) bool) (removed []*call) {
	kept := l.calls[:0]
	for _, c := range l.calls {
		if is(c) {
			removed = append(removed, c)
			l.claims -= len(c.asks)
		} else {
			kept = append(kept, c)
		}
	}
	clear(l.calls[len(kept):])
	l.calls = kept
	return removed
}
