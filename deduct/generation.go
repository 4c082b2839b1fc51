package deduct

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"flashgate/sale"
)

// generation is one loading of a family (a SKU's segment) from the ledger. Its name
// says everything a gateway has to know in order to trust it or not, so that a look at
// the family's pointer is enough.
type generation struct {
	name     string // the five below, joined by '-'; empty = none
	version  int64  // skus.version that the loader went by
	began    int64  // when the loading began: Unix ms on the ledger's clock
	limit    int64  // per-user limit that it keeps buyers' units for, 0 = none kept
	segments int    // how many families the SKU has
}

// newGeneration names a generation of the SKU; began must be later than that of the
// generation it replaces.
func newGeneration(sku *sale.SKU, began int64) generation {
	var tail [4]byte
	rand.Read(tail[:])
	g := generation{version: sku.Version, began: began, limit: sku.PerUserLimit, segments: max(1, sku.Segments)}
	g.name = fmt.Sprintf("%d-%d-%d-%d-%s", g.version, g.began, g.limit, g.segments, hex.EncodeToString(tail[:]))
	return g
}

// parseGeneration reads a generation's name; false means that it is none of ours.
func parseGeneration(name string) (generation, bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 5 || len(parts[4]) != 8 {
		return generation{}, false
	}
	var n [4]int64
	for i := range n {
		v, err := strconv.ParseInt(parts[i], 10, 64)
		if err != nil || v < 0 {
			return generation{}, false
		}
		n[i] = v
	}
	if n[3] < 1 || n[3] > sale.MaxSegments {
		return generation{}, false
	}
	return generation{name: name, version: n[0], began: n[1], limit: n[2], segments: int(n[3])}, true
}

// serves reports whether the generation keeps what this version of the SKU needs. One
// that was loaded under a later version is right by definition: it is this gateway's
// copy of the SKU that is old.
func (g generation) serves(sku *sale.SKU) bool {
	return g.version > sku.Version || (g.limit == sku.PerUserLimit && g.segments == max(1, sku.Segments))
}

// keyspace is what all keys of an installation begin with.
type keyspace string

func keyspaceOf(namespace string) keyspace {
	if namespace == "" {
		return "fg:"
	}
	return keyspace("fg:" + namespace + ":")
}

// tag is the common beginning of a family's keys; the braces make Redis Cluster keep them
// in one slot.
func (k keyspace) tag(sku string, segment int) string {
	return string(k) + "{" + sku + ":" + strconv.Itoa(segment) + "}:"
}

// verdict is the key under which the verdict on a claim without an order row is kept.
func (k keyspace) verdict(id sale.OrderID) string { return string(k) + "v:" + id.String() }

// owner is the key that says whose installation's keys these are.
func (k keyspace) owner() string { return string(k) + "installation" }

func pointerKey(tag string) string { return tag + "gen" }
func loadKey(tag string) string    { return tag + "load" }

// hashKey and batchesKey are the two keys of a generation.
func hashKey(tag, gen string) string    { return tag + gen + ":h" }
func batchesKey(tag, gen string) string { return tag + gen + ":t" }

// familyKey is what a key of ours says about itself.
type familyKey struct {
	tag     string
	sku     string
	segment int
	gen     string // empty for pointer and loading mark
	kind    string // "gen", "load", "h" or "t"
}

// parse reads a key; false means that it is not a family's.
func (k keyspace) parse(key string) (familyKey, bool) {
	rest, ok := strings.CutPrefix(key, string(k)+"{")
	if !ok {
		return familyKey{}, false
	}
	name, rest, ok := strings.Cut(rest, "}:")
	if !ok {
		return familyKey{}, false
	}
	sku, seg, ok := strings.Cut(name, ":")
	segment, err := strconv.Atoi(seg)
	if !ok || err != nil || segment < 0 || segment >= sale.MaxSegments || sale.ValidateSKUName(sku) != nil {
		return familyKey{}, false
	}
	f := familyKey{tag: k.tag(sku, segment), sku: sku, segment: segment}
	switch gen, kind, two := strings.Cut(rest, ":"); {
	case !two && (rest == "gen" || rest == "load"):
		f.kind = rest
	case two && (kind == "h" || kind == "t"):
		f.gen, f.kind = gen, kind
	default:
		return familyKey{}, false
	}
	return f, true
}
