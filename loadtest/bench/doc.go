// Package bench measures flashgate side by side with a bare Fiber handler (make bench):
// wrk, 512 connections, interleaved rounds in one run on one machine, medians and
// ratios. A reservation counts only when its row is in the ledger, flushed per commit,
// and its event is on NATS within a second of the end.
package bench
