package deduct

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashgate/internal/testenv"
)

func ownedBy(id, namespace string) func(*Config) {
	return func(c *Config) {
		c.Namespace = namespace
		c.Installation = func() string { return id }
	}
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
	foreign, err := New(Config{Addrs: []string{sc.m.Addr()}, DialTimeout: testenv.Patience, ReadTimeout: testenv.Patience, PoolSize: 2, MaxBatch: 10, Grace: testGrace,
		Installation: func() string { return "b" }}, sc.l)
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Run(t.Context()); !errors.Is(err, errOwner) {
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
	s, err := New(Config{Addrs: []string{sc.m.Addr()}, DialTimeout: testenv.Patience, ReadTimeout: testenv.Patience, PoolSize: 2, MaxBatch: 10, Grace: testGrace,
		Installation: func() string { return "a" }}, sc.l)
	if err != nil {
		t.Fatal(err)
	}
	s.ownerEvery = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	answers := func() bool { return s.Ping(t.Context()) == nil }
	testenv.Eventually(t, func() bool { return s.owner.Load() == ownerSelf && answers() }, "it is used")
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
