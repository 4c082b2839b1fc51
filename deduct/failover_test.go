package deduct

import (
	"context"
	"sync"
	"testing"

	"flashgate/internal/testenv"
)

func TestRebuildWhileRedisRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	server := testenv.Redis(t)
	sku := testSKU(2, 1)
	l := newFakeLedger(sku, 3000)
	bought := claims(1500, 0)
	l.commit(bought, nil)
	s := newShield(t, server.Addr, l)
	var once sync.Once
	l.hooks["orders chunk"] = func() { once.Do(func() { server.Kill(); server.Restart(t) }) }
	testenv.Eventually(t, func() bool { return s.Rebuild(context.Background(), &sku) == nil }, "the shield is loaded after the restart")
	wantAnswers(t, deduct(t, s, &sku, bought[:3]), "222")
	if n := left(t, s, &sku); n != 1500 {
		t.Errorf("%d units left, want 1500", n)
	}
}

func TestRebuildWhileAStaleReplicaIsPromoted(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	master := testenv.Redis(t)
	replica := testenv.RedisReplica(t, master)
	proxy := testenv.NewProxy(t, master.Addr)
	sku := testSKU(2, 1)
	l := newFakeLedger(sku, 3000)
	bought := claims(2100, 0)
	l.commit(bought, nil)
	s := newShield(t, proxy.Addr, l)
	var once sync.Once
	l.hooks["orders chunk"] = func() {
		once.Do(func() { // the replica has the first chunk only
			testenv.Eventually(t, func() bool {
				return replica.MustDo(t, "DBSIZE") == master.MustDo(t, "DBSIZE")
			}, "the replica has the first chunk")
			replica.Stop()
		})
	}
	l.hooks["stock"] = func() {
		l.hooks["stock"] = nil
		master.Kill()
		replica.Cont()
		replica.Promote(t)
		proxy.Retarget(replica.Addr)
	}
	testenv.Eventually(t, func() bool { return s.Rebuild(context.Background(), &sku) == nil }, "the shield is loaded on the new master")
	wantAnswers(t, deduct(t, s, &sku, bought[2096:]), "2222")
	if n := left(t, s, &sku); n != 900 {
		t.Errorf("%d units left, want 900", n)
	}
}
