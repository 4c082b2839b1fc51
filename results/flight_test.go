package results

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/internal/testenv"
	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// letters are n messages with ids of their own.
func letters(name string, n int) []*nats.Msg {
	msgs := make([]*nats.Msg, n)
	for i := range msgs {
		msgs[i] = &nats.Msg{
			Subject: "flashgate.results." + name + ".reserved", Data: []byte(fmt.Sprintf("%s-%d", name, i)),
			Header: nats.Header{nats.MsgIdHdr: []string{fmt.Sprintf("%s-%d", name, i)}},
		}
	}
	return msgs
}

// storedData is what the results stream holds, in its order, and how many of the messages
// came in a batch.
func storedData(t *testing.T, c *Conn) (data []string, batched int) {
	t.Helper()
	s, err := c.js.Stream(patient(t), resultsStream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		msg, err := s.GetMsg(patient(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		if msg.Header.Get(batchID) != "" {
			batched++
		}
		data = append(data, string(msg.Data))
	}
	return data, batched
}

// However messages are sent, each is stored once, and each has its own answer.
func TestAFlight(t *testing.T) {
	for _, together := range []bool{false, true} {
		t.Run(fmt.Sprint("together ", together), func(t *testing.T) {
			c := connected(t, Config{Embedded: embedded(t)})
			s, err := c.js.Stream(patient(t), resultsStream)
			if err != nil {
				t.Fatal(err)
			}
			limited := s.CachedInfo().Config
			limited.MaxMsgSize = 1000
			if _, err := c.js.UpdateStream(patient(t), limited); err != nil {
				t.Fatal(err)
			}
			fly := func(msgs []*nats.Msg) []error {
				return c.fly(patient(t), keptResults, msgs, together, 1, testenv.Patience)
			}
			first := letters("a", 50)
			if err := errors.Join(fly(first)...); err != nil {
				t.Fatal(err)
			}
			data, batched := storedData(t, c)
			if want := len(first); len(data) != want || together && batched != want || !together && batched != 0 {
				t.Fatalf("%d are stored, %d of them together", len(data), batched)
			}
			for i, m := range first {
				if data[i] != string(m.Data) {
					t.Fatalf("%s is stored at %d", data[i], i)
				}
			}
			// Some are there already, and one is not to be had.
			second := append(letters("a", 20), letters("b", 20)...)
			second[30].Data = []byte(strings.Repeat("x", 2000))
			for i, err := range fly(second) {
				var answer *jetstream.APIError
				if refused := errors.As(err, &answer) && answer.ErrorCode == messageTooLarge; refused != (i == 30) || !refused && err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
			if data, _ := storedData(t, c); len(data) != 50+19 {
				t.Errorf("%d are stored, want 69", len(data))
			}
		})
	}
}

// A batch says of none of its messages that it is stored as long as one is not.
func TestABatchIsWholeOrNothing(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	msgs := letters("a", 40)
	if err := c.batch(patient(t), keptResults, msgs[7:8], testenv.Patience); err != nil {
		t.Fatal(err)
	}
	if err := c.batch(patient(t), keptResults, msgs, testenv.Patience); err == nil || errors.Is(err, errUnanswered) {
		t.Errorf("with one that is stored already: %v", err)
	}
	if data, _ := storedData(t, c); len(data) != 1 {
		t.Errorf("%d are stored", len(data))
	}
	if ways := &c.kept[keptResults].ways; !ways.allowed(minTogether, time.Now()) {
		t.Error("a repeat keeps all others from being sent together")
	}
	if n := len(c.replies.flights); n != 0 {
		t.Errorf("%d flights are remembered", n)
	}
}

// A stream that takes messages one by one only is used as it is.
func TestAStreamThatTakesNoBatches(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	s, err := c.js.Stream(patient(t), resultsStream)
	if err != nil {
		t.Fatal(err)
	}
	plain := s.CachedInfo().Config
	plain.AllowAtomicPublish = false
	if _, err := c.js.UpdateStream(patient(t), plain); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.fly(patient(t), keptResults, letters("a", 40), true, 1, testenv.Patience)...); err != nil {
		t.Error(err)
	}
	if c.kept[keptResults].ways.allowed(40, time.Now()) {
		t.Error("it is asked for batches all the same")
	}
	if data, batched := storedData(t, c); len(data) != 40 || batched != 0 {
		t.Errorf("%d are stored, %d of them together", len(data), batched)
	}
}

func TestBatchError(t *testing.T) {
	for data, ok := range map[string]bool{
		`{"stream":"FLASHGATE","seq":7,"batch":"x","count":3}`:   true,
		`{"stream":"FLASHGATE","seq":7,"batch":"x","count":2}`:   false,
		`{"stream":"FLASHGATE","seq":7}`:                         false,
		`{"error":{"code":400,"err_code":10201},"stream":"S"}`:   false,
		`{"stream":"FLASHGATE","seq":7,"batch":"x","count":"3"}`: false,
		``: false,
	} {
		if err := batchError(&nats.Msg{Data: []byte(data)}, 3); (err == nil) != ok {
			t.Errorf("%s: %v", data, err)
		}
	}
}

// The quicker way is taken, for each size of flight; the other is tried now and then.
func TestWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w ways
		took := map[bool]time.Duration{false: 400 * time.Microsecond, true: 50 * time.Microsecond}
		count := func(n, times int) (together int) {
			for range times {
				way := w.together(n, time.Now())
				if way {
					together++
				}
				time.Sleep(took[way] * time.Duration(n))
				w.took(n, way, took[way]*time.Duration(n), time.Now())
			}
			return together
		}
		if n := count(minTogether-1, 50); n != 0 {
			t.Errorf("small flights: %d together", n)
		}
		if n := count(1000, 100); n < 98 {
			t.Errorf("on a stream that syncs: %d of 100 together", n)
		}
		took[false] = 20 * time.Microsecond
		count(1000, 300)
		if n := count(1000, 100); n > 2 {
			t.Errorf("once it does not: %d of 100 together", n)
		}
		w.answered(errors.New("no"))
		if w.together(64, time.Now()) || w.allowed(64, time.Now()) {
			t.Error("a stream that refused is asked again at once")
		}
		time.Sleep(waysRest)
		if !w.allowed(64, time.Now()) {
			t.Error("a stream that refused is never asked again")
		}
	})
}

