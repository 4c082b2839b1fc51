// Package results tells the world what became of orders: it encodes the events of the
// outbox, publishes them on NATS JetStream right after their commit (Publisher) or
// later, in row order per SKU, until they are acknowledged (Relay), and counts
// refusals for whoever watches (Stats). Claims that wait for the ledger's return are
// kept there too (Backlog). It is the only package that knows NATS, and the whole of it
// may be away without harm: the outbox keeps what is not acknowledged, and without a
// ledger and a backlog nobody is promised anything. See DESIGN.md.
//
// A message is a JSON array of CloudEvents 1.0, all of one SKU and kind, in stream
// FLASHGATE:
//
//	kind              subject                           event type                  event id
//	results.<status>  flashgate.results.<sku>.<status>  flashgate.order.<status>    <order_id>/<status>
//	coupons.redeem    flashgate.coupons.redeem          flashgate.coupon.redeem     <order_id>/coupon_redeem
//	coupons.release   flashgate.coupons.release         flashgate.coupon.release    <order_id>/coupon_release
//	inventory.deduct  flashgate.inventory.deduct        flashgate.inventory.deduct  <order_id>/inventory_deduct
//	inventory.return  flashgate.inventory.return        flashgate.inventory.return  <order_id>/inventory_return
//	payments.refund   flashgate.payments.refund         flashgate.payment.refund    <order_id>/payment_refund/<payment event id>
//
// An event id is the same however often the event is delivered, and no two events
// share one: an order takes each status at most once, and can be refunded once per
// payment event. A coupon is redeemed with the reservation and released when the order is
// cancelled or expires; a late payment that takes the units again redeems it again, under
// <order_id>/coupon_redeem/<payment event id>. Delivery is at least once; within the duplicate window the stream
// itself drops repeats by Nats-Msg-Id.
//
// Stream FLASHGATE_BACKLOG holds one message per parked claim on
// flashgate.backlog.<sku>: a JSON object with a version, the claim, the segment its units
// were taken from, and when it was parked. What is in the stream has no verdict yet;
// only the drainer deletes, and only what it has settled.
//
// With a namespace the streams are FLASHGATE-<namespace> and FLASHGATE-<namespace>_BACKLOG,
// and subjects begin with flashgate-<namespace>.
package results
