package deduct

import (
	"slices"
	"testing"
)

func TestSlots(t *testing.T) {
	// The first is the specification's own, "foo" is what CLUSTER KEYSLOT says.
	for tag, want := range map[string]int{"123456789": 12739, "foo": 12182, "": 0} {
		if got := slotOf(tag); got != want {
			t.Errorf("%q is in slot %d, want %d", tag, got, want)
		}
	}
	var s slots
	s.distrust([]slotRange{{5, 7}, {9, 9}}, 100)
	s.distrust([]slotRange{{7, 7}}, 50) // older news
	s.distrust([]slotRange{{9, 10}}, 200)
	for slot, want := range map[int]int64{4: 0, 5: 100, 7: 100, 8: 0, 9: 200, 10: 200, slotCount - 1: 0} {
		if got := s.since(slot); got != want {
			t.Errorf("slot %d is distrusted since %d, want %d", slot, got, want)
		}
	}
}

func TestParseSlots(t *testing.T) {
	const nodes = "07c37df 127.0.0.1:30004@31004,host4 slave e7d1eec 0 1426238317239 4 connected\n" +
		"67ed2db 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 5461-10922\n" +
		"e7d1eec 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5458 5460 [5461->-67ed2db] [77-<-07c37df]\n"
	got, err := parseSlots(nodes)
	if err != nil || !slices.Equal(got, []slotRange{{0, 5458}, {5460, 5460}}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x y master - 0 0 1 connected 0-1\n", "x y myself - 0 0 1 connected 7-5\n", "x y myself - 0 0 1 connected 0-16384\n", "x y myself - 0 0 1 connected z\n"} {
		if got, err := parseSlots(bad); err == nil {
			t.Errorf("%q has slots %v", bad, got)
		}
	}
	if got, err := parseSlots("x y myself,master - 0 0 1 connected\n"); err != nil || len(got) != 0 {
		t.Errorf("a master without slots: %v, %v", got, err)
	}
}

func FuzzParseSlots(f *testing.F) {
	f.Add("e7d1eec 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5458 5460 [5461->-67ed2db]\n")
	f.Fuzz(func(t *testing.T, nodes string) {
		ranges, err := parseSlots(nodes)
		if err != nil {
			return
		}
		var s slots
		s.distrust(ranges, 1)
	})
}
