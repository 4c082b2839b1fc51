package results

import (
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"
)

// headerRoom is what subject and headers take of a message's size, generously.
const headerRoom = 1024

// split cuts a batch that is larger than the server takes into several messages,
// whose ids follow from the row's.
func split(msg *nats.Msg, maxPayload int64) ([]*nats.Msg, error) {
	limit := int(maxPayload) - headerRoom
	if len(msg.Data) <= limit || maxPayload <= 0 {
		return []*nats.Msg{msg}, nil
	}
	var events []json.RawMessage
	if err := json.Unmarshal(msg.Data, &events); err != nil {
		return nil, fmt.Errorf("split a batch of events: %w", err)
	}
	var msgs []*nats.Msg
	flush := func(data []byte) {
		part := &nats.Msg{Subject: msg.Subject, Data: append(data, ']'), Header: nats.Header{
			nats.MsgIdHdr:  []string{fmt.Sprintf("%s-%d", msg.Header.Get(nats.MsgIdHdr), len(msgs))},
			"Content-Type": contentTypeHeader,
		}}
		msgs = append(msgs, part)
	}
	var data []byte
	for _, e := range events {
		if len(data) > 0 && len(data)+len(e)+2 > limit {
			flush(data)
			data = nil
		}
		if len(data) == 0 {
			data = append(data, '[')
		} else {
			data = append(data, ',')
		}
		data = append(data, e...)
	}
	if len(data) > 0 {
		flush(data)
	}
	return msgs, nil
}
