package gateway

import (
	"strconv"
	"strings"
	"time"
)

// preference is what a request's Prefer fields (RFC 7240) ask for. What is not
// understood is ignored, as the RFC wants; of a repeated preference the first counts.
type preference struct {
	async   bool
	waitSet bool
	wait    time.Duration
}

// maxWaitSeconds keeps a preference from overflowing; the configuration's bound is far
// lower.
const maxWaitSeconds = 1 << 20

// read adds one Prefer field to what is known.
func (p *preference) read(field string) {
	for field != "" {
		var item string
		item, field = cutUnquoted(field, ',')
		item, _ = cutUnquoted(item, ';')
		name, value, _ := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		switch {
		case strings.EqualFold(name, "respond-async"):
			p.async = true
		case strings.EqualFold(name, "wait") && !p.waitSet:
			value = strings.Trim(strings.TrimSpace(value), `"`)
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				continue
			}
			p.waitSet = true
			p.wait = time.Duration(min(n, maxWaitSeconds)) * time.Second
		}
	}
}

// cutUnquoted cuts at the first separator outside a quoted string.
func cutUnquoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
