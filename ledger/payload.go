package ledger

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// A payload of many events repeats itself: stored as it is, it is most of what a group
// writes, and the database parses, logs and purges every byte of it. So larger ones are
// stored as packed, which an S2 block (a dialect of Snappy, see klauspost/compress)
// follows. A payload is JSON and never begins with that byte, so both forms tell
// themselves apart.
const (
	packed      = 0x01
	packAbove   = 1024
	unpackedMax = 64 << 20
)

// packPayload returns what is stored for a payload: the payload itself, or memory of
// *room, which grows as needed and is used again by the next call.
func packPayload(room *[]byte, payload []byte) []byte {
	if len(payload) <= packAbove {
		return payload
	}
	if need := 1 + s2.MaxEncodedLen(len(payload)); len(*room) < need {
		*room = make([]byte, need)
	}
	out := *room
	out[0] = packed
	return out[:1+len(s2.Encode(out[1:], payload))]
}

// unpackPayload returns the payload of what was stored.
func unpackPayload(stored []byte) ([]byte, error) {
	if len(stored) == 0 || stored[0] != packed {
		return stored, nil
	}
	n, err := s2.DecodedLen(stored[1:])
	if err == nil && n > unpackedMax {
		err = fmt.Errorf("it would have %d bytes", n)
	}
	if err != nil {
		return nil, fmt.Errorf("outbox payload: %w", err)
	}
	payload, err := s2.Decode(nil, stored[1:])
	if err != nil {
		return nil, fmt.Errorf("outbox payload: %w", err)
	}
	return payload, nil
}
