package results

import (
	"errors"
	"fmt"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fault is why a row cannot be published, whatever NATS does.
type fault struct {
	id  int64
	err error
}

func (f *fault) Error() string { return fmt.Sprintf("row %d: %v", f.id, f.err) }
func (f *fault) Unwrap() error { return f.err }

// faultOf returns the row's own fault, or nil where NATS may be what failed.
func faultOf(row *sale.OutboxRow, err error) *fault {
	var answer *jetstream.APIError
	tooLarge := errors.As(err, &answer) && answer.ErrorCode == messageTooLarge
	if tooLarge || errors.Is(err, errUnreadable) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrMaxPayload) {
		return &fault{row.ID, err}
	}
	return nil
}

// errUnreadable says that an outbox row holds no events.
var errUnreadable = errors.New("its events cannot be read")

// messageTooLarge is how a stream refuses a message for its size.
const messageTooLarge jetstream.ErrorCode = 10054

// refused reports whether a message was answered with a no, or is none that could be
// sent: another gateway would get no further with it.
func refused(err error) bool {
	var answer *jetstream.APIError
	return errors.As(err, &answer) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrMaxPayload)
}
