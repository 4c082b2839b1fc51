package sale

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strconv"
)

// OrderID names an order, and the claim it grew from. Any gateway derives the same
// id from the same SKU, buyer and idempotency key, which is what makes a repeat
// recognisable everywhere without a look-up table.
type OrderID [16]byte

// OrderIDLen is the length of an order id in its outside form.
const OrderIDLen = 26

// The alphabet is RFC 4648 base32 in lower case, without padding.
var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// skuPrefix is how many bytes of an order id come from the SKU: the first 8 characters
// outside.
const skuPrefix = 5

// DeriveOrderID is 40 bits of SHA-256(sku) and 88 bits of SHA-256(sku, 0, user, 0, key). A
// database that keeps rows in the order of their keys has a SKU's orders side by side, so
// that a sale touches its own pages however many orders there are besides; and a balancer
// or a shard can tell from an id where its order lives.
func DeriveOrderID(sku, user, key string) OrderID {
	// Usual names fit. The buffer is no larger because every buyer who waits keeps the
	// stack that this call made grow.
	var buf [128]byte
	in := append(buf[:0], sku...)
	in = append(in, 0)
	in = append(in, user...)
	in = append(in, 0)
	in = append(in, key...)
	of, all := sha256.Sum256(in[:len(sku)]), sha256.Sum256(in)
	var id OrderID
	copy(id[:skuPrefix], of[:])
	copy(id[skuPrefix:], all[:])
	return id
}

// OrderIDsOf is the range in which the ids of a SKU's orders lie, both ends included. Ids of
// another SKU may lie there too: prefixes can collide.
func OrderIDsOf(sku string) (first, last OrderID) {
	sum := sha256.Sum256([]byte(sku))
	copy(first[:], sum[:skuPrefix])
	copy(last[:], sum[:skuPrefix])
	for i := skuPrefix; i < len(last); i++ {
		last[i] = 0xff
	}
	return first, last
}

// Beside is the id with the prefix of the SKU, among whose orders it then lies.
func (id OrderID) Beside(sku string) OrderID {
	first, _ := OrderIDsOf(sku)
	copy(id[:skuPrefix], first[:])
	return id
}

// Prefix is what the ids of a SKU's orders begin with, and seldom those of another's.
func (id OrderID) Prefix() uint64 {
	return binary.BigEndian.Uint64(id[:8]) >> (64 - 8*skuPrefix)
}

// Of reports whether the id can be that of an order of the SKU.
func (id OrderID) Of(sku string) bool {
	return id == id.Beside(sku)
}

// String is the id's outside form: 26 lower-case base32 characters.
func (id OrderID) String() string {
	var b [OrderIDLen]byte
	idEncoding.Encode(b[:], id[:])
	return string(b[:])
}

// AppendTo appends the id's outside form.
func (id OrderID) AppendTo(b []byte) []byte {
	return idEncoding.AppendEncode(b, id[:])
}

// ParseOrderID reads the outside form. Only the canonical spelling is accepted: the
// two spare bits of the last character must be zero, so that one order has one name.
func ParseOrderID(s string) (OrderID, error) {
	var id OrderID
	if len(s) != OrderIDLen {
		return id, fmt.Errorf("order id has %d characters, want %d", len(s), OrderIDLen)
	}
	// A name of the wrong alphabet is refused here; base32 would skip line ends.
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return id, fmt.Errorf("order id has the character %q", c)
		}
	}
	if n, err := idEncoding.Decode(id[:], []byte(s)); err != nil || n != len(id) {
		return OrderID{}, fmt.Errorf("order id %q is not base32", s)
	}
	if id.String() != s {
		return OrderID{}, fmt.Errorf("order id %q is not in canonical form", s)
	}
	return id, nil
}

// RequestHash recognises the payload of a claim: the same order id with another
// request hash is a conflict, not a repeat.
type RequestHash [8]byte

// HashRequest is the first eight bytes of SHA-256(quantity in decimal, 0, coupon).
func HashRequest(quantity int64, coupon string) RequestHash {
	var buf [64]byte
	in := strconv.AppendInt(buf[:0], quantity, 10)
	in = append(in, 0)
	in = append(in, coupon...)
	sum := sha256.Sum256(in)
	return RequestHash(sum[:8])
}
