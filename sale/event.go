package sale

// Kind is the tail of the NATS subject that an outbox row is published on, without
// the leading "flashgate." and, for results, with the SKU left out.
type Kind string

// The kinds. Results are published on flashgate.results.<sku>.<status>.
const (
	KindReserved        Kind = "results.reserved"
	KindPaid            Kind = "results.paid"
	KindCancelled       Kind = "results.cancelled"
	KindExpired         Kind = "results.expired"
	KindCouponRedeem    Kind = "coupons.redeem"
	KindCouponRelease   Kind = "coupons.release"
	KindInventoryDeduct Kind = "inventory.deduct"
	KindInventoryReturn Kind = "inventory.return"
	KindPaymentRefund   Kind = "payments.refund"
)

// OutboxRow is one row of the ledger's outbox: a list of events of one SKU and kind,
// written in the transaction that caused them and deleted once acknowledged.
type OutboxRow struct {
	ID      int64    // row order
	MsgID   [16]byte // random; becomes Nats-Msg-Id, so that a repeat is recognised
	SKU     string
	Kind    Kind
	Payload []byte // a JSON array of CloudEvents, encoded by the injected encoder
	At      int64  // Unix ms, ledger's clock
	Damage  error  // why Payload, which is nil then, cannot be read
}
