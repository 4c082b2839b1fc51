package gateway

import (
	"net"
	"net/netip"
	"strings"
)

// namesThisMachine reports whether the Host of a request is one that no other machine's name
// can lead to: an address, or a name under localhost (RFC 6761, section 6.3). Browsers send
// one always; what comes without has no page behind it.
func namesThisMachine(host string) bool {
	if host == "" {
		return true
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil
}
