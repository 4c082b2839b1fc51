package deduct

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// slotCount is how many slots a Redis Cluster spreads keys over.
const slotCount = 16384

// slotRange is slots from first to last.
type slotRange struct{ first, last int }

// slots are since when copies are distrusted (Unix ms, ledger's clock), by the slot of
// their keys.
type slots struct{ distrusted [slotCount]instant }

func (s *slots) distrust(ranges []slotRange, since int64) {
	for _, r := range ranges {
		for slot := r.first; slot <= r.last; slot++ {
			s.distrusted[slot].raise(since)
		}
	}
}

func (s *slots) since(slot int) int64 { return s.distrusted[slot].latest() }

// slotsOf asks a master which slots are its own.
func slotsOf(ctx context.Context, cn *redis.Conn) ([]slotRange, error) {
	nodes, err := cn.ClusterNodes(ctx).Result()
	if err != nil {
		return nil, err
	}
	return parseSlots(nodes)
}

// errNoSlots says that CLUSTER NODES does not tell which node answers.
var errNoSlots = errors.New("deduct: a node does not know itself")

// parseSlots reads the slots of the node that answered CLUSTER NODES: fields separated
// by spaces, of which the third has the flag "myself" and those from the ninth on are
// slots, from-to or single; in brackets are those that are on their way elsewhere
// (https://redis.io/docs/latest/commands/cluster-nodes/).
func parseSlots(nodes string) ([]slotRange, error) {
	for line := range strings.Lines(nodes) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.Contains(fields[2], "myself") {
			continue
		}
		var ranges []slotRange
		for _, field := range fields[8:] {
			if strings.HasPrefix(field, "[") {
				continue
			}
			from, to, two := strings.Cut(field, "-")
			if !two {
				to = from
			}
			first, err := strconv.Atoi(from)
			last, err2 := strconv.Atoi(to)
			if err != nil || err2 != nil || first < 0 || last >= slotCount || first > last {
				return nil, errors.New("deduct: CLUSTER NODES says " + strconv.Quote(field))
			}
			ranges = append(ranges, slotRange{first, last})
		}
		return ranges, nil
	}
	return nil, errNoSlots
}

// slotOf is the slot of a hash tag: CRC16 (XMODEM: polynomial 0x1021, begun with 0) modulo
// the number of slots (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
func slotOf(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % slotCount
}
