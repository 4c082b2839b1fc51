// Package faults holds the fault harness: tests that run several gateway processes on
// real Redis, MariaDB and NATS, break one part in the middle of a sale, and count
// afterwards. Everything is seen from outside: over HTTP, in the tables, and on the
// results stream.
package faults
