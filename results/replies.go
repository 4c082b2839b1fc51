package results

import (
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// replies is the inbox of a connection: it brings each acknowledgement to the flight that
// waits for it. One subscription serves all of them.
type replies struct {
	prefix string

	mu      sync.Mutex
	last    uint64
	flights map[string]*flight
}

func (r *replies) init(nc *nats.Conn) error {
	r.prefix = nc.NewInbox() + "."
	r.flights = make(map[string]*flight)
	_, err := nc.Subscribe(r.prefix+"*.*", r.route)
	return err
}

// enter gives the flight a token, under which replies find it until it leaves.
func (r *replies) enter(f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	f.token = strconv.FormatUint(r.last, 36)
	r.flights[f.token] = f
}

func (r *replies) leave(f *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.flights, f.token)
}

// subject is where the answer to the message of this name arrives.
func (r *replies) subject(f *flight, name string) string { return r.prefix + f.token + "." + name }

// route runs on the client library's goroutine for each acknowledgement, and never waits:
// a flight has room for every answer that it can get.
func (r *replies) route(msg *nats.Msg) {
	token, _, ok := strings.Cut(strings.TrimPrefix(msg.Subject, r.prefix), ".")
	if !ok {
		return
	}
	r.mu.Lock()
	f := r.flights[token]
	r.mu.Unlock()
	if f == nil {
		return // it was given up
	}
	select {
	case f.replies <- msg:
	default:
	}
}
