package testenv

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// quiet is how long a server must have said nothing more before a swallowed reply
// counts as complete.
const quiet = 100 * time.Millisecond

// Proxy stands between a client and a server and does to their connections what
// networks do. Its methods may be called at any time.
type Proxy struct {
	Addr   string
	lis    net.Listener
	wg     sync.WaitGroup
	closed chan struct{}

	mu     sync.Mutex
	target string
	links  map[*link]struct{}
	refuse bool
	resume chan struct{} // non-nil while paused; closed by Resume
	delay  time.Duration
	traps  []*trap
}

// trap waits for a client to send a pattern.
type trap struct {
	first   []byte // what the same connection must have sent before; may be empty
	pattern []byte
	forward bool // the server still gets the packet; only its reply is lost
	sprung  chan struct{}
}

// link is one proxied connection.
type link struct {
	client, server net.Conn
	passed         map[*trap]bool // whose first has been sent; of there's goroutine
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// NewProxy starts a proxy to the target on a free loopback port, for this test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	lis, err := net.Listen("tcp", loopback(Port(t)))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		Addr: lis.Addr().String(), target: target, lis: lis,
		closed: make(chan struct{}), links: make(map[*link]struct{}),
	}
	p.wg.Add(1)
	go p.accept()
	t.Cleanup(func() {
		close(p.closed)
		_ = lis.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Retarget sends connections made from now on to another server, as a failover does;
// Cut ends those that stand.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Cut drops all connections; new ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// Refuse, while on, drops all connections and every new one at once.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	p.refuse = on
	p.mu.Unlock()
	if on {
		p.Cut()
	}
}

// Pause lets nothing through in either direction: connections stay open, new ones
// are accepted, and nobody answers.
func (p *Proxy) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resume == nil {
		p.resume = make(chan struct{})
	}
}

// Resume lets through what a Pause held back.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resume != nil {
		close(p.resume)
		p.resume = nil
	}
}

// Delay holds every piece of data that the server sends back for d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// SwallowReply waits for the next client that sends something holding the pattern:
// the server gets it and answers, and then the connection is cut before the answer
// reaches the client. The channel is closed when that has happened.
func (p *Proxy) SwallowReply(pattern string) <-chan struct{} { return p.set("", pattern, true) }

// CutBefore waits for the next client that sends something holding the pattern, and
// cuts the connection before the server gets it. The channel is closed when that has
// happened.
func (p *Proxy) CutBefore(pattern string) <-chan struct{} { return p.set("", pattern, false) }

// SwallowReplyAfter is SwallowReply for a connection that has sent something holding
// first before the pattern: the COMMIT of one buyer's purchase, say.
func (p *Proxy) SwallowReplyAfter(first, pattern string) <-chan struct{} {
	return p.set(first, pattern, true)
}

// CutAfter is CutBefore for a connection that has sent something holding first.
func (p *Proxy) CutAfter(first, pattern string) <-chan struct{} {
	return p.set(first, pattern, false)
}

// Disarm forgets the traps that have not been sprung.
func (p *Proxy) Disarm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.traps = nil
}

func (p *Proxy) set(first, pattern string, forward bool) <-chan struct{} {
	tr := &trap{first: []byte(first), pattern: []byte(pattern), forward: forward, sprung: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.traps = append(p.traps, tr)
	return tr.sprung
}

// spring removes and returns the first trap whose pattern ends in the new piece of
// data, having begun there or in the piece before it.
func (p *Proxy) spring(l *link, before, data []byte) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.traps) == 0 {
		return nil
	}
	both := append(bytes.Clone(before), data...)
	for i, tr := range p.traps {
		from := max(0, len(before)-len(tr.pattern)+1)
		if !l.passed[tr] {
			at := bytes.Index(both, tr.first)
			if at < 0 {
				continue
			}
			l.passed[tr] = true
			from = max(from, at)
		}
		if bytes.Contains(both[from:], tr.pattern) {
			p.traps = slices.Delete(p.traps, i, i+1)
			return tr
		}
	}
	return nil
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		client, err := p.lis.Accept()
		if err != nil {
			return
		}
		p.wg.Add(1)
		go p.serve(client)
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.wg.Done()
	defer func() { _ = client.Close() }()
	p.mu.Lock()
	refuse, target := p.refuse, p.target
	p.mu.Unlock()
	if refuse || !p.gate(0) {
		return
	}
	server, err := net.DialTimeout("tcp", target, Patience/4)
	if err != nil {
		return
	}
	l := &link{client: client, server: server, passed: make(map[*trap]bool)}
	defer l.close()
	p.mu.Lock()
	gone := p.refuse
	select {
	case <-p.closed:
		gone = true
	default:
	}
	if !gone {
		p.links[l] = struct{}{}
	}
	p.mu.Unlock()
	if gone {
		return
	}
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
	}()
	swallow := make(chan *trap, 1) // from the way there to the way back
	var back sync.WaitGroup
	back.Go(func() {
		defer l.close()
		p.back(l, swallow)
	})
	if !p.there(l, swallow) {
		l.close()
	}
	back.Wait()
}

// gate waits while the proxy is paused and then for the delay; false means that the
// proxy is closing.
func (p *Proxy) gate(delay time.Duration) bool {
	for {
		p.mu.Lock()
		resume := p.resume
		p.mu.Unlock()
		if resume == nil {
			break
		}
		select {
		case <-resume:
		case <-p.closed:
			return false
		}
	}
	if delay == 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.closed:
		return false
	}
}

// there copies what the client sends, and ends when a trap springs: true means that
// the way back still has a reply to swallow.
func (p *Proxy) there(l *link, swallow chan<- *trap) bool {
	buf, before := make([]byte, 64<<10), []byte(nil)
	for {
		n, err := l.client.Read(buf)
		if n > 0 {
			if !p.gate(0) {
				return false
			}
			tr := p.spring(l, before, buf[:n])
			if tr != nil && !tr.forward {
				l.close()
				close(tr.sprung)
				return false
			}
			if tr != nil {
				swallow <- tr
			}
			_, err := l.server.Write(buf[:n])
			if tr != nil {
				return true
			}
			if err != nil {
				return false
			}
			before = append(before[:0], buf[max(0, n-256):n]...)
		}
		if err != nil {
			return false
		}
	}
}

// back copies what the server sends, until a reply is to be swallowed: that it reads
// to its end.
func (p *Proxy) back(l *link, swallow <-chan *trap) {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buf)
		select {
		case tr := <-swallow:
			for err == nil {
				_ = l.server.SetReadDeadline(time.Now().Add(quiet))
				_, err = l.server.Read(buf)
			}
			l.close()
			close(tr.sprung)
			return
		default:
		}
		if n > 0 {
			p.mu.Lock()
			delay := p.delay
			p.mu.Unlock()
			if !p.gate(delay) {
				return
			}
			if _, err := l.client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
