package gateway

import (
	"errors"
	"math/rand/v2"
	"strings"

	"flashgate/sale"
)

// maxKeyLen is the longest Idempotency-Key, in characters, quotes not counted.
const maxKeyLen = 255

var errKey = errors.New("Idempotency-Key must be one value of 1..255 visible ASCII characters, bare or as a quoted string")

// parseKey reads an Idempotency-Key: bare, or quoted as an RFC 8941 string, which both
// name the same key. The result shares the field's memory unless it had escapes.
func parseKey(field string) (string, error) {
	if len(field) == 0 {
		return "", errKey
	}
	key := field
	if field[0] == '"' {
		if len(field) < 2 || field[len(field)-1] != '"' {
			return "", errKey
		}
		key = field[1 : len(field)-1]
		if strings.IndexByte(key, '\\') >= 0 {
			var err error
			if key, err = unescape(key); err != nil {
				return "", err
			}
		} else if strings.IndexByte(key, '"') >= 0 {
			return "", errKey
		}
	}
	if len(key) == 0 || len(key) > maxKeyLen {
		return "", errKey
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return "", errKey
		}
	}
	return key, nil
}

// unescape resolves the two escapes that RFC 8941 knows.
func unescape(s string) (string, error) {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' {
			i++
			if i == len(s) || (s[i] != '"' && s[i] != '\\') {
				return "", errKey
			}
			c = s[i]
		} else if c == '"' {
			return "", errKey
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// randomKey makes the key of a request that brought none: 128 random bits in the form
// of an order id. It need not be secret, only never the same twice.
func randomKey() (key sale.OrderID) {
	a, b := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		key[i] = byte(a >> (8 * i))
		key[8+i] = byte(b >> (8 * i))
	}
	return key
}
