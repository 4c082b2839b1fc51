package sale

import (
	"fmt"
	"strconv"
	"strings"
)

// SKUTag tells one state of a SKU from others, as an entity tag (RFC 9110, section 8.8.3)
// does: its version, which rises with its rules, and the stock that operators set.
type SKUTag struct {
	Version         int64
	Total, Reserved int64
	Rules           bool // it is about the version alone
}

// TagOf is the tag of a SKU as it stands.
func TagOf(sku *SKU, stock Stock) SKUTag {
	return SKUTag{Version: sku.Version, Total: stock.Total, Reserved: stock.Reserved}
}

// String is version-total-reserved, or the version alone.
func (t SKUTag) String() string {
	if t.Rules {
		return strconv.FormatInt(t.Version, 10)
	}
	return fmt.Sprintf("%d-%d-%d", t.Version, t.Total, t.Reserved)
}

// ParseSKUTag reads what String wrote; false means that it is no tag of ours.
func ParseSKUTag(s string) (SKUTag, bool) {
	parts := strings.Split(s, "-")
	if len(parts) != 1 && len(parts) != 3 {
		return SKUTag{}, false
	}
	var n [3]int64
	for i, part := range parts {
		v, err := strconv.ParseInt(part, 10, 64)
		if err != nil || v < 0 || strconv.FormatInt(v, 10) != part {
			return SKUTag{}, false
		}
		n[i] = v
	}
	return SKUTag{Version: n[0], Total: n[1], Reserved: n[2], Rules: len(parts) == 1}, true
}

// Expect is what a change of a SKU requires of what is there before; the zero value
// requires nothing.
type Expect struct {
	Absent  bool     // there is no such SKU
	Present bool     // there is one
	Tags    []SKUTag // where there are any, it has one of these
}

// Check returns ErrPrecondition where the SKU is not as expected. One that does not exist
// has version 0.
func (e Expect) Check(sku SKU, stock Stock) error {
	exists := sku.Version > 0
	if e.Absent && exists || (e.Present || len(e.Tags) > 0) && !exists {
		return ErrPrecondition
	}
	for _, t := range e.Tags {
		if now := TagOf(&sku, stock); t == now || t.Rules && t.Version == now.Version {
			return nil
		}
	}
	if len(e.Tags) > 0 {
		return ErrPrecondition
	}
	return nil
}
