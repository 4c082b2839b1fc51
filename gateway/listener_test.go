package gateway

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"
)

func TestServing(t *testing.T) {
	r := serve(t, nil)
	r.queue.rule = reserved
	status, body, _ := r.send(t, post+"Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"quantity\":3}")
	if status != 201 || !strings.Contains(body, `"quantity":3`) {
		t.Errorf("%d %s", status, body)
	}
	status, body, _ = r.send(t, post+"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{\"quantity\":4}\r\n0\r\n\r\n")
	if status != 201 || !strings.Contains(body, `"quantity":4`) {
		t.Errorf("chunked: %d %s", status, body)
	}
	resp, err := http.Get("http://" + r.g.OperatorsAddr().String() + "/livez")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("operators: %v", err)
	}
	_ = resp.Body.Close()
	head, err := http.Head(r.url("/livez"))
	if err != nil || head.StatusCode != 200 {
		t.Errorf("HEAD: %v %d", err, head.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()
}

// What two servers could read as two different things is refused, and the connection
// is closed, so that nothing can be hidden behind it.
func TestSmuggling(t *testing.T) {
	r := serve(t, nil)
	r.queue.rule = reserved
	hidden := "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, raw := range map[string]string{
		"both lengths":          post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"two lengths":           post + "Content-Length: 2\r\nContent-Length: 4\r\n\r\n{}" + hidden,
		"same length twice":     post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + hidden,
		"length list":           post + "Content-Length: 2, 2\r\n\r\n{}" + hidden,
		"signed length":         post + "Content-Length: +2\r\n\r\n{}" + hidden,
		"odd encoding":          post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
		"two encodings":         post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"encoding in HTTP/1.0":  strings.Replace(post, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"space before colon":    post + "Content-Length : 2\r\n\r\n{}" + hidden,
		"folded field":          post + "Content-Length: 2\r\n X: y\r\n\r\n{}" + hidden,
		"bad chunk":             post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + hidden,
		"two hosts":             post + "Host: b\r\n\r\n" + hidden,
		"NUL in a field":        post + "X: a\x00b\r\n\r\n" + hidden,
		"identity and a length": post + "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}" + hidden,
		"identity":              post + "Transfer-Encoding: identity\r\n\r\n" + hidden,
		"bare LF":               post + "X-A: b\nContent-Length: 0\r\n\r\n" + hidden,
		"bare CR":               post + "X-A: b\rX-B: c\r\n\r\n" + hidden,
		"folded by a tab":       post + "X-A: b\r\n\tContent-Length: 5\r\n\r\n" + hidden,
		"HTTP/1.2":              strings.Replace(post, "1.1", "1.2", 1) + "\r\n" + hidden,
		"HTTP/2.0":              strings.Replace(post, "1.1", "2.0", 1) + "\r\n" + hidden,
		"chunks ended by LF":    post + "Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n" + hidden,
		"http in lower case":    strings.Replace(post, "HTTP", "http", 1) + "\r\n" + hidden,
		"tabs for spaces":       strings.Replace(post, " ", "\t", 2) + "\r\n" + hidden,
		"two spaces":            strings.Replace(post, " ", "  ", 1) + "\r\n" + hidden,
		"no host":               strings.Replace(post, "Host: a\r\n", "", 1) + "\r\n" + hidden,
		"a space first":         strings.Replace(post, "Host", " Host", 1) + "\r\n" + hidden,
		"no HTTP":               "hello\r\n\r\n" + hidden,

		"trailer":                     chunked("", "X-User-ID: victim\r\n") + hidden,
		"trailer of a key":            chunked("", "Idempotency-Key: k\r\n") + hidden,
		"trailer of another case":     chunked("", "x-uSER-id: victim\r\n") + hidden,
		"trailer that is announced":   chunked("Trailer: X-User-ID\r\n", "X-User-ID: victim\r\n") + hidden,
		"trailer of an address":       chunked("", "X-Forwarded-For: 1.2.3.4\r\n") + hidden,
		"trailer of a browser":        chunked("User-Agent: a\r\n", "User-Agent: b\r\n") + hidden,
		"trailer that says the same":  chunked("X-A: b\r\n", "X-A: b\r\n") + hidden,
		"trailer of a signature":      chunked("", "Flashgate-Signature: t=1,v1=00\r\n") + hidden,
		"trailer of who is no other":  chunked("", "Prefer: respond-async\r\n") + hidden,
		"trailer without a value":     chunked("", "X-A:\r\n") + hidden,
		"trailer behind empty field":  chunked("X-A:\r\n", "X-A: b\r\n") + hidden,
		"trailer of a forbidden name": chunked("", "Authorization: Bearer x\r\n") + hidden,
	} {
		t.Run(name, func(t *testing.T) {
			status, body, rest := r.send(t, raw)
			if status != 400 || !strings.Contains(body, `"code":"malformed"`) {
				t.Errorf("%d %s", status, body)
			}
			if more, _ := io.ReadAll(rest); len(more) > 0 {
				t.Errorf("the connection went on: %q", more)
			}
		})
	}
}

// chunked is a purchase whose body comes in chunks, with fields in its head and behind it.
func chunked(head, trailer string) string {
	return post + head + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{\"quantity\":4}\r\n0\r\n" + trailer + "\r\n"
}

// Fields that are there twice are told by their presence, whatever they say.
func TestFieldsThatStandTwice(t *testing.T) {
	r := serve(t, nil)
	r.queue.rule = reserved
	for name, fields := range map[string]string{
		"the same user":  "X-User-ID: ann\r\n",
		"no user first":  "X-User-ID:\r\nX-User-ID: bob\r\n",
		"another case":   "x-user-id: bob\r\n",
		"tokens":         "Authorization: Bearer a\r\nAuthorization: Bearer a\r\n",
		"no token first": "Authorization:\r\nAuthorization: Bearer a\r\n",
		"keys":           "Idempotency-Key: a\r\nIdempotency-Key: a\r\n",
	} {
		if status, body, _ := r.send(t, post+fields+"\r\n"); status != 400 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	// A chunked body without a trailer is a body, also with one announced that never comes.
	for _, raw := range []string{chunked("", ""), chunked("Trailer: X-Later\r\nUser-Agent: a\r\nCookie: a=b\r\nCookie: c=d\r\nConnection: keep-alive\r\n", "")} {
		if status, body, _ := r.send(t, raw); status != 201 || !strings.Contains(body, `"quantity":4`) {
			t.Errorf("%d %s", status, body)
		}
	}
}

// Nobody is asked for a body whose head is refused.
func TestExpectations(t *testing.T) {
	r := serve(t, nil)
	r.queue.rule = reserved
	const expects = "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: "
	for name, x := range map[string]struct {
		raw    string
		status int
	}{
		"taken":     {post + expects + "14\r\n\r\n", 100},
		"too large": {post + expects + "99999999\r\n\r\n", 413},
		"nobody":    {strings.Replace(post, "X-User-ID: ann\r\n", "", 1) + expects + "14\r\n\r\n", 401},
		"two users": {post + "X-User-ID: bob\r\n" + expects + "14\r\n\r\n", 401},
		"bare LF":   {post + "X-A: b\n" + expects + "14\r\n\r\n", 400},
	} {
		c := r.dial(t)
		if _, err := io.WriteString(c, x.raw); err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != x.status {
			t.Errorf("%s: %+v, %v", name, resp, err)
			continue
		}
		if x.status != 100 {
			continue
		}
		if _, err := io.WriteString(c, `{"quantity":4}`); err != nil {
			t.Fatal(err)
		}
		if resp, err = http.ReadResponse(br, nil); err != nil || resp.StatusCode != 201 {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
	}
}

func TestSizes(t *testing.T) {
	r := serve(t, func(c *Config) { c.BodyLimit, c.HeaderLimit = 1024, 2048 })
	r.queue.rule = reserved
	big := strings.Repeat(" ", 1025)
	for name, x := range map[string]struct {
		raw    string
		status int
		code   string
	}{
		"announced body": {post + "Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n", 413, "content_too_large"},
		"body":           {post + "Content-Type: application/json\r\nContent-Length: 1025\r\n\r\n" + big, 413, "content_too_large"},
		"chunked body":   {post + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n" + big + "\r\n0\r\n\r\n", 413, "content_too_large"},
		"header":         {post + "X: " + strings.Repeat("x", 2048) + "\r\n\r\n", 431, "headers_too_large"},
		"path":           {"GET /" + strings.Repeat("x", 2048) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431, "headers_too_large"},
	} {
		if status, body, _ := r.send(t, x.raw); status != x.status || !strings.Contains(body, `"code":"`+x.code+`"`) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// Who sends much more than is taken hears so, instead of a reset, whether the whole is on its
// way already or not.
func TestBodiesFarTooLarge(t *testing.T) {
	r := serve(t, nil)
	for _, size := range []int{1 << 20, 3 << 20} {
		for range 5 {
			c := r.dial(t)
			head := post + "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n"
			if _, err := io.WriteString(c, head+strings.Repeat(" ", size)); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 413 || !strings.Contains(string(body), "content_too_large") {
				t.Errorf("%d bytes: %d %s, %v", size, resp.StatusCode, body, err)
			}
			_ = resp.Body.Close()
			_ = c.Close()
		}
	}
}

// A client that dribbles its request is cut off in time, wherever it stops.
func TestSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, nil)
		r.queue.rule = reserved
		for name, raw := range map[string]string{
			"in the header": post + "X-Slow: ",
			"in the body":   post + "Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"qua",
		} {
			began := time.Now()
			status, body, rest := r.send(t, raw)
			if status != 408 || !strings.Contains(body, `"code":"request_timeout"`) {
				t.Errorf("%s: %d %s", name, status, body)
			}
			if _, err := rest.ReadByte(); err != io.EOF {
				t.Errorf("%s: the connection stayed open: %v", name, err)
			}
			passed(t, name, time.Since(began), r.g.cfg.ReadTimeout)
		}
		// One that is idle after a request is closed without a word.
		_, _, rest := r.send(t, post+"\r\n")
		began := time.Now()
		if b, err := rest.ReadByte(); err != io.EOF {
			t.Errorf("idle: %q %v", b, err)
		}
		passed(t, "idle", time.Since(began), r.g.cfg.IdleTimeout)
	})
}

// A client that asks and never reads holds its connection for no longer than a write may take.
func TestAClientThatNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := servePipes(t, nil)
		c := r.dial(t)
		if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		open := &r.g.buyers.ln.Load().open
		time.Sleep(testWriteTimeout - time.Second)
		if n := open.Load(); n != 1 {
			t.Errorf("%d connections before the time is over", n)
		}
		time.Sleep(time.Second + 2*slack)
		if n := open.Load(); n != 0 {
			t.Errorf("%d connections afterwards", n)
		}
	})
}

