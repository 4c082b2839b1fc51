package deduct

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"flashgate/sale"
)

// With every other connection of this gateway taken, by loads or by whoever looks at
// verdicts, batches go on; and that there was none free is not Redis' failure.
func TestBatchesHaveConnectionsOfTheirOwn(t *testing.T) {
	m := startMini(t)
	ctx := context.Background()
	sku := testSKU(0, 1)
	s := newShield(t, m.Addr(), newFakeLedger(sku, 10))
	if err := s.Rebuild(ctx, &sku); err != nil {
		t.Fatal(err)
	}
	options := s.options(1)
	options.PoolTimeout = time.Millisecond
	wide := s.client
	s.client = redis.NewUniversalClient(options)
	if err := wide.Close(); err != nil {
		t.Fatal(err)
	}
	taken := s.client.(*redis.Client).Conn()
	defer func() { _ = taken.Close() }()
	if err := taken.Ping(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Left(ctx, &sku); !errors.Is(err, sale.ErrOverloaded) || !errors.Is(err, sale.ErrUnavailable) || errors.Is(err, sale.ErrUnknown) {
		t.Errorf("without a free connection: %v", err)
	}
	for i := range 5 {
		if d, err := s.Deduct(ctx, &sku, claims(1, i), nil); err != nil || !d.Loaded || d.Answers[0] != sale.Admitted {
			t.Fatalf("a batch meanwhile: %+v, %v", d, err)
		}
	}
}

// A call whose caller gave up in line was never sent: nothing can have been taken.
func TestGivenUpInLineIsNotSent(t *testing.T) {
	m := startMini(t)
	sku := testSKU(0, 1)
	s := newShield(t, m.Addr(), newFakeLedger(sku, 10))
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	c := &call{ctx: gone, args: []any{"ping"}, done: make(chan error, 1)}
	s.roundTrip(context.Background(), []*call{c})
	if err := unknown(<-c.done); !errors.Is(err, sale.ErrOverloaded) || errors.Is(err, sale.ErrUnknown) {
		t.Error(err)
	}
	if c.cmd.Cmd != nil {
		t.Error("it was sent")
	}
}
