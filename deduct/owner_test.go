package deduct

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

func ownedBy(id, namespace string) func(*Config) {
	return func(c *Config) {
		c.Namespace = namespace
		c.Installation = func() string { return id }
		c.MayMark = func() bool { return true }
	}
}

// owned is a Shield of an installation, on the scene's Redis, that does not run.
func (sc *scene) owned(t *testing.T, id func() string) *Shield {
	t.Helper()
	s, err := New(Config{Addrs: []string{sc.m.Addr()}, DialTimeout: testenv.Patience, ReadTimeout: testenv.Patience, PoolSize: 2, MaxBatch: 10, Grace: testGrace,
		Installation: id, MayMark: func() bool { return true }}, sc.l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The first installation marks a Redis, and another one does not begin on it, unless it has a
// namespace of its own.
func TestRedisOfAnotherInstallation(t *testing.T) {
	sc := newScene(t, 0, 10)
	marked := func(key, id string) func() bool {
		return func() bool { got, err := sc.m.Get(key); return err == nil && got == id }
	}
	newShield(t, sc.m.Addr(), sc.l, ownedBy("a", ""))
	testenv.Eventually(t, marked("fg:installation", "a"), "the first one's mark stands")
	if err := sc.owned(t, func() string { return "b" }).Run(t.Context()); !errors.Is(err, errOwner) {
		t.Errorf("another one: %v", err)
	}
	newShield(t, sc.m.Addr(), sc.l, ownedBy("b", "two"))
	testenv.Eventually(t, marked("fg:two:installation", "b"), "one with a namespace has a mark of its own")
	// A flush takes the mark, and is nobody else's doing.
	sc.m.FlushAll()
	testenv.Eventually(t, marked("fg:installation", "a"), "it is marked again")
}

// A Redis that becomes another one's under a gateway that sells is left alone, until it is
// its own again.
func TestRedisBecomesAnotherInstallations(t *testing.T) {
	sc := newScene(t, 0, 10)
	s := sc.owned(t, func() string { return "a" })
	s.ownerEvery = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	answers := func() bool { return s.Ping(t.Context()) == nil }
	testenv.Eventually(t, func() bool { return s.owner.state.Load() == ownerSelf && answers() }, "it is used")
	if err := sc.m.Set("fg:installation", "c"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, func() bool { return !answers() }, "nothing is asked of it")
	before := sc.m.Keys()
	if err := s.Rebuild(t.Context(), &sc.sku); !errors.Is(err, errOwner) || len(sc.m.Keys()) != len(before) {
		t.Errorf("a load into it: %v, %q", err, sc.m.Keys())
	}
	sc.m.Del("fg:installation")
	testenv.Eventually(t, answers, "it is used again")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Before the ledger has said whose Redis has to be, nothing is asked of it, not over
// connections from then either.
func TestRedisOfSomebodyWhileTheLedgerIsAway(t *testing.T) {
	sc := newScene(t, 0, 10)
	if err := sc.m.Set("fg:installation", "a"); err != nil {
		t.Fatal(err)
	}
	var id atomic.Value
	id.Store("")
	s := sc.owned(t, func() string { return id.Load().(string) })
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	testenv.Eventually(t, s.identities.met.Load, "Redis is met")
	before, _ := sc.m.Get("fg:{shoe:0}:gen")
	for _, now := range []string{"", "b"} {
		id.Store(now)
		if err := s.Rebuild(t.Context(), &sc.sku); err == nil {
			t.Errorf("installation %q: a load into it succeeded", now)
		}
	}
	if err := <-done; !errors.Is(err, errOwner) {
		t.Errorf("once the ledger is there: %v", err)
	}
	if after, _ := sc.m.Get("fg:{shoe:0}:gen"); after != before {
		t.Errorf("the other one's copy is %s, was %s", after, before)
	}
}

// What becomes known between two looks is compared, and not taken for its own.
func TestAnInstallationBecomesKnownInBetween(t *testing.T) {
	sc := newScene(t, 0, 10)
	if err := sc.m.Set("fg:installation", "a"); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	s := sc.owned(t, func() string {
		if asked.Add(1) == 1 {
			return ""
		}
		return "b"
	})
	if err := s.watchOwner(t.Context()); !errors.Is(err, errOwner) || s.owner.state.Load() == ownerSelf {
		t.Errorf("%v, owner %d", err, s.owner.state.Load())
	}
}

// Who may not mark a Redis uses one without a mark, and leaves it so.
func TestCommandsMarkNothing(t *testing.T) {
	sc := newScene(t, 0, 10)
	s := newShield(t, sc.m.Addr(), sc.l, func(c *Config) { c.Installation = func() string { return "a" } })
	testenv.Eventually(t, func() bool { return s.Ping(t.Context()) == nil }, "it is used")
	if err := s.Rebuild(t.Context(), &sc.sku); err != nil || sc.m.Exists("fg:installation") {
		t.Errorf("%v; marked: %t", err, sc.m.Exists("fg:installation"))
	}
}

// A Redis that does not say whose it is, because what has the mark is away, is used after a
// while, and left alone once it says that it is somebody else's.
func TestRedisDoesNotSayWhoseItIs(t *testing.T) {
	sc := newScene(t, 0, 10)
	if _, err := sc.m.Push("fg:installation", "no text"); err != nil {
		t.Fatal(err)
	}
	s := newShield(t, sc.m.Addr(), sc.l, ownedBy("a", ""))
	answers := func() bool { return s.Ping(t.Context()) == nil }
	testenv.Eventually(t, answers, "it is used")
	sc.m.Del("fg:installation")
	if err := sc.m.Set("fg:installation", "b"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, func() bool { return !answers() }, "it is left alone")
}
