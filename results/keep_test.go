package results

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// wished is what the tests' second gateway asks for.
func wished(replicas int, capacity int64) StreamConfig {
	return StreamConfig{Replicas: replicas, BacklogCapacity: capacity}
}

// keeping connects and keeps the streams, and asks with a time limit of its own, since
// some of its calls are never answered. What a busy machine delays is asked again.
func keeping(t *testing.T, cfg Config) *Conn {
	t.Helper()
	c := connecting(t, cfg)
	c.askTimeout = 2 * time.Second
	during(t, c.Run)
	return c
}

// operator is somebody else at the same server.
func operator(t *testing.T, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, append(opts, nats.Timeout(testenv.Patience))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// says reports whether a line of the details has all of these words.
func says(c *Conn, words ...string) bool {
	for _, line := range c.Details() {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}

// checkBoth holds producer and consumer to one state: what is usable takes events and
// claims and gives them out again, what is not takes none.
func checkBoth(t *testing.T, c *Conn, usable bool) {
	t.Helper()
	b, err := NewBacklog(BacklogConfig{MaxBatch: 8}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer during(t, b.Run)()
	if b.Usable() != usable {
		t.Errorf("the backlog is usable: %v; %v", b.Usable(), c.Details())
	}
	var drained int
	testenv.Eventually(t, func() bool { // a call may take longer than its limit
		ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
		defer cancel()
		errs := b.Park(ctx, "phone", []sale.Parked{wish("phone", "ada")})
		if usable != (errs[0] == nil) || !usable && !errors.Is(errs[0], sale.ErrUnavailable) {
			t.Fatalf("a claim is parked: %v", errs[0])
		}
		if !usable {
			return true
		}
		err := b.Drain(ctx, func(_ context.Context, _ string, claims []sale.Parked) error {
			drained += len(claims)
			return nil
		})
		return err == nil && drained > 0
	}, "what is parked is drained")
}

// Three replicas asked of one server, over streams that have one: they are used as they
// are, and whatever else was asked for is done.
func TestStreamsThatCannotHaveTheirReplicas(t *testing.T) {
	n := testenv.NATS(t)
	connected(t, Config{URL: n.URL, Streams: wished(1, 1000)})
	c := keeping(t, Config{URL: n.URL, Streams: wished(3, 2000)})
	testenv.Eventually(t, func() bool {
		return c.ready() && says(c, resultsStream, "1 replicas, not 3", "cannot be changed") && says(c, backlogStream, "1 replicas, not 3") && len(c.Details()) == 2
	}, "they are used as they are")
	checkBoth(t, c, true)
	s, err := c.js.Stream(patient(t), backlogStream)
	if err != nil || s.CachedInfo().Config.MaxMsgs != 2000 {
		t.Errorf("the capacity is not what was asked for: %v", err)
	}
	o := newOutbox()
	o.commit(sale.KindReserved, sold("phone", "ada", 1))
	if err := newRelay(t, c, o, RelayConfig{}).Pass(t.Context()); err != nil || o.pending() > 0 {
		t.Errorf("an event is not published: %v", err)
	}
}

// A server on which the streams were never made, and cannot be: nothing is parked.
func TestStreamsThatCannotBeMade(t *testing.T) {
	n := testenv.NATS(t)
	c := keeping(t, Config{URL: n.URL, Streams: wished(3, 2000)})
	testenv.Eventually(t, func() bool { return says(c, backlogStream, "cannot be used", "replicas") }, "it is known why")
	if c.ResultsReady() || c.Ping(patient(t)) == nil {
		t.Error("events could be published")
	}
	checkBoth(t, c, false)
}

// permitted starts a server at which the user "gateway" may not do some calls of the
// JetStream API, and returns both users' URLs.
func permitted(t *testing.T, denied ...string) (gateway, owner string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf(`accounts { A {
  jetstream: enabled
  users: [
    {user: owner, password: p},
    {user: gateway, password: p, permissions: {publish: {deny: ["%s"]}}}
  ]
} }
`, strings.Join(denied, `","`))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := testenv.NATS(t, "-c", config)
	at := strings.TrimPrefix(n.URL, "nats://")
	return "nats://gateway:p@" + at, "nats://owner:p@" + at
}

// A user who may not make or change streams uses those that somebody else made.
func TestStreamsThatThisUserMayNotChange(t *testing.T) {
	gateway, owner := permitted(t, "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.CREATE.*")
	other := connected(t, Config{URL: owner, Streams: wished(1, 1000)})
	checkBoth(t, other, true)
	c := keeping(t, Config{URL: gateway, Streams: wished(1, 2000)})
	testenv.Eventually(t, c.ready, "they are used at once")
	checkBoth(t, c, true)
	testenv.Eventually(t, func() bool {
		return says(c, backlogStream, "room for 1000 claims, not for 2000", "cannot be changed")
	}, "it is said what they lack")
	if says(c, "cannot be used") || c.Ping(patient(t)) != nil {
		t.Errorf("%v", c.Details())
	}
	command := connecting(t, Config{URL: gateway, Streams: wished(1, 3000)})
	testenv.Eventually(t, command.Connected, "a command is connected")
	if lines, err := command.CompareStreams(patient(t)); err != nil || len(lines) != 1 || !strings.Contains(lines[0], "not for 3000") {
		t.Errorf("a command sees %v, %v", lines, err)
	}
	// Somebody else changes it, and it is seen.
	s, err := other.js.Stream(patient(t), backlogStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgs = 2000
	if _, err := other.js.UpdateStream(patient(t), cfg); err != nil {
		t.Fatal(err)
	}
	c.look()
	testenv.Eventually(t, func() bool { return len(c.Details()) == 0 && c.ready() }, "nothing is left to say")
}

// A user who may park but not delete, or not read, could park what nobody drains.
func TestABacklogThatCannotBeDrained(t *testing.T) {
	for what, denied := range map[string]string{
		"delete": "$JS.API.STREAM.PURGE." + backlogStream,
		"read":   "$JS.API.CONSUMER.CREATE." + backlogStream + ".>",
		"park":   backlogPrefix + ">",
	} {
		t.Run(what, func(t *testing.T) {
			gateway, owner := permitted(t, denied)
			other := connected(t, Config{URL: owner, Streams: wished(1, 1000)})
			c := keeping(t, Config{URL: gateway, Streams: wished(1, 1000)})
			testenv.Eventually(t, c.ResultsReady, "events can be published")
			testenv.Eventually(t, func() bool { return says(c, backlogStream, "cannot be used") && !says(c, "looked at yet") }, "it is known why")
			checkBoth(t, c, false)
			s, err := other.js.Stream(patient(t), backlogStream)
			if err != nil || s.CachedInfo().State.LastSeq != 0 {
				t.Errorf("something was parked: %v", err)
			}
		})
	}
}

// What operators set and the configuration does not speak of stays; what could lose a
// parked claim is put right before anything is parked, and what is gone is made again.
func TestWhatOperatorsSet(t *testing.T) {
	n := testenv.NATS(t)
	js := operator(t, n.URL)
	_, err := js.CreateStream(patient(t), jetstream.StreamConfig{
		Name: backlogStream, Description: "mine", Subjects: []string{backlogPrefix + "*", "mine.>"}, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardOld, MaxMsgs: 50, MaxMsgsPerSubject: 3, MaxAge: 3 * time.Hour, MaxBytes: 1 << 30, Duplicates: 2 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := connected(t, Config{URL: n.URL, Streams: wished(1, 1000)})
	testenv.Eventually(t, func() bool { return len(c.Details()) == 0 }, "everything is put right: %v", c.Details())
	s, err := js.Stream(patient(t), backlogStream)
	if err != nil {
		t.Fatal(err)
	}
	got := s.CachedInfo().Config
	if got.Description != "mine" || len(got.Subjects) != 2 || got.MaxBytes != 1<<30 || got.Duplicates != 2*time.Hour {
		t.Errorf("what an operator set is gone: %+v", got)
	}
	if got.Discard != jetstream.DiscardNew || got.MaxMsgs != 1000 || got.MaxMsgsPerSubject > 0 || got.MaxAge != 0 {
		t.Errorf("a parked claim can be lost: %+v", got)
	}
	checkBoth(t, c, true)
	if err := js.DeleteStream(patient(t), resultsStream); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, func() bool { return c.Ping(patient(t)) == nil }, "the stream is made again")
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		subject, other string
		want           bool
	}{
		{"a.>", "a.>", true}, {">", "a.>", true}, {"a.*", "a.*", true}, {"a.>", "a.*", true}, {"a.b", "a.b", true}, {"*.>", "a.>", true},
		{"a.*", "a.>", false}, {"a.b", "a.*", false}, {"a", "a.>", false}, {"a.>", "a", false}, {"a.b.c", "a.b", false}, {"b.>", "a.>", false},
	} {
		if got := covers(c.subject, c.other); got != c.want {
			t.Errorf("%s covers %s: %v", c.subject, c.other, got)
		}
	}
}

// A stream that is deleted, or changed in what the configuration speaks of, while
// everybody is connected is made again, or mended; what else an operator set is kept.
func TestStreamsThatAreMeddledWith(t *testing.T) {
	for _, name := range []string{resultsStream, backlogStream} {
		t.Run(name, func(t *testing.T) {
			c := connected(t, Config{Embedded: embedded(t)})
			ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
			defer cancel()
			info := func() (jetstream.StreamInfo, error) {
				s, err := c.js.Stream(ctx, name)
				if err != nil {
					return jetstream.StreamInfo{}, err
				}
				return *s.CachedInfo(), nil
			}
			made, err := info()
			if err != nil {
				t.Fatal(err)
			}
			changed := made.Config
			changed.Subjects = []string{"somebody.elses"}
			changed.MaxBytes, changed.Description = 1<<30, "an operator's"
			if _, err := c.js.UpdateStream(ctx, changed); err != nil {
				t.Fatal(err)
			}
			testenv.Within(t, 5*time.Second, func() bool {
				now, err := info()
				return err == nil && len(now.Config.Subjects) == 1+len(made.Config.Subjects)
			}, "%s has its own subjects again", name)
			if now, err := info(); err != nil || now.Config.MaxBytes != 1<<30 || now.Config.Description != "an operator's" {
				t.Errorf("%+v, %v: what an operator set is gone", now.Config, err)
			}

			if err := c.js.DeleteStream(ctx, name); err != nil {
				t.Fatal(err)
			}
			testenv.Within(t, 5*time.Second, func() bool {
				now, err := info()
				return err == nil && now.Created.After(made.Created)
			}, "%s is there again", name)
			testenv.Eventually(t, c.ready, "it is used again")
			if _, err := c.js.Publish(ctx, "flashgate.results.shoe.reserved", []byte("[]")); err != nil {
				t.Error(err)
			}
			mustPark(t, newBacklog(t, c, BacklogConfig{}), "shoe", wishes("shoe", 0, 2))
		})
	}
}

// A look at streams that are as they were finds out nothing, and proves nothing anew.
func TestALookAtStreamsThatAreAsTheyWere(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	before := []*streamState{c.kept[keptResults].state.Load(), c.kept[keptBacklog].state.Load()}
	in := c.nc.Stats().OutMsgs
	if again := c.keepStreams(t.Context()); again != keepEvery {
		t.Errorf("they are looked at again after %v", again)
	}
	if n := c.nc.Stats().OutMsgs - in; n > 4 {
		t.Errorf("%d messages, want a question for each stream", n)
	}
	for i, s := range before {
		if now := c.kept[i].state.Load(); !now.created.Equal(s.created) || !now.usable {
			t.Errorf("stream %d: %+v, was %+v", i, now, s)
		}
	}
}

// A stream that an operator limited, and that is full, loses nothing: events wait in the
// outbox and claims are refused, it is said, and both go on once there is room.
func TestFullStreams(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	limit := func(bytes int64) {
		t.Helper()
		for _, name := range []string{resultsStream, backlogStream} {
			s, err := c.js.Stream(patient(t), name)
			if err != nil {
				t.Fatal(err)
			}
			cfg := s.CachedInfo().Config
			cfg.MaxBytes, cfg.Discard = bytes, jetstream.DiscardNew
			if _, err := c.js.UpdateStream(patient(t), cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
	limit(50_000)
	o := newOutbox()
	r := newRelay(t, c, o, RelayConfig{})
	states := 0
	for i := range 300 {
		order := sold("sku"+strconv.Itoa(i%9), "u"+strconv.Itoa(i), 1)
		for v, s := range []sale.Status{sale.StatusReserved, sale.StatusExpired} {
			order.Status, order.Version = s, int64(v+1)
			o.commit(sale.Kind(resultsPrefix+s.String()), order)
			states++
		}
	}
	for pass := range 3 { // the first fills it
		if err := r.Pass(t.Context()); pass > 0 && !errors.Is(err, sale.ErrPartly) {
			t.Fatalf("a pass into a full stream: %v", err)
		}
	}
	if n := o.pending(); n < 300 {
		t.Errorf("%d rows are left of 600", n)
	}
	b := newBacklog(t, c, BacklogConfig{})
	parked := 0
	for _, err := range park(t, b, "shoe", wishes("shoe", 0, 300)) {
		if err == nil {
			parked++
		} else if !errors.Is(err, sale.ErrQueueFull) {
			t.Errorf("parked: %v", err)
		}
	}
	if !says(c, resultsStream, "is full") || !says(c, backlogStream, "is full") || parked == 0 || parked == 300 {
		t.Errorf("%d claims are parked, and said is %q", parked, c.Details())
	}
	limit(-1)
	// A stream that refused a batch is sent none for a while.
	if err := r.Pass(t.Context()); err != nil || o.pending() != 0 {
		t.Errorf("with room again %d rows are left, %v", o.pending(), err)
	}
	mustPark(t, b, "shoe", wishes("shoe", 300, 301))
	if says(c, "is full") {
		t.Errorf("with room again: %q", c.Details())
	}
	if got := checkOrder(t, readAll(t, c)); got != states {
		t.Errorf("%d states are told, want %d", got, states)
	}
	var s settled
	if err := b.Drain(t.Context(), s.settle); err != nil || len(s.of("shoe")) != parked+1 {
		t.Errorf("%d claims are drained of %d, %v", len(s.of("shoe")), parked+1, err)
	}
}

// Streams are marked with their installation, and those of another one are not touched: it
// does not begin, unless it has a namespace of its own.
func TestStreamsOfAnotherInstallation(t *testing.T) {
	server := embedded(t)
	is := func(id, namespace string) Config {
		return Config{Embedded: server, Namespace: namespace, Installation: func() string { return id }}
	}
	first := connected(t, is("a", ""))
	foreign := connecting(t, is("b", ""))
	if err := foreign.Run(t.Context()); !errors.Is(err, errOwner) || foreign.ResultsReady() || foreign.BacklogReady() {
		t.Errorf("another one: %v", err)
	}
	if lines, err := foreign.CompareStreams(patient(t)); err != nil || len(lines) != 2 || !strings.Contains(lines[0], "another installation") {
		t.Errorf("as its commands see them: %q, %v", lines, err)
	}
	if owner, err := foreign.Owner(patient(t)); owner != "a" || err != nil {
		t.Errorf("the stream is %q's, %v", owner, err)
	}
	// Nothing is put into them or taken out, whoever forgets to ask.
	mustPark(t, newBacklog(t, first, BacklogConfig{}), "sock", wishes("sock", 0, 1))
	o := newOutbox()
	o.commit(sale.KindReserved, sold("phone", "ann", 1))
	if err := newRelay(t, foreign, o, RelayConfig{}).Pass(t.Context()); err == nil || o.pending() != 1 {
		t.Errorf("the relay: %v, %d rows are left", err, o.pending())
	}
	var s settled
	if err := newBacklog(t, foreign, BacklogConfig{}).Drain(patient(t), s.settle); !errors.Is(err, errOwner) || len(s.of("sock")) > 0 {
		t.Errorf("the drain: %v, settled %v", err, s.of("sock"))
	}
	second := connected(t, is("b", "two"))
	for i, c := range []*Conn{first, second} {
		o := newOutbox()
		o.commit(sale.KindReserved, sold("phone", "ann", 1))
		if err := newRelay(t, c, o, RelayConfig{}).Pass(t.Context()); err != nil || o.pending() != 0 {
			t.Errorf("%d: %v", i, err)
		}
		b := newBacklog(t, c, BacklogConfig{})
		mustPark(t, b, "phone", wishes("phone", i, i+1))
		extent, err := c.Extent(patient(t))
		counts, err2 := b.look(patient(t))
		if extent.Last != 1 || counts["phone"] != 1 || err != nil || err2 != nil {
			t.Errorf("%d: %d messages, %v parked, %v, %v", i, extent.Last, counts, err, err2)
		}
	}
	// A gateway whose ledger has not answered yet uses nothing.
	waiting := connecting(t, is("", ""))
	during(t, waiting.Run)
	testenv.Eventually(t, func() bool { return waiting.Connected() && says(waiting, "not looked at") }, "it waits for the ledger")
	if waiting.ResultsReady() {
		t.Error("streams are used before it is known whose they have to be")
	}
}

// A Run that ends because its caller does has met no error, whatever the caller's reason.
func TestRunEndsWithItsCaller(t *testing.T) {
	c := connecting(t, Config{Embedded: embedded(t)})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("a signal"))
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}
