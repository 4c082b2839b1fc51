package gateway

import (
	"errors"
	"strings"

	"github.com/gofiber/fiber/v2"

	"flashgate/sale"
)

var (
	errIfMatch     = errors.New(`If-Match must be * or a list of entity tags such as "7-100-0"`)
	errIfNoneMatch = errors.New("If-None-Match is answered as * only: nothing is changed where there is such a SKU")
)

// readExpect reads what the request expects of the SKU (RFC 9110, sections 13.1.1 and
// 13.1.2).
func readExpect(c *fiber.Ctx) (sale.Expect, error) {
	var e sale.Expect
	if field, ok := header(c, fiber.HeaderIfNoneMatch); ok {
		if field != "*" {
			return e, errIfNoneMatch
		}
		e.Absent = true
	}
	field, ok := header(c, fiber.HeaderIfMatch)
	switch {
	case !ok:
		return e, nil
	case field == "*":
		e.Present = true
		return e, nil
	}
	for tag := range strings.SplitSeq(field, ",") {
		tag = strings.Trim(tag, " \t")
		weak := strings.HasPrefix(tag, "W/")
		text, opened := strings.CutPrefix(strings.TrimPrefix(tag, "W/"), `"`)
		text, closed := strings.CutSuffix(text, `"`)
		if !opened || !closed || strings.Contains(text, `"`) {
			return e, errIfMatch
		}
		t, ours := sale.ParseSKUTag(text)
		if weak || !ours {
			t = sale.SKUTag{Version: -1} // which no SKU has
		}
		e.Tags = append(e.Tags, t)
	}
	return e, nil
}

// readKey reads the request's Idempotency-Key, "" where it has none. The result is a
// copy.
func readKey(c *fiber.Ctx) (string, error) {
	field, ok := header(c, "Idempotency-Key")
	if !ok {
		return "", nil
	}
	return parseKey(field)
}

// header returns a copy of a header field, its lines joined by commas, and whether there
// is one.
func header(c *fiber.Ctx, name string) (string, bool) {
	lines := c.Context().Request.Header.PeekAll(name)
	if len(lines) == 0 {
		return "", false
	}
	texts := make([]string, len(lines))
	for i, line := range lines {
		texts[i] = string(line)
	}
	return strings.Join(texts, ", "), true
}
