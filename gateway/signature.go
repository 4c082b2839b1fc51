package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// Payments says which payment events are genuine.
type Payments struct {
	// WebhookSecrets are the keys that events are signed with. Any of them counts, so
	// that one can be replaced while the other still signs. None: there is no webhook.
	WebhookSecrets []string
	// Tolerance is how far an event's time may lie from now, before or after.
	Tolerance time.Duration
}

func (p *Payments) validate() error {
	if p.Tolerance < time.Second {
		return errors.New("the payments' tolerance must be at least a second")
	}
	for _, secret := range p.WebhookSecrets {
		if secret == "" {
			return errors.New("with an empty webhook secret anybody could sign")
		}
	}
	return nil
}

const (
	signatureHeader = "Flashgate-Signature"
	// maxSignatures bounds how many signatures one event may carry.
	maxSignatures = 8
)

var errSignature = errors.New("the field is not t=<unix seconds>,v1=<64 hexadecimal digits>")

// signature is a Flashgate-Signature field as it was sent.
type signature struct {
	stamp string // t: a part of what is signed
	at    int64  // the same as a number
	sums  [][sha256.Size]byte
}

// parseSignature reads t=<unix seconds>,v1=<hex>[,v1=<hex>...] in any order. Schemes
// other than v1 are passed over, so that a later one can be sent beside it.
func parseSignature(field string) (signature, error) {
	var s signature
	for field != "" {
		var item string
		item, field, _ = strings.Cut(field, ",")
		name, value, ok := strings.Cut(strings.Trim(item, " \t"), "=")
		if !ok || name == "" {
			return signature{}, errSignature
		}
		switch name {
		case "t":
			at, err := strconv.ParseUint(value, 10, 40)
			if err != nil || s.stamp != "" {
				return signature{}, errSignature
			}
			s.stamp, s.at = value, int64(at)
		case "v1":
			var sum [sha256.Size]byte
			if len(value) != hex.EncodedLen(len(sum)) || len(s.sums) == maxSignatures {
				return signature{}, errSignature
			}
			if _, err := hex.Decode(sum[:], []byte(value)); err != nil {
				return signature{}, errSignature
			}
			s.sums = append(s.sums, sum)
		}
	}
	if s.stamp == "" || len(s.sums) == 0 {
		return signature{}, errSignature
	}
	return s, nil
}

// genuine reports whether the body was signed with one of the secrets, lately. The
// field must stand once: a proxy in front may have looked at another one.
func (p *Payments) genuine(h *fasthttp.RequestHeader, body []byte, now time.Time) bool {
	fields := h.PeekAll(signatureHeader)
	if len(fields) != 1 {
		return false
	}
	s, err := parseSignature(view(fields[0]))
	return err == nil && p.signed(&s, body) && p.timely(s.at, now)
}

// signed compares every signature with every secret's, whichever fits, so that the time
// it takes tells nothing.
func (p *Payments) signed(s *signature, body []byte) bool {
	same := 0
	var sum [sha256.Size]byte
	for _, secret := range p.WebhookSecrets {
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = mac.Write([]byte(s.stamp))
		_, _ = mac.Write([]byte{'.'})
		_, _ = mac.Write(body)
		mac.Sum(sum[:0])
		for i := range s.sums {
			same |= subtle.ConstantTimeCompare(sum[:], s.sums[i][:])
		}
	}
	return same == 1
}

func (p *Payments) timely(at int64, now time.Time) bool {
	off := now.Unix() - at
	return max(off, -off) <= int64(p.Tolerance/time.Second)
}
