package fallback

import (
	"context"
	"time"

	"flashgate/sale"
)

// guard makes the calls of one dependency's view. It is Breaker.Do or Breaker.Ask.
type guard func(ctx context.Context, call func(context.Context) error) error

// through has the guard make a call that returns something.
func through[T any](ctx context.Context, g guard, call func(context.Context) (T, error)) (out T, err error) {
	err = g(ctx, func(ctx context.Context) (err error) {
		out, err = call(ctx)
		return err
	})
	return out, err
}

// throughTwo is through for a call that returns two things.
func throughTwo[A, B any](ctx context.Context, g guard, call func(context.Context) (A, B, error)) (a A, b B, err error) {
	err = g(ctx, func(ctx context.Context) (err error) {
		a, b, err = call(ctx)
		return err
	})
	return a, b, err
}

// Ask makes the call unless the breaker is open, and does not count how it ended: what
// people look at, with deadlines of their own, must not open the breaker of what sells.
func (b *Breaker) Ask(ctx context.Context, call func(context.Context) error) error {
	if !b.Usable() {
		return sale.ErrNotCalled
	}
	return call(ctx)
}

// probeTimeout is how long a dependency may take to give a sign of life.
const probeTimeout = 2 * time.Second

// Probe makes a job of asking the dependency for a sign of life. While nobody calls it,
// for instance because every claim is parked, its breaker would not learn that it is
// back. The job never fails: the breaker and the dependency say what is wrong.
func (b *Breaker) Probe(ping func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		_ = b.Do(ctx, ping)
		return nil
	}
}
