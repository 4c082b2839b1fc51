package results

import (
	"encoding/hex"
	"strconv"
	"strings"

	"flashgate/sale"
)

// source is the context in which event ids are unique: all gateways of one ledger
// are one source.
const source = "flashgate"

// bytesPerEvent is a little more than an event with a short user id takes.
const bytesPerEvent = 576

// shape is what the events of one kind have in common.
type shape struct {
	eventType string
	idSuffix  string
}

func shapeOf(kind sale.Kind) shape {
	if status, ok := strings.CutPrefix(string(kind), resultsPrefix); ok {
		return shape{"flashgate.order." + status, "/" + status}
	}
	switch kind {
	case sale.KindCouponRedeem:
		return shape{"flashgate.coupon.redeem", "/coupon_redeem"}
	case sale.KindCouponRelease:
		return shape{"flashgate.coupon.release", "/coupon_release"}
	case sale.KindPaymentRefund:
		return shape{"flashgate.payment.refund", "/payment_refund"}
	}
	return shape{"flashgate." + string(kind), "/" + strings.ReplaceAll(string(kind), ".", "_")}
}

// eventID names the event for ever.
func eventID(o *sale.Order, kind sale.Kind, s shape) string {
	id := o.ID.String() + s.idSuffix
	if namesPayment(o, kind) {
		id += "/" + o.Payment
	}
	return id
}

// namesPayment reports whether the event is one of several of its kind that an order may
// have, told apart by the payment: refunds, and the redemption of a coupon that had been
// released before a late payment.
func namesPayment(o *sale.Order, kind sale.Kind) bool {
	return o.Payment != "" && (kind == sale.KindPaymentRefund || kind == sale.KindCouponRedeem)
}

// ofReservation reports whether the event tells of the order's reservation.
func ofReservation(o *sale.Order, kind sale.Kind) bool {
	return kind == sale.KindReserved || kind == sale.KindCouponRedeem && o.Payment == ""
}

// happened is when the event did, or 0.
func happened(o *sale.Order, kind sale.Kind) int64 {
	if ofReservation(o, kind) {
		return o.ReservedAt
	}
	return o.ChangedAt
}

// Encode writes the payload of an outbox row: a JSON array with one CloudEvent per
// order. The orders are of one SKU, and the kind fits their status. It is pure, and
// runs once per order sold.
func Encode(kind sale.Kind, orders []sale.Order) []byte {
	s := shapeOf(kind)
	// All that does not change between the events is put together once.
	head := `{"specversion":"1.0","source":"` + source + `","type":"` + s.eventType + `","id":`
	b := make([]byte, 0, 2+len(orders)*bytesPerEvent)
	b = append(b, '[')
	for i := range orders {
		o := &orders[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, head...)
		if namesPayment(o, kind) {
			// A payment's name is not ours, and may want escaping.
			b = sale.AppendString(b, eventID(o, kind, s))
		} else {
			b = append(b, '"')
			b = o.ID.AppendTo(b)
			b = append(b, s.idSuffix...)
			b = append(b, '"')
		}
		b = append(b, `,"subject":"`...)
		b = o.ID.AppendTo(b)
		// An event says when it happened only where the order itself knows.
		if at := happened(o, kind); at != 0 {
			b = append(b, `","time":"`...)
			b = sale.AppendTime(b, at)
		}
		b = append(b, `","datacontenttype":"application/json","data":{`...)
		b = o.AppendFields(b)
		b = append(b, `,"request_hash":"`...)
		b = hex.AppendEncode(b, o.Hash[:])
		b = append(b, `","segment":`...)
		b = strconv.AppendInt(b, int64(o.Segment), 10)
		b = append(b, `,"version":`...)
		b = strconv.AppendInt(b, o.Version, 10)
		if o.Payment != "" {
			b = append(b, `,"payment_event_id":`...)
			b = sale.AppendString(b, o.Payment)
		}
		b = append(b, '}', '}')
	}
	return append(b, ']')
}
