package sale

import (
	"fmt"
	"unicode/utf8"
)

// Limits of the domain. Everything from outside is held against them at the edge.
const (
	maxSKULen    = 64
	maxUserLen   = 128
	maxCouponLen = 128
	MaxTitleLen  = 200
	MaxQuantity  = 1000
	// MaxStock keeps every sum of units far from overflow.
	MaxStock = 1_000_000_000_000
	// MaxUnitPrice keeps unit_price x MaxQuantity far from overflow.
	MaxUnitPrice = 1_000_000_000_000
	// MaxSegments bounds how many rows one SKU's stock can be spread over.
	MaxSegments = 64
)

// SaleState is what operators set: whether a SKU can be bought at all.
type SaleState uint8

// The states, stored and shown as their names.
const (
	StateOpen SaleState = iota + 1
	StatePaused
	StateClosed
)

var saleStateNames = [...]string{StateOpen: "open", StatePaused: "paused", StateClosed: "closed"}

// String is its name, as it is stored and shown.
func (s SaleState) String() string { return nameOf(saleStateNames[:], int(s)) }

// ParseSaleState reads a state's name.
func ParseSaleState(s string) (SaleState, error) {
	n, err := parseName(saleStateNames[:], s, "state")
	return SaleState(n), err
}

// Heat says which way a SKU takes: through the shield (hot), around it (cold), or
// whichever the demand asks for (auto).
type Heat uint8

// The heats, stored and shown as their names.
const (
	HeatAuto Heat = iota + 1
	HeatHot
	HeatCold
)

var heatNames = [...]string{HeatAuto: "auto", HeatHot: "hot", HeatCold: "cold"}

// String is its name, as it is stored and shown.
func (h Heat) String() string { return nameOf(heatNames[:], int(h)) }

// ParseHeat reads a heat's name.
func ParseHeat(s string) (Heat, error) {
	n, err := parseName(heatNames[:], s, "heat")
	return Heat(n), err
}

// SKU is what gateways know of a thing on sale. It is immutable once published: a
// change makes a new value with a higher Version.
type SKU struct {
	Name         string
	Ordinal      int64 // dense number of the SKU, for bitmaps over the catalogue
	Title        string
	UnitPrice    int64  // minor units
	Currency     string // ISO 4217, three capital letters
	PerUserLimit int64  // units per buyer; 0 = unlimited
	OpensAt      int64  // Unix ms, 0 = already open
	ClosesAt     int64  // Unix ms, 0 = never
	PayWithin    int64  // ms
	State        SaleState
	Heat         Heat
	// Counting says that a limit was set on a SKU with many orders, which have yet to be
	// counted for it. Nobody can buy until that is done.
	Counting  bool
	Archive   Archive
	Segments  int   // rows its stock is spread over, >= 1
	Version   int64 // rises with every change of a field above
	ChangedAt int64 // Unix ms on the ledger's clock
}

// ShownState is the state that the SKU is shown in: paused while its buyers are counted,
// whatever operators set, unless it is closed.
func (s *SKU) ShownState() SaleState {
	if s.Counting && s.State == StateOpen {
		return StatePaused
	}
	return s.State
}

// Pending says what the SKU is paused for besides its state; "" is nothing.
func (s *SKU) Pending() string {
	if s.Counting {
		return "per_user_limit: the orders of before are being counted"
	}
	return ""
}

// Gate says whether the SKU can be bought at the time now: Reserved when it can,
// else Closed, Paused or NotOpen, in this order.
func (s *SKU) Gate(now int64) Outcome {
	switch {
	case s.State == StateClosed || (s.ClosesAt != 0 && now >= s.ClosesAt):
		return Closed
	case s.ShownState() == StatePaused:
		return Paused
	case s.OpensAt != 0 && now < s.OpensAt:
		return NotOpen
	}
	return Reserved
}

