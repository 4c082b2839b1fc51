package gateway

import (
	"bytes"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// inspect looks at a request's head before its body is read, and refuses what another
// server in front of this one may read otherwise than the HTTP library, which takes it: what
// that one took for the end of this request may be somebody's next one here. Only the guard
// can answer, and by then the library has tidied the head, so the method is made one that
// the guard refuses.
//
// A chunked body may be followed by trailer fields, which the library adds to the head: who
// writes a body could say there who buys, behind the back of a proxy that has set or
// deleted the field. So every chunked request is marked as one that the guard has to look
// at; the mark stands where the names of announced trailers do, which nothing else reads.
func inspect(h *fasthttp.RequestHeader) (unchanged fasthttp.RequestConfig) {
	const chunked = -1
	isChunked := h.ContentLength() == chunked
	if isChunked {
		_ = h.SetTrailer("Chunked")
	}
	if !plainHead(view(h.Protocol()), h.RawHeaders(), isChunked) {
		h.SetMethod(ambiguous)
	}
	return unchanged
}

// ambiguous is the method of a request that was refused before its body was read.
const ambiguous = "AMBIGUOUS"

// plainHead reports whether a head says one thing: a version of HTTP/1 that is known, lines
// that end as lines do (RFC 9112, section 2.2) and are not folded (5.2), and one way to find
// the end of the body, which is chunked or has a length (6.1).
func plainHead(protocol string, raw []byte, chunked bool) bool {
	if protocol != "HTTP/1.1" && protocol != "HTTP/1.0" {
		return false
	}
	codings, lengths := 0, 0
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '\n')
		if end < 1 || raw[end-1] != '\r' || raw[0] == ' ' || raw[0] == '\t' {
			return false
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		if bytes.IndexByte(line, '\r') >= 0 {
			return false
		}
		switch {
		case len(line) == 0:
		case line[0]|0x20 == 't' && bytes.EqualFold(fieldName(line), []byte(fiber.HeaderTransferEncoding)):
			codings++
		case line[0]|0x20 == 'c' && bytes.EqualFold(fieldName(line), []byte(fiber.HeaderContentLength)):
			lengths++
		}
	}
	if chunked {
		return codings == 1 && lengths == 0
	}
	return codings == 0 && lengths <= 1
}

// expected answers "Expect: 100-continue": a body is asked for when the head has been taken,
// which is not too large, and who sends it is known.
func (g *Gateway) expected(operators bool) func(ctx *fasthttp.RequestCtx) int {
	return func(ctx *fasthttp.RequestCtx) int {
		h := &ctx.Request.Header
		if string(h.Method()) == ambiguous {
			return fiber.StatusBadRequest
		}
		if h.ContentLength() > g.cfg.BodyLimit {
			return fiber.StatusRequestEntityTooLarge
		}
		if operators {
			if _, known := g.keys.find(view(h.Peek(fiber.HeaderAuthorization))); !known {
				return fiber.StatusUnauthorized
			}
			return fiber.StatusContinue
		}
		var f fields
		f.read(h)
		if f.peer = peer(ctx); f.twice || bytes.HasPrefix(ctx.Path(), []byte("/v1/skus/")) && g.auth.user(&f.identity) == "" {
			return fiber.StatusUnauthorized
		}
		return fiber.StatusContinue
	}
}

// hasTrailer reports whether fields have been added to a head that was received: some name
// stands in it more often than it did.
func hasTrailer(h *fasthttp.RequestHeader) bool {
	marked := false
	for range h.Trailers() {
		marked = true
	}
	if !marked {
		return false
	}
	received := make(map[string]int)
	for line := range bytes.Lines(h.RawHeaders()) {
		received[string(bytes.ToLower(fieldName(line)))]++
	}
	for name := range h.All() {
		lower := string(bytes.ToLower(name))
		if received[lower]--; received[lower] < 0 && lower != "trailer" && lower != "content-length" {
			return true
		}
	}
	return false
}

// fieldName is what stands before a header line's colon.
func fieldName(line []byte) []byte {
	name, _, _ := bytes.Cut(line, []byte{':'})
	return bytes.TrimSpace(name)
}
