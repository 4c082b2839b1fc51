package gateway

import (
	"context"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

// OperatorLog is what operators did, as the ledger keeps it.
type OperatorLog interface {
	// OperatorLog returns up to limit entries, the latest first, of a target or, where that
	// is "", of all, before an id, 0 being the end.
	OperatorLog(ctx context.Context, target string, before int64, limit int) ([]sale.LogEntry, error)
	// NoteOperator enters what the ledger does not keep itself.
	NoteOperator(ctx context.Context, action, target, became string) error
}

// listLog is GET /v1/audit-log?target=&before=&limit=, the latest first.
func (g *Gateway) listLog(c *fiber.Ctx) error {
	limit, ok := g.pageLimit(c)
	if !ok {
		return nil
	}
	before := int64(0)
	if s := c.Query("before"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return g.refuseWith(c, &problem{answer: invalidRequest, detail: "before must be the id of an entry"})
		}
		before = n
	}
	target := strings.Clone(c.Query("target"))
	if target != "" && sale.ValidateSKUName(target) != nil {
		return g.refuseWith(c, &problem{answer: invalidRequest, detail: "target must be the name of a SKU or of a breaker"})
	}
	entries, err := g.deps.Log.OperatorLog(g.deadlines.context(), target, before, limit)
	if err != nil {
		return g.refuseError(c, err)
	}
	b := append(make([]byte, 0, 64+256*len(entries)), `{"entries":[`...)
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLogEntry(b, &entries[i])
	}
	b = append(b, ']')
	if len(entries) == limit {
		b = appendNumber(b, "before", entries[limit-1].ID)
	}
	return g.json(c, answerOK, append(b, '}'))
}

func appendLogEntry(b []byte, e *sale.LogEntry) []byte {
	b = appendNumber(append(b, '{'), "id", e.ID)
	b = appendTime(b, "at", e.At)
	b = appendText(b, "by", e.By)
	b = appendText(b, "action", e.Action)
	b = appendText(b, "target", e.Target)
	b = appendRaw(b, "was", e.Before)
	b = appendRaw(b, "became", e.After)
	b = appendText(b, "why", e.Why)
	return append(b, '}')
}

// appendRaw appends a member whose value is JSON already; "" is null.
func appendRaw(b []byte, name, json string) []byte {
	if json == "" {
		json = "null"
	}
	return append(appendName(b, name), json...)
}
