package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unsafe"

	"github.com/valyala/fasthttp"
)

// view reads bytes as a string without copying. Such a string lives only as long as
// the request it points into: whatever outlives the handler is cloned first.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// proxies are the peers whose word about the client is taken.
type proxies []netip.Prefix

// parseProxies reads addresses and CIDR prefixes.
func parseProxies(list []string) (proxies, error) {
	var out proxies
	for _, s := range list {
		s = strings.TrimSpace(s)
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("trusted proxy %q is neither an address nor a prefix", s)
		}
		a = a.Unmap().WithZone("")
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out, nil
}

func (p proxies) contain(a netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

// peer is the address at the other end of the connection.
func peer(ctx *fasthttp.RequestCtx) netip.Addr {
	a, _ := addrOf(ctx.RemoteAddr())
	return a
}

func addrOf(a net.Addr) (netip.Addr, bool) {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

// client is the address the request came from: the right-most X-Forwarded-For address
// that is no trusted proxy, as seen from a trusted peer. What stands further left was
// written by whoever wanted to. Where the chain cannot be read, its last readable
// address counts.
func (p proxies) client(ctx *fasthttp.RequestCtx, from netip.Addr) netip.Addr {
	if !p.contain(from) {
		return from
	}
	fields := ctx.Request.Header.PeekAll("X-Forwarded-For")
	for i := len(fields) - 1; i >= 0; i-- {
		chain := view(fields[i])
		for chain != "" {
			cut := strings.LastIndexByte(chain, ',')
			item := strings.TrimSpace(chain[cut+1:])
			chain = chain[:max(cut, 0)]
			a, ok := forwarded(item)
			if !ok {
				return from
			}
			from = a
			if !p.contain(a) {
				return a
			}
		}
	}
	return from
}

// forwarded reads one address of a chain, with or without a port.
func forwarded(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone(""), true
}
