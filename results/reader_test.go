package results

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go/jetstream"
)

func TestEachEvent(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	if e, err := c.Extent(t.Context()); err != nil || e.Last != 0 || e.Since != 0 || e.Made == 0 {
		t.Fatalf("an empty stream: %+v, %v", e, err)
	}
	if err := c.EachEvent(t.Context(), 1, 0, func(sale.Kind, []sale.Order, uint64) error { return errors.New("called") }); err != nil {
		t.Error(err)
	}
	const messages = 300
	ctx, began := patient(t), time.Now().UnixMilli()
	var want []string
	put := func(subject string, data []byte, what string) {
		t.Helper()
		if _, err := c.js.Publish(ctx, subject, data); err != nil {
			t.Fatal(err)
		}
		want = append(want, what)
	}
	for i := range messages {
		switch {
		case i%100 == 50:
			put("flashgate.results.shoe.reserved", []byte("{}"), "")
		case i%3 == 0:
			o := sold("shoe", strconv.Itoa(i), 1)
			o.Coupon = "TEN"
			put(plain.subject("shoe", sale.KindCouponRedeem), Encode(sale.KindCouponRedeem, []sale.Order{o}), "coupons.redeem 1")
		default:
			sku := "sku" + strconv.Itoa(i%7)
			orders := make([]sale.Order, 1+i%40)
			for n := range orders {
				orders[n] = sold(sku, fmt.Sprint(i, "-", n), 1)
			}
			put(plain.subject(sku, sale.KindReserved), Encode(sale.KindReserved, orders), fmt.Sprint("results.reserved ", len(orders)))
		}
	}
	e, err := c.Extent(t.Context())
	if err != nil || e.Last != messages || e.Since != 0 || e.Made == 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	read := func(last uint64) (got []string, first uint64) {
		t.Helper()
		err := c.EachEvent(t.Context(), 1, last, func(kind sale.Kind, orders []sale.Order, seq uint64) error {
			if got = append(got, ""); len(got) == 1 {
				first = seq
			}
			if kind != "" {
				got[len(got)-1] = fmt.Sprint(kind, " ", len(orders))
			}
			if seq != first+uint64(len(got))-1 {
				t.Errorf("message %d has the sequence %d", len(got), seq)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got, first
	}
	for _, last := range []uint64{1, 77, messages, messages + 5} {
		got, _ := read(last)
		if fmt.Sprint(got) != fmt.Sprint(want[:min(last, messages)]) {
			t.Errorf("up to %d: %d messages", last, len(got))
		}
	}
	stop := errors.New("stop")
	if err := c.EachEvent(t.Context(), 1, messages, func(sale.Kind, []sale.Order, uint64) error { return stop }); err != stop {
		t.Error(err)
	}
	// What was dropped is not read, and known to be missing.
	s, err := c.js.Stream(ctx, resultsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSequence(101)); err != nil {
		t.Fatal(err)
	}
	if got, first := read(messages); len(got) != messages-100 || first != 101 {
		t.Errorf("%d messages from %d", len(got), first)
	}
	if e, err := c.Extent(t.Context()); err != nil || e.Last != messages || e.Since < began {
		t.Errorf("%+v, %v", e, err)
	}
	if err := s.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(messages); len(got) != 0 {
		t.Errorf("%d messages", len(got))
	}
	if e, err := c.Extent(t.Context()); err != nil || e.Last != messages || e.Since < began {
		t.Errorf("%+v, %v", e, err)
	}
	if err := c.js.DeleteStream(ctx, resultsStream); err != nil {
		t.Fatal(err)
	}
	if e, err := c.Extent(t.Context()); err != nil || e != (sale.Extent{}) {
		t.Errorf("without a stream: %+v, %v", e, err)
	}
}

func TestReadingAStreamThatIsAway(t *testing.T) {
	c := connect(t, Config{URL: nowhere})
	if _, err := c.Extent(t.Context()); !errors.Is(err, sale.ErrUnavailable) {
		t.Error(err)
	}
	n := func() (n int) {
		if err := c.EachEvent(t.Context(), 1, 5, func(sale.Kind, []sale.Order, uint64) error { n++; return nil }); !errors.Is(err, sale.ErrUnavailable) {
			t.Error(err)
		}
		return n
	}()
	if n != 0 {
		t.Error(n)
	}
}

// TestEachEventThroughBrokenConnections cuts the connection while the stream is read:
// every message is handed over once all the same.
func TestEachEventThroughBrokenConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("needs real servers; run without -short")
	}
	n := testenv.NATS(t)
	p := testenv.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", n.Port))
	c := connected(t, Config{URL: "nats://" + p.Addr})
	const messages = 400
	for i := range messages {
		o := make([]sale.Order, 200)
		for k := range o {
			o[k] = sold("shoe", fmt.Sprint(i, "-", k), 1)
		}
		if _, err := c.js.Publish(patient(t), plain.subject("shoe", sale.KindReserved), Encode(sale.KindReserved, o)); err != nil {
			t.Fatal(err)
		}
	}
	got, cuts := uint64(0), 0
	testenv.Eventually(t, func() bool {
		err := c.EachEvent(t.Context(), 1, messages, func(_ sale.Kind, orders []sale.Order, seq uint64) error {
			if seq == 1 {
				got = 0
			}
			if seq != got+1 || len(orders) != 200 {
				t.Fatalf("message %d with %d events behind %d", seq, len(orders), got)
			}
			if got = seq; seq%100 == 50 && cuts < 3 {
				cuts++
				p.Cut()
			}
			return nil
		})
		if err != nil && !errors.Is(err, sale.ErrUnavailable) {
			t.Fatal(err)
		}
		return err == nil
	}, "the stream is read to its end")
	if got != messages || cuts != 3 {
		t.Errorf("%d messages, %d cuts", got, cuts)
	}
}