// Validate refuses a SKU that could not be sold, in one line that names the field.
func (s *SKU) Validate() error {
	if err := ValidateSKUName(s.Name); err != nil {
		return err
	}
	switch {
	case len(s.Title) > MaxTitleLen || !utf8.ValidString(s.Title):
		return fmt.Errorf("title must be UTF-8 of at most %d bytes", MaxTitleLen)
	case s.UnitPrice < 0 || s.UnitPrice > MaxUnitPrice:
		return fmt.Errorf("unit_price must be 0..%d", int64(MaxUnitPrice))
	case !isCurrency(s.Currency):
		return fmt.Errorf("currency must be three capital letters (ISO 4217)")
	case s.PerUserLimit < 0 || s.PerUserLimit > MaxStock:
		return fmt.Errorf("per_user_limit must be 0..%d", int64(MaxStock))
	case s.OpensAt < 0 || s.ClosesAt < 0:
		return fmt.Errorf("opens_at and closes_at must not lie before 1970")
	case s.OpensAt != 0 && s.ClosesAt != 0 && s.ClosesAt <= s.OpensAt:
		return fmt.Errorf("closes_at must be later than opens_at")
	case s.PayWithin < 1000 || s.PayWithin > 366*24*3600*1000:
		return fmt.Errorf("pay_within must be between 1s and 8784h")
	case s.Segments < 1 || s.Segments > MaxSegments:
		return fmt.Errorf("segments must be 1..%d", MaxSegments)
	case s.State.String() == "" || s.Heat.String() == "":
		return fmt.Errorf("state and heat must be set")
	}
	return nil
}

// Stock is the a/b model of one SKU (or one segment of it): a = Total units, of
// which b = Reserved are withheld by operators; Sold are bound to live orders.
type Stock struct {
	Total    int64
	Reserved int64
	Sold     int64
}

// Available is what can still be sold: a - b - sold.
func (s Stock) Available() int64 { return s.Total - s.Reserved - s.Sold }

// Validate refuses figures that the ledger's CHECK constraints would refuse.
func (s Stock) Validate() error {
	switch {
	case s.Total < 0 || s.Total > MaxStock:
		return fmt.Errorf("total must be 0..%d", int64(MaxStock))
	case s.Reserved < 0 || s.Reserved > s.Total:
		return fmt.Errorf("reserved must be 0..total")
	}
	return nil
}

// ValidateSKUName refuses names that are not safe in URLs, Redis keys and NATS
// subjects alike: [A-Za-z0-9_-]{1,64}.
func ValidateSKUName(s string) error {
	if len(s) == 0 || len(s) > maxSKULen {
		return fmt.Errorf("sku must have 1..%d characters", maxSKULen)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return fmt.Errorf("sku may hold only A-Z, a-z, 0-9, _ and -")
		}
	}
	return nil
}

// ValidateUser refuses user ids that are not 1-128 visible ASCII characters.
func ValidateUser(s string) error {
	if len(s) == 0 || len(s) > maxUserLen || !visible(s) {
		return fmt.Errorf("user id must be 1..%d visible ASCII characters", maxUserLen)
	}
	return nil
}

// ValidateCoupon refuses coupons that are not visible ASCII; empty means none.
func ValidateCoupon(s string) error {
	if len(s) > maxCouponLen || !visible(s) {
		return fmt.Errorf("coupon must be at most %d visible ASCII characters", maxCouponLen)
	}
	return nil
}

// ValidateQuantity refuses quantities outside 1..MaxQuantity.
func ValidateQuantity(n int64) error {
	if n < 1 || n > MaxQuantity {
		return fmt.Errorf("quantity must be 1..%d", MaxQuantity)
	}
	return nil
}

// ValidateClaim holds what a claim, and the order it becomes, is made of against the
// limits of the domain, and returns the first error in the order of the arguments.
func ValidateClaim(sku, user, coupon string, quantity int64) error {
	if err := ValidateSKUName(sku); err != nil {
		return err
	}
	if err := ValidateUser(user); err != nil {
		return err
	}
	if err := ValidateCoupon(coupon); err != nil {
		return err
	}
	return ValidateQuantity(quantity)
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func isCurrency(s string) bool {
	if len(s) != 3 {
		return false
	}
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			return false
		}
	}
	return true
}

// nameOf is the one way from a closed enum to its name; "" is no member.
func nameOf(names []string, i int) string {
	if i <= 0 || i >= len(names) {
		return ""
	}
	return names[i]
}

// parseName is the one way back.
func parseName(names []string, s, what string) (int, error) {
	for i, n := range names {
		if i > 0 && n == s {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s %q is not one of %v", what, s, names[1:])
}
