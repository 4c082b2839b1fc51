package gateway

import (
	"fmt"
	"testing"
)

func TestNamesThisMachine(t *testing.T) {
	for host, want := range map[string]bool{
		"": true, "localhost": true, "localhost:8080": true, "LOCALHOST.:1": true, "shop.localhost:8080": true,
		"127.0.0.1": true, "127.0.0.1:8080": true, "10.1.2.3:80": true, "[::1]:8080": true, "[::1]": true, "::1": true,
		"evil.example": false, "evil.example:8080": false, "localhost.evil.example": false, "notlocalhost": false,
		"127.0.0.1.nip.io": false, "127.1": false, "0x7f000001": false, ":8080": false,
	} {
		if got := namesThisMachine(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

// A page from elsewhere that has its own name lead to loopback buys nothing.
func TestLocalNames(t *testing.T) {
	r := serve(t, func(c *Config) { c.LocalNames = true })
	r.queue.rule = reserved
	for host, want := range map[string]int{"evil.example": 421, "localhost": 201} {
		raw := fmt.Sprintf("POST /v1/skus/phone/orders HTTP/1.1\r\nHost: %s\r\nX-User-ID: ann\r\n\r\n", host)
		if status, body, _ := r.send(t, raw); status != want {
			t.Errorf("%s: %d %s, want %d", host, status, body, want)
		}
	}
	if got := (call{method: "GET", path: "/livez", header: []string{"Host", "evil.example"}}).do(t, r.g.operators.app.Server().Handler); got.status != 200 {
		t.Errorf("the other listener has whatever name: %d", got.status)
	}
	without := serve(t, nil)
	without.queue.rule = reserved
	if status, body, _ := without.send(t, "POST /v1/skus/phone/orders HTTP/1.1\r\nHost: shop.example\r\nX-User-ID: ann\r\n\r\n"); status != 201 {
		t.Errorf("in production: %d %s", status, body)
	}
}
