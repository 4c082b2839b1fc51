package configs

import (
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRedactURLs(t *testing.T) {
	for in, want := range map[string]string{
		"nats://a:4222":                     "nats://a:4222",
		"a:6379,b:6379":                     "a:6379,b:6379",
		"[::1]:6379,:8080":                  "[::1]:6379,:8080",
		"nats://u:hid@a:4222":               "nats://[redacted]@a:4222",
		"nats://hid@a":                      "nats://[redacted]@a",
		"u:hid@a:4222":                      "[redacted]@a:4222",
		"nats//u:hid@a":                     "[redacted]",
		"nats://u:hid@a:4222,v:hid@b:4222":  "[redacted],[redacted]",
		"nats://u:hid,hid@a:4222":           "[redacted],[redacted]",
		"nats://u:p@hid,hid@a:4222":         "[redacted],[redacted]",
		"nats://u:h@hid@a:4222":             "[redacted]",
		"nats://u:hid%zz@a:4222":            "nats://[redacted]@a:4222",
		"nats://u:hi/d@a:4222":              "[redacted]",
		"nats://a:4222?token=hid":           "nats://a:4222?[redacted]",
		"nats://a:4222?t=hid@b":             "[redacted]",
		"http://u:hid@a:8222,http://b:8222": "http://[redacted]@a:8222,http://b:8222",
		"redis host:1":                      "redis host:1",
	} {
		if got := strings.Join(redactURLs(strings.Split(in, ",")), ","); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// Whatever a password holds, and wherever it is written, it is not shown.
func TestNoPasswordIsShown(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		scheme := rapid.SampledFrom([]string{"", "nats://", "nats:/", "nats//", "tls://", "NATS://"}).Draw(r, "scheme")
		odd := rapid.SampledFrom([]string{"", ",", ":", "/", "%", "@", "?", "#", " ", ",:"})
		password := odd.Draw(r, "a") + "hid" + odd.Draw(r, "b") + "hid" + odd.Draw(r, "c")
		in := scheme + "user:" + password + "@" + rapid.SampledFrom([]string{"host", "host:4222", "[::1]:1", ""}).Draw(r, "host")
		if rapid.Bool().Draw(r, "second") {
			in = "nats://first:4222," + in
		}
		if got := strings.Join(redactURLs(strings.Split(in, ",")), ","); strings.Contains(got, "hid") {
			r.Fatalf("%s is shown as %s", in, got)
		}
	})
}

func TestErrorsOfConfigurationShowNoSecret(t *testing.T) {
	for _, text := range []string{
		"admin:\n  key: *hid\n", "admin: {key: [hid]}\n", "redis: {addrs: ['u:hid@h']}\n", "admin:\n  key: \"hid\n",
		"nats: {url: 'nats//u:hid@h'}\n", "nats: {monitor_url: ['u:hid@h']}\n", "ledger: {dsn: [hid]}\n",
	} {
		path := t.TempDir() + "/c.yaml"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Check(Serve, path, nil)
		if err == nil || strings.Contains(err.Error(), "hid") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
