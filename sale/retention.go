package sale

import (
	"strings"
	"time"
)

// Archive says how far the orders of a closed SKU have been moved out of the way of those
// that are on sale. A SKU that has begun stays closed.
type Archive uint8

// The stages, stored and shown as their names.
const (
	ArchiveNone     Archive = iota + 1 // its orders are where they were made
	ArchiveUnderWay                    // they are being moved; it stays closed from here on
	ArchiveDone                        // they have been moved
	ArchiveDropping                    // they are being deleted there
	ArchiveDropped                     // they have been deleted; their units stay in the stock's figures
)

var archiveNames = [...]string{ArchiveNone: "none", ArchiveUnderWay: "archiving", ArchiveDone: "archived", ArchiveDropping: "dropping", ArchiveDropped: "dropped"}

// String is its name, as it is stored and shown.
func (a Archive) String() string { return nameOf(archiveNames[:], int(a)) }

// ParseArchive reads a stage's name.
func ParseArchive(s string) (Archive, error) {
	n, err := parseName(archiveNames[:], s, "archive")
	return Archive(n), err
}

// Archived reports whether the SKU's orders may no longer be where they were made.
func (s *SKU) Archived() bool { return s.Archive > ArchiveNone }

// Retention says how long finished orders are kept, and where. Zero ages keep for ever.
type Retention struct {
	// Orders is the age at which the orders of a SKU are archived: since it was closed, and
	// since it was last changed.
	Orders time.Duration
	// Archived is how long they stay in the archive, with their payments.
	Archived time.Duration
	// Rate is how many orders a second are moved or deleted at most.
	Rate float64
}

// Due says what is to be done to a SKU's orders at the time now: the stage that it has to
// reach next, or 0 for nothing.
func (r Retention) Due(s *SKU, now int64) Archive {
	older := func(than int64, age time.Duration) bool { return than <= now-age.Milliseconds() }
	switch s.Archive {
	case ArchiveNone:
		closed := s.State == StateClosed || s.ClosesAt != 0 && older(s.ClosesAt, r.Orders)
		if r.Orders > 0 && closed && !s.Counting && older(s.ChangedAt, r.Orders) {
			return ArchiveUnderWay
		}
	case ArchiveUnderWay:
		if r.Orders > 0 {
			return ArchiveDone
		}
	case ArchiveDone:
		if r.Archived > 0 && older(s.ChangedAt, r.Archived) {
			return ArchiveDropping
		}
	case ArchiveDropping:
		return ArchiveDropped
	}
	return 0
}

// ErasedPrefix begins what stands in the place of a user id that was erased.
const ErasedPrefix = "erased:"

// BoughtBy reports whether the order is the user's, as far as can be told of one whose
// user id was erased.
func (o *Order) BoughtBy(user string) bool {
	return o.User == user || strings.HasPrefix(o.User, ErasedPrefix)
}

// RepeatsFor is how long after an order had to be paid a repeat of its cancellation is
// still told to the shield, and so how long a copy keeps the ids of ended orders. A copy
// that is loaded later leaves them out. Shorter loses units of a cancellation whose gateway
// died before it told, until the next load; longer is memory.
const RepeatsFor = 24 * time.Hour

// RepeatsMatter reports whether the shield has to know of an order that has ended.
func (o *Order) RepeatsMatter(now int64) bool { return o.PayBy > now-RepeatsFor.Milliseconds() }
