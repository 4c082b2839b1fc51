package results

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ackError is nil when the reply says that the message is stored (now or before). A
// server's no is a jetstream.APIError.
func ackError(msg *nats.Msg) error {
	if bytes.HasPrefix(msg.Data, []byte(`{"stream":"`)) {
		return nil
	}
	if len(msg.Data) == 0 {
		return fmt.Errorf("no stream takes the message (status %q)", msg.Header.Get("Status"))
	}
	var ack struct {
		Stream string              `json:"stream"`
		Error  *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return fmt.Errorf("read an acknowledgement: %w", err)
	}
	if ack.Error != nil {
		return ack.Error
	}
	if ack.Stream == "" {
		return errors.New("the acknowledgement names no stream")
	}
	return nil
}

// batchError is nil when the reply says that all n messages of a batch are stored.
func batchError(msg *nats.Msg, n int) error {
	if err := ackError(msg); err != nil {
		return err
	}
	var ack struct {
		Count int `json:"count"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil || ack.Count != n {
		return fmt.Errorf("%w of all: of %d messages %d are acknowledged", errUnanswered, n, ack.Count)
	}
	return nil
}
