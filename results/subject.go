package results

import (
	"encoding/hex"
	"strings"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
)

// The streams and the subjects of what is not in them.
const (
	resultsStream = "FLASHGATE"
	backlogStream = "FLASHGATE_BACKLOG"

	resultsPrefix = "results."
	statsPrefix   = "flashgate.stats."
	backlogPrefix = "flashgate.backlog."
)

// contentType is CloudEvents' batched JSON.
const contentType = "application/cloudevents-batch+json"

// subjectOf is where an outbox row of this SKU and kind is published.
func subjectOf(sku string, kind sale.Kind) string {
	if status, ok := strings.CutPrefix(string(kind), resultsPrefix); ok {
		return "flashgate.results." + sku + "." + status
	}
	return "flashgate." + string(kind)
}

var contentTypeHeader = []string{contentType}

// message is an outbox row as it goes over the wire.
func message(row *sale.OutboxRow) *nats.Msg {
	return &nats.Msg{
		Subject: subjectOf(row.SKU, row.Kind),
		Header: nats.Header{
			nats.MsgIdHdr:  []string{hex.EncodeToString(row.MsgID[:])},
			"Content-Type": contentTypeHeader,
		},
		Data: row.Payload,
	}
}
