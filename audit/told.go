package audit

import (
	"strings"

	"flashgate/sale"
)

// told is a set of events that the world was told of one order.
type told uint8

const (
	toldReserved told = 1 << iota
	toldPaid
	toldCancelled
	toldExpired
	toldCoupon
	toldDeduct
	toldRelease

	toldStatus = toldReserved | toldPaid | toldCancelled | toldExpired
	toldEnded  = toldCancelled | toldExpired
)

var toldNames = []string{"reserved", "paid", "cancelled", "expired", "coupons.redeem", "inventory.deduct", "coupons.release"}

func (t told) String() string {
	var names []string
	for i, name := range toldNames {
		if t&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// toldBy is the one event of a kind; none for kinds that an order has any number of.
func toldBy(kind sale.Kind) told {
	switch kind {
	case sale.KindReserved:
		return toldReserved
	case sale.KindPaid:
		return toldPaid
	case sale.KindCancelled:
		return toldCancelled
	case sale.KindExpired:
		return toldExpired
	case sale.KindCouponRedeem:
		return toldCoupon
	case sale.KindInventoryDeduct:
		return toldDeduct
	case sale.KindCouponRelease:
		return toldRelease
	}
	return 0
}

// owed is what the world has to be told of an order of this status: all of what must
// be returned, and one of either, if there are any.
func owed(o *sale.Order) (must, either told) {
	must = toldReserved
	switch o.Status {
	case sale.StatusPaid:
		must |= toldPaid | toldDeduct
		if o.Version > 2 {
			either = toldEnded // it had ended, and its units were taken again
		}
	case sale.StatusCancelled:
		must |= toldCancelled
	case sale.StatusExpired:
		must |= toldExpired
	}
	if o.Coupon != "" {
		must |= toldCoupon
		if must&toldEnded != 0 {
			must |= toldRelease
		}
	}
	return must, either
}

// beyond is what was told of changes that the order has not made.
func beyond(o *sale.Order, h heard) told {
	must, either := owed(o)
	return (h.seen | h.pending) & toldStatus &^ (must | either)
}
