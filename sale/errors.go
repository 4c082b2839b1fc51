package sale

import (
	"errors"
	"fmt"
)

// Sentinels of the infrastructure. The edge maps each to one status and code; every
// one of them but ErrUnknown means that nothing was decided about the claim it answers.
var (
	ErrUnavailable     = errors.New("a dependency is away")                                                        // 503 unavailable
	ErrDegraded        = errors.New("the way around the shield is full")                                           // 503 degraded
	ErrQueueFull       = errors.New("the queue of this SKU is full")                                               // 503 queue_full
	ErrShuttingDown    = errors.New("this gateway is shutting down")                                               // 503 shutting_down
	ErrUnknownSKU      = errors.New("no such SKU")                                                                 // 404 unknown_sku
	ErrUnknownOrder    = errors.New("no such order")                                                               // 404 unknown_order
	ErrAlreadyPaid     = errors.New("the order is paid")                                                           // 409 already_paid
	ErrOrderExpired    = errors.New("the order expired")                                                           // 409 order_expired
	ErrOrderQueued     = errors.New("the order waits for its verdict")                                             // 409 order_queued
	ErrInvalid         = errors.New("the request is not valid")                                                    // 422 invalid_request
	ErrKeyReused       = errors.New("the Idempotency-Key was used for something else")                             // 422 idempotency_key_reused
	ErrPrecondition    = errors.New("the SKU is not as the request expects")                                       // 412 precondition_failed
	ErrArchived        = errors.New("the SKU's orders are archived: it stays closed, with its limit and segments") // 409 sale_closed
	ErrPaymentMismatch = errors.New("the payment does not fit the order or an earlier event of its name")          // 422 invalid_request
	ErrLeaseLost       = errors.New("the lease has passed to another holder")                                      // internal: a job stops
	ErrNotCalled       = fmt.Errorf("breaker open, not called: %w", ErrUnavailable)                                // 503 unavailable: nothing can have happened
	ErrOverloaded      = fmt.Errorf("this gateway has more to do than it can: %w", ErrUnavailable)                 // 503 unavailable: no dependency has failed
	ErrElsewhere       = errors.New("it failed for another dependency")                                            // internal: not a failure of the one that was called
	ErrPartly          = errors.New("part of it failed for reasons of its own")                                    // internal: whoever did the rest was able to
	ErrUnknown         = errors.New("it is not known whether the call succeeded")                                  // internal: repeat under the same ids
)

// StockBelowSoldError refuses a reduction below what is sold.
type StockBelowSoldError struct {
	// MaxReduction is the largest number of units that could be taken away now.
	MaxReduction int64
}

// Error says by how much it may be reduced.
func (e *StockBelowSoldError) Error() string {
	return fmt.Sprintf("stock would fall below what is sold; at most %d units can be taken away", e.MaxReduction)
}
