package results

import (
	"encoding/hex"
	"strings"

	"flashgate/sale"

	"github.com/nats-io/nats.go"
)

// names are what streams and subjects of an installation are called.
type names struct {
	results, backlog string // the streams
	root             string // what all subjects begin with, and a dot
}

func namesOf(namespace string) names {
	if namespace == "" {
		return names{"FLASHGATE", "FLASHGATE_BACKLOG", "flashgate."}
	}
	return names{"FLASHGATE-" + namespace, "FLASHGATE-" + namespace + "_BACKLOG", "flashgate-" + namespace + "."}
}

// parked and refused are the subjects of claims of the SKU.
func (n *names) parked(sku string) string  { return n.root + "backlog." + sku }
func (n *names) refused(sku string) string { return n.root + "stats." + sku }

// skuOf is the SKU in the subject of a parked claim.
func (n *names) skuOf(parked string) string { return parked[len(n.root)+len("backlog."):] }

const resultsPrefix = "results."

// contentType is CloudEvents' batched JSON.
const contentType = "application/cloudevents-batch+json"

// subject is where an outbox row of this SKU and kind is published.
func (n *names) subject(sku string, kind sale.Kind) string {
	if status, ok := strings.CutPrefix(string(kind), resultsPrefix); ok {
		return n.root + resultsPrefix + sku + "." + status
	}
	return n.root + string(kind)
}

var contentTypeHeader = []string{contentType}

// message is an outbox row as it goes over the wire.
func (n *names) message(row *sale.OutboxRow) *nats.Msg {
	return &nats.Msg{
		Subject: n.subject(row.SKU, row.Kind),
		Header: nats.Header{
			nats.MsgIdHdr:  []string{hex.EncodeToString(row.MsgID[:])},
			"Content-Type": contentTypeHeader,
		},
		Data: row.Payload,
	}
}
