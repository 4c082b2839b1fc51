// Package gateway is the HTTP edge: the buyers' listener and the operators' listener.
// It authenticates, limits and validates, derives the order id, asks the queue for a
// place, and turns verdicts into responses. It decides nothing about stock.
//
// The order of a purchase's checks is from cheap to dear: shutting down, address limit,
// authentication, buyer, SKU and global limits, validation, the SKU, refusals known from
// memory (without a key only), the queue.
//
// The payment provider's webhook passes none of these: its signature is checked, and
// then its event is recorded. Only what is not genuine meets the limit of its address.
//
// Strings that the HTTP library hands out live only until the handler returns. What may
// outlive it is cloned where it is handed on: a claim's where the claim is built.
package gateway
