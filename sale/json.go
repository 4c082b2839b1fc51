package sale

import (
	"strconv"
	"time"
)

// timeFormat is RFC 3339 in UTC with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z"

// FormatTime is the outside form of a time in Unix milliseconds.
func FormatTime(ms int64) string { return string(AppendTime(nil, ms)) }

// AppendTime appends the outside form of a time in Unix milliseconds.
func AppendTime(b []byte, ms int64) []byte {
	t := time.UnixMilli(ms).UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, timeFormat)
	}
	// Written out, since two of these stand in every order that is answered.
	hour, minute, second := t.Clock()
	milli := t.Nanosecond() / 1_000_000
	b = append(appendTwo(b, year/100), byte('0'+year/10%10), byte('0'+year%10), '-')
	b = append(appendTwo(b, int(month)), '-')
	b = append(appendTwo(b, day), 'T')
	b = append(appendTwo(b, hour), ':')
	b = append(appendTwo(b, minute), ':')
	b = append(appendTwo(b, second), '.')
	return append(appendTwo(b, milli/10), byte('0'+milli%10), 'Z')
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

// ParseTime reads an RFC 3339 time into Unix milliseconds.
func ParseTime(s string) (int64, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, err
	}
	return t.UnixMilli(), nil
}

// AppendJSON appends the order's JSON object, as buyers and subscribers see it.
// Empty fields are left out. It stands here because the edge and the results stream
// must write the very same object.
func (o *Order) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	b = o.AppendFields(b)
	return append(b, '}')
}

// AppendFields appends the members of the order's JSON object without its braces, so
// that an event can add members of its own.
func (o *Order) AppendFields(b []byte) []byte {
	b = append(b, `"order_id":"`...)
	b = o.ID.AppendTo(b)
	b = append(b, `","sku":`...)
	b = AppendString(b, o.SKU)
	b = append(b, `,"user_id":`...)
	b = AppendString(b, o.User)
	b = append(b, `,"quantity":`...)
	b = strconv.AppendInt(b, o.Quantity, 10)
	if o.Currency != "" {
		b = append(b, `,"unit_price":`...)
		b = strconv.AppendInt(b, o.UnitPrice(), 10)
		b = append(b, `,"amount":`...)
		b = strconv.AppendInt(b, o.Amount, 10)
		b = append(b, `,"currency":`...)
		b = AppendString(b, o.Currency)
	}
	if o.Coupon != "" {
		b = append(b, `,"coupon":`...)
		b = AppendString(b, o.Coupon)
	}
	b = append(b, `,"status":"`...)
	b = append(b, o.Status.String()...)
	b = append(b, '"')
	if o.Reason != "" {
		b = append(b, `,"reason":`...)
		b = AppendString(b, o.Reason)
	}
	if o.ReservedAt != 0 {
		b = append(b, `,"reserved_at":"`...)
		b = AppendTime(b, o.ReservedAt)
		b = append(b, '"')
	}
	if o.PayBy != 0 {
		b = append(b, `,"pay_by":"`...)
		b = AppendTime(b, o.PayBy)
		b = append(b, '"')
	}
	return b
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. What is not printable ASCII is escaped
// byte by byte where it is a control character; other bytes are passed on, since
// names, users and coupons are visible ASCII by validation and titles are UTF-8.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
