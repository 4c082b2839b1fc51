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

// Ask makes the call unless the breaker opened by itself, and does not count how it
// ended: what people look at, with deadlines of their own, must not open the breaker of
// what sells, nor does an operator who has the sale go another way mean to blind them.
func (b *Breaker) Ask(ctx context.Context, call func(context.Context) error) error {
	if b.modeNow() == sale.BreakerAuto && !b.Usable() {
		return sale.ErrNotCalled
	}
	return call(ctx)
}

// Obey makes the call unless an operator's order forbids it, and does not count how it
// ended.
func (b *Breaker) Obey(ctx context.Context, call func(context.Context) error) error {
	if b.modeNow() == sale.BreakerForcedOpen {
		return sale.ErrNotCalled
	}
	return call(ctx)
}

// Probe makes a job of asking the dependency for a sign of life. While nobody calls it,
// for instance because every claim is parked, its breaker would not learn that it is
// back. It may take as long as timeout. The job never fails: the breaker and the
// dependency say what is wrong.
func (b *Breaker) Probe(timeout time.Duration, ping func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		_ = b.Do(ctx, ping)
		return nil
	}
}
