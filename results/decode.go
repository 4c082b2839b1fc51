package results

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"flashgate/sale"
)

// event is a CloudEvent as Decode reads it; members it does not know are ignored.
type event struct {
	SpecVersion string `json:"specversion"`
	ID          string `json:"id"`
	Type        string `json:"type"`
	Time        string `json:"time"`
	Data        struct {
		OrderID     string `json:"order_id"`
		SKU         string `json:"sku"`
		UserID      string `json:"user_id"`
		Quantity    int64  `json:"quantity"`
		Amount      int64  `json:"amount"`
		Currency    string `json:"currency"`
		Coupon      string `json:"coupon"`
		Status      string `json:"status"`
		Reason      string `json:"reason"`
		ReservedAt  string `json:"reserved_at"`
		PayBy       string `json:"pay_by"`
		RequestHash string `json:"request_hash"`
		Segment     int    `json:"segment"`
		Version     int64  `json:"version"`
		Payment     string `json:"payment_event_id"`
	} `json:"data"`
}

// lastTime is the last millisecond that RFC 3339 can write.
const lastTime = 253402300799999

// kindOf finds the kind whose events are of this type.
func kindOf(eventType string) (sale.Kind, bool) {
	for _, k := range []sale.Kind{
		sale.KindReserved, sale.KindPaid, sale.KindCancelled, sale.KindExpired, sale.KindCouponRedeem, sale.KindCouponRelease,
		sale.KindInventoryDeduct, sale.KindInventoryReturn, sale.KindPaymentRefund,
	} {
		if shapeOf(k).eventType == eventType {
			return k, true
		}
	}
	return "", false
}

// Decode reads what Encode wrote: Decode(Encode(kind, orders)) is kind and orders,
// for at least one order. It refuses what Encode cannot have written, since what it
// accepts may be put back into a ledger.
func Decode(payload []byte) (sale.Kind, []sale.Order, error) {
	var events []event
	if err := json.Unmarshal(payload, &events); err != nil {
		return "", nil, fmt.Errorf("decode events: %w", err)
	}
	if len(events) == 0 {
		return "", nil, fmt.Errorf("decode events: the batch is empty")
	}
	kind, ok := kindOf(events[0].Type)
	if !ok {
		return "", nil, fmt.Errorf("decode events: type %q is unknown", events[0].Type)
	}
	s := shapeOf(kind)
	orders := make([]sale.Order, len(events))
	for i := range events {
		o, err := events[i].order(kind, s)
		if err == nil && o.SKU != orders[0].SKU && i > 0 {
			err = fmt.Errorf("sku %q in a batch of %q", o.SKU, orders[0].SKU)
		}
		if err != nil {
			return "", nil, fmt.Errorf("decode event %d (%q): %w", i, events[i].ID, err)
		}
		orders[i] = o
	}
	return kind, orders, nil
}

// order checks one event against its kind and reads its order.
func (e *event) order(kind sale.Kind, s shape) (sale.Order, error) {
	d := &e.Data
	o := sale.Order{
		SKU: d.SKU, Segment: d.Segment, User: d.UserID, Quantity: d.Quantity, Amount: d.Amount,
		Currency: d.Currency, Coupon: d.Coupon, Reason: d.Reason, Version: d.Version, Payment: d.Payment,
	}
	var err error
	if o.ID, err = sale.ParseOrderID(d.OrderID); err != nil {
		return o, err
	}
	if o.Status, err = sale.ParseStatus(d.Status); err != nil {
		return o, err
	}
	if o.ReservedAt, err = parseTime(d.ReservedAt); err != nil {
		return o, fmt.Errorf("reserved_at: %w", err)
	}
	if o.PayBy, err = parseTime(d.PayBy); err != nil {
		return o, fmt.Errorf("pay_by: %w", err)
	}
	at, err := parseTime(e.Time)
	if err != nil {
		return o, fmt.Errorf("time: %w", err)
	}
	if !ofReservation(&o, kind) {
		o.ChangedAt = at
	}
	hash, err := hex.DecodeString(d.RequestHash)
	if err != nil || len(hash) != len(o.Hash) {
		return o, fmt.Errorf("request_hash %q is not %d hexadecimal bytes", d.RequestHash, len(o.Hash))
	}
	o.Hash = sale.RequestHash(hash)
	if err := validate(&o); err != nil {
		return o, err
	}
	want := eventID(&o, kind, s)
	status, isResult := strings.CutPrefix(string(kind), resultsPrefix)
	switch {
	case e.SpecVersion != "1.0":
		return o, fmt.Errorf("specversion is %q, want 1.0", e.SpecVersion)
	case e.Type != s.eventType:
		return o, fmt.Errorf("type %q in a batch of %q", e.Type, s.eventType)
	case e.ID != want:
		return o, fmt.Errorf("id is not %q", want)
	case isResult && status != d.Status:
		return o, fmt.Errorf("status %q in an event of type %q", d.Status, e.Type)
	}
	return o, nil
}

// validate holds the order against the limits of the domain.
func validate(o *sale.Order) error {
	if err := sale.ValidateClaim(o.SKU, o.User, o.Coupon, o.Quantity); err != nil {
		return err
	}
	switch {
	case o.Amount < 0 || o.Amount > sale.MaxUnitPrice*sale.MaxQuantity || o.Amount%o.Quantity != 0:
		return fmt.Errorf("amount %d is not a price times the quantity", o.Amount)
	case o.Currency == "" && o.Amount != 0:
		return fmt.Errorf("an amount without a currency")
	case o.Segment < 0 || o.Segment >= sale.MaxSegments:
		return fmt.Errorf("segment must be 0..%d", sale.MaxSegments-1)
	case o.Version < 0:
		return fmt.Errorf("version is negative")
	case !utf8.ValidString(o.Currency + o.Reason + o.Payment):
		return fmt.Errorf("text that is not UTF-8")
	}
	return nil
}

func parseTime(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	ms, err := sale.ParseTime(s)
	if err == nil && (ms < 0 || ms > lastTime) {
		err = fmt.Errorf("%q lies outside the years 1970 to 9999", s)
	}
	return ms, err
}
