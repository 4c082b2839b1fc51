//go:build unix

package gateway

import (
	"net"
	"syscall"
)

// hasLeft reports whether the other end of a connection has closed it, without taking
// anything from what it may have sent.
func hasLeft(conn net.Conn) bool {
	_, secured := conn.(*secureConn)
	if open := under(conn); open != nil {
		conn = open.Conn
	}
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	c, err := raw.SyscallConn()
	if err != nil {
		return false
	}
	left := false
	err = c.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// TLS says goodbye before it closes, and what it says cannot be read here: with it
		// anything that comes while its client should wait is taken for that.
		left = (n == 0 || secured) && err == nil || err == syscall.ECONNRESET
	})
	return left || err != nil
}
