package ledger

import (
	"errors"
	"testing"
	"time"

	"flashgate/sale"
)

// queued puts n calls of so many claims each in line.
func queued(t *testing.T, q *groupQueue, around bool, n, claims int) {
	t.Helper()
	for range n {
		c := &call{batch: sale.CommitBatch{SKU: &sale.SKU{Name: "shoe"}, Around: around}, asks: make([]ask, claims), done: make(chan reply, 1)}
		if err := q.put(c); err != nil {
			t.Fatal(err)
		}
	}
}

// kinds counts the claims of a group.
func kinds(group []*call) (shielded, around int) {
	for _, c := range group {
		if c.batch.Around {
			around += len(c.asks)
		} else {
			shielded += len(c.asks)
		}
	}
	return shielded, around
}

// What the shield admitted goes first, and what came around it takes what is left of a
// group, which is never nothing, and never so much that the others wait for it long.
func TestTheWayAroundTakesWhatIsLeft(t *testing.T) {
	for _, c := range []struct {
		name             string
		waiting, around  int // claims, in calls of 10
		shielded, others int // of the first group
	}{
		{"alone", 0, 2000, 0, 800},
		{"beside nothing much", 100, 2000, 100, 400},
		{"beside a busy sale", 2000, 2000, 700, 100},
		{"without any", 2000, 0, 800, 0},
		{"all fits", 100, 100, 100, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			var q groupQueue
			q.init(800, 2)
			queued(t, &q, true, c.around/10, 10)
			queued(t, &q, false, c.waiting/10, 10)
			shielded, around := kinds(q.next())
			if shielded != c.shielded || around != c.others {
				t.Errorf("%d and %d claims in the first group, want %d and %d", shielded, around, c.shielded, c.others)
			}
			for q.waiting.claims+q.around.claims > 0 {
				s, a := kinds(q.next())
				shielded, around = shielded+s, around+a
			}
			if shielded != c.waiting || around != c.around || len(q.waiting.calls)+len(q.around.calls) > 0 {
				t.Errorf("%d and %d claims in all groups", shielded, around)
			}
		})
	}
}

// A call of more claims than a group has goes alone, and is not left behind.
func TestACallLargerThanAGroup(t *testing.T) {
	var q groupQueue
	q.init(100, 1)
	queued(t, &q, false, 1, 300)
	queued(t, &q, true, 1, 300)
	if s, a := kinds(q.next()); s != 300 || a != 300 {
		t.Errorf("%d and %d claims", s, a)
	}
}

// Claims from around that cannot be decided in time are refused at the door; what waits
// otherwise, and what comes first, is not.
func TestTheWayAroundRefusesAtTheDoor(t *testing.T) {
	var q groupQueue
	q.init(100, 2)
	for range 50 {
		q.decided(40 * time.Millisecond)
	}
	late := func(in time.Duration, around bool) error {
		return q.put(&call{batch: sale.CommitBatch{SKU: &sale.SKU{Name: "shoe"}, Around: around, Due: time.Now().Add(in)}, asks: make([]ask, 10)})
	}
	if err := late(0, true); err != nil {
		t.Errorf("an empty queue refuses: %v", err)
	}
	queued(t, &q, false, 50, 10) // five groups and a bit: about 40 ms for each two, and 40 ms
	if err := late(time.Hour, true); err != nil {
		t.Errorf("with an hour to go: %v", err)
	}
	if err := late(100*time.Millisecond, true); !errors.Is(err, sale.ErrDegraded) || !errors.Is(err, sale.ErrOverloaded) {
		t.Errorf("with 100 ms to go: %v", err)
	}
	if err := late(0, false); err != nil {
		t.Errorf("what a shield admitted is refused: %v", err)
	}
	if q.around.claims != 20 || q.waiting.claims != 510 {
		t.Errorf("%d and %d claims wait", q.around.claims, q.waiting.claims)
	}
}

// Whoever leaves a line leaves the count of it.
func TestWithdrawnClaimsAreCountedNoMore(t *testing.T) {
	var q groupQueue
	q.init(100, 2)
	queued(t, &q, true, 3, 10)
	c := q.around.calls[1]
	if gone, err := q.withdraw(c, errors.New("over")); !gone || !errors.Is(err, sale.ErrUnavailable) {
		t.Fatal(gone, err)
	}
	if q.around.claims != 20 || len(q.around.calls) != 2 {
		t.Errorf("%d claims of %d calls wait", q.around.claims, len(q.around.calls))
	}
}
