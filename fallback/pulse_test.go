package fallback

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"flashgate/sale"
)

// A link is there from its first answer until none has come for a while; a gateway that
// is too busy to ask neither loses it nor gets it.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer error
		hang := false
		p := NewPulse(func(ctx context.Context) error {
			if hang {
				<-ctx.Done()
				return ctx.Err()
			}
			return answer
		})
		beat := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(PulseEvery) {
				if err := p.Beat(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func(want bool, what string) {
			t.Helper()
			if p.Alive() != want {
				t.Errorf("%s: alive is %v", what, !want)
			}
		}
		check(false, "before it was asked")
		answer = sale.ErrOverloaded
		beat(time.Second)
		check(false, "too busy to ask for the first time")
		answer = nil
		beat(time.Second)
		check(true, "it answers")
		answer = fmt.Errorf("no connection: %w", sale.ErrOverloaded)
		beat(time.Minute)
		check(true, "too busy to ask")
		hang = true
		beat(time.Second)
		check(true, "it has not answered once")
		beat(3 * time.Second)
		check(false, "it does not answer")
		hang, answer = false, sale.ErrUnavailable
		beat(time.Minute)
		check(false, "it refuses")
		answer = nil
		beat(time.Millisecond)
		check(true, "it answers again")
	})
}
