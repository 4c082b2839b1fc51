package gateway

import (
	"strconv"

	"flashgate/sale"
)

// The members of a JSON object, appended one after the other to its opening brace. Names
// are ours and need no escaping.

func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(append(b, '"'), name...)
	return append(b, '"', ':')
}

func appendText(b []byte, name, value string) []byte {
	return sale.AppendString(appendName(b, name), value)
}

func appendNumber(b []byte, name string, value int64) []byte {
	return strconv.AppendInt(appendName(b, name), value, 10)
}

func appendBool(b []byte, name string, value bool) []byte {
	return strconv.AppendBool(appendName(b, name), value)
}

func appendID(b []byte, name string, id sale.OrderID) []byte {
	return append(id.AppendTo(append(appendName(b, name), '"')), '"')
}

// appendTime leaves the member out where there is no time.
func appendTime(b []byte, name string, ms int64) []byte {
	if ms == 0 {
		return b
	}
	return append(sale.AppendTime(append(appendName(b, name), '"'), ms), '"')
}
