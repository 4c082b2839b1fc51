package sale

import (
	"sync/atomic"
	"testing"
)

func TestTicket(t *testing.T) {
	var popped atomic.Int64
	c := &Claim{}
	first := NewTicket(c, 3, &popped)
	for left, want := range []int64{2, 1, 0, 0, 0} {
		popped.Store(int64(left))
		if p := first.Position(); p != want {
			t.Errorf("after %d claims left it stands at %d, want %d", left, p, want)
		}
	}
	again := first.Follow()
	if again.Claim != c || again.Position() != first.Position() {
		t.Error("a repeat stands elsewhere")
	}
	if first.Detached() || again.Detached() {
		t.Error("detached from the beginning")
	}
	again.Follow().Detach()
	if !first.Detached() || !again.Detached() {
		t.Error("who detaches at a place detaches it for all")
	}
	first.Resolve(Verdict{Outcome: Reserved})
	again.Resolve(Verdict{Outcome: Duplicate})
	if v := <-first.Verdict(); v.Outcome != Reserved {
		t.Errorf("the first got %q", v.Outcome)
	}
	if v := <-again.Verdict(); v.Outcome != Duplicate {
		t.Errorf("the repeat got %q", v.Outcome)
	}
}
