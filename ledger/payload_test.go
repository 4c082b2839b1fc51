package ledger

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPayloadRoundTrip(t *testing.T) {
	var room []byte // used again by every case, as a committer does
	rapid.Check(t, func(t *rapid.T) {
		event := `{"id":"` + rapid.StringMatching(`[a-z2-7]{26}`).Draw(t, "id") + `"}`
		payload := []byte("[" + strings.Repeat(event+",", rapid.IntRange(0, 400).Draw(t, "events")) + event + "]")
		kept := bytes.Clone(payload)
		stored := packPayload(&room, payload)
		if len(payload) > 4*packAbove && len(stored) > len(payload)/4 {
			t.Fatalf("%d bytes of events are stored in %d", len(payload), len(stored))
		}
		got, err := unpackPayload(bytes.Clone(stored))
		if err != nil || !bytes.Equal(got, payload) || !bytes.Equal(payload, kept) {
			t.Fatalf("%d bytes came back as %d: %v", len(payload), len(got), err)
		}
	})
}

func FuzzUnpackPayload(f *testing.F) {
	f.Add([]byte("[]"))
	f.Add([]byte{})
	f.Add([]byte{packed})
	f.Add([]byte{packed, 0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	f.Add(packPayload(new([]byte), []byte("["+strings.Repeat(`{"a":1},`, 500)+"{}]")))
	f.Fuzz(func(t *testing.T, stored []byte) {
		payload, err := unpackPayload(stored)
		if err == nil && len(payload) > max(unpackedMax, len(stored)) {
			t.Errorf("%d bytes became %d", len(stored), len(payload))
		}
	})
}