// Calls that wait at the same time share flights, and each gets its own answers.
func TestParkedTogether(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	b := newBacklog(t, c, BacklogConfig{})
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			sku := "sku" + strconv.Itoa(i)
			claims := wishes(sku, 0, 3)
			claims[1].Claim.Quantity = 0
			for k, err := range park(t, b, sku, claims) {
				if (err != nil) != (k == 1) || k == 1 && !errors.Is(err, sale.ErrInvalid) {
					t.Errorf("claim %d of %s: %v", k, sku, err)
				}
			}
		})
	}
	wg.Wait()
	counts, err := b.look(patient(t))
	if err != nil || len(counts) != 300 {
		t.Fatalf("%d SKUs have a backlog, %v", len(counts), err)
	}
	for sku, n := range counts {
		if n != 2 {
			t.Errorf("%s has %d claims", sku, n)
		}
	}
}

// What is in line when the backlog ends, or comes afterwards, is certainly not stored; a
// call whose time is over before its turn is not either.
func TestParkingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &parkings{wake: make(chan struct{}, 1)}
		got := make(chan error, 2)
		call := func(patience time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got <- l.park(ctx, letters("a", 2))[1]
		}
		go call(time.Second)
		if err := <-got; !errors.Is(err, sale.ErrUnavailable) || errors.Is(err, sale.ErrUnknown) || len(l.waiting) != 0 {
			t.Errorf("its time is over: %v", err)
		}
		go call(time.Hour)
		synctest.Wait()
		l.close()
		if err := <-got; !errors.Is(err, errClosed) {
			t.Errorf("in line at the end: %v", err)
		}
		go call(time.Hour)
		if err := <-got; !errors.Is(err, errClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// What may be sent once is not sent again when its time is over.
func TestAFlightIsNotRepeatedBehindItsTime(t *testing.T) {
	c := connected(t, Config{Embedded: embedded(t)})
	got := make(chan *nats.Msg, 200)
	sub, err := c.nc.ChanSubscribe("elsewhere", got)
	if err != nil {
		t.Fatal(err)
	}
	for _, over := range []bool{true, false} {
		msgs := letters("a", 40)
		for _, m := range msgs {
			m.Subject = "elsewhere" // where no stream answers
		}
		ctx, cancel := context.WithCancel(t.Context())
		if over {
			cancel()
		}
		for _, err := range c.fly(ctx, keptResults, msgs, true, 1, 10*time.Millisecond) {
			if !errors.Is(err, errUnanswered) {
				t.Errorf("%v", err)
			}
		}
		cancel()
	}
	if err := c.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, func() bool { return len(got) >= 80 }, "what was sent arrives")
	if err := sub.Unsubscribe(); err != nil || len(got) != 80 {
		t.Errorf("%d messages were sent of two times 40, %v", len(got), err)
	}
}