func TestRequestsPerConnection(t *testing.T) {
	r := serve(t, func(c *Config) { c.RequestsEach = 2 })
	c := r.dial(t)
	br := bufio.NewReader(c)
	for i, closes := range []bool{false, true} {
		if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.Close != closes {
			t.Errorf("request %d: Connection: close is %v", i+1, resp.Close)
		}
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("the connection stays open: %v", err)
	}
}

// passed holds a time that a bubble's clock measured against a deadline of a connection,
// which is at most slack late.
func passed(t *testing.T, what string, took, want time.Duration) {
	t.Helper()
	if took < want || took > want+slack {
		t.Errorf("%s: after %v, want %v", what, took, want)
	}
}

// The claim of a client that goes away lives on, and its handler ends.
func TestClientGoesAway(t *testing.T) {
	r := serve(t, nil)
	c := r.dial(t)
	if _, err := io.WriteString(c, post+"Idempotency-Key: k\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	id := sale.DeriveOrderID("phone", "ann", "k")
	testenv.Eventually(t, func() bool { return r.queue.Find(id) != nil }, "the claim is queued")
	_ = c.Close()
	ticket := r.queue.Find(id)
	v, _ := reserved(ticket.Claim)
	ticket.Resolve(v)
	open := func() int64 { return r.g.buyers.ln.Load().open.Load() }
	testenv.Eventually(t, func() bool { return open() == 0 }, "the connection is given back")
}

func TestTooManyConnections(t *testing.T) {
	r := serve(t, func(c *Config) { c.MaxConnections = 2 })
	a, b := r.dial(t), r.dial(t)
	counted := r.g.buyers.ln.Load()
	testenv.Eventually(t, func() bool { return counted.open.Load() == 2 }, "both are open")
	resp, err := http.ReadResponse(bufio.NewReader(r.dial(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"code":"unavailable"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	_, _ = a.Close(), b.Close()
	testenv.Eventually(t, func() bool { return counted.open.Load() == 0 }, "both are closed")
	if status, _, _ := r.send(t, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"); status != 200 {
		t.Errorf("room again: %d", status)
	}
}

func TestListenTellsErrors(t *testing.T) {
	r := serve(t, nil)
	for _, change := range []func(*Config){
		func(c *Config) { c.Listen = r.g.BuyersAddr().String() },
		func(c *Config) { c.AdminListen = r.g.BuyersAddr().String() },
	} {
		w := newWorld(t, change)
		if err := w.g.Run(t.Context()); err == nil {
			t.Error("a taken address was accepted")
		}
		if w.g.BuyersAddr() != nil {
			t.Error("a listener was left behind")
		}
	}
}
