// Package sale is the domain: what a SKU, a claim and an order are, which verdicts
// there can be, and the rules that need nothing but their arguments. It imports the
// standard library only and does no I/O, reads no clock and starts no goroutine, so
// that every other package can speak its language without depending on any other.
//
// Times are integer Unix milliseconds on the ledger's clock; zero means none. Money
// is integer minor units of an ISO 4217 currency. A package that consumes another
// declares the small interface it needs; the types of those interfaces live here.
package sale
