package gateway

import (
	"bytes"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// refuseTwoLengths looks at a request's head before its body is read. One that says both
// how long its body is and that it is chunked is read as chunked by the HTTP library; a
// proxy in front may have believed the other, and what it took for the rest of the body
// would be somebody's next request here. Only the guard can answer, and by then the
// library has tidied the head, so the method is made one that the guard refuses.
//
// A chunked body may be followed by trailer fields, which the library adds to the head: who
// writes a body could say there who buys, behind the back of a proxy that has set or
// deleted the field. So every chunked request is marked as one that the guard has to look
// at; the mark stands where the names of announced trailers do, which nothing else reads.
func refuseTwoLengths(h *fasthttp.RequestHeader) (unchanged fasthttp.RequestConfig) {
	const chunked = -1
	if h.ContentLength() != chunked {
		return unchanged
	}
	_ = h.SetTrailer("Chunked")
	for line := range bytes.Lines(h.RawHeaders()) {
		if name := fieldName(line); bytes.EqualFold(name, []byte(fiber.HeaderContentLength)) {
			h.SetMethod("AMBIGUOUS")
		}
	}
	return unchanged
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
