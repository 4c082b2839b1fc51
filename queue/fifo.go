package queue

import "flashgate/sale"

// fifo is a growing ring of tickets. Its owner holds the lock that guards it.
type fifo struct {
	ring []*sale.Ticket
	head int
	n    int
}

func (f *fifo) len() int { return f.n }

func (f *fifo) push(t *sale.Ticket) {
	if f.n == len(f.ring) {
		grown := make([]*sale.Ticket, max(16, 2*len(f.ring)))
		k := copy(grown, f.ring[f.head:])
		copy(grown[k:], f.ring[:f.head])
		f.ring, f.head = grown, 0
	}
	f.ring[(f.head+f.n)%len(f.ring)] = t
	f.n++
}

// first is the ticket at the head, or nil.
func (f *fifo) first() *sale.Ticket {
	if f.n == 0 {
		return nil
	}
	return f.ring[f.head]
}

// pop removes up to n tickets from the head. A ring that a burst made large is given
// back once it is empty, so that a quiet SKU holds no memory of it.
func (f *fifo) pop(n int) []*sale.Ticket {
	n = min(n, f.n)
	out := make([]*sale.Ticket, n)
	for i := range out {
		out[i] = f.ring[f.head]
		f.ring[f.head] = nil
		f.head = (f.head + 1) % len(f.ring)
	}
	f.n -= n
	if f.n == 0 && len(f.ring) > 1024 {
		f.ring, f.head = nil, 0
	}
	return out
}
