package app

import (
	"strings"
	"testing"
)

// What cannot be run is not ok.
func TestConfigCheckReadsTheDSN(t *testing.T) {
	t.Setenv("FLASHGATE_ADMIN__KEY", strings.Repeat("key-", 6))
	t.Setenv("FLASHGATE_AUTH__JWT__SECRET", strings.Repeat("jwt-", 10))
	t.Setenv("FLASHGATE_REDIS__ADDRS", "127.0.0.1:6379")
	t.Setenv("FLASHGATE_NATS__URL", "nats://127.0.0.1:4222")
	for dsn, ok := range map[string]bool{
		"flashgate:pw@tcp(127.0.0.1:3306)/flashgate": true,
		"mysql://flashgate:pw@127.0.0.1/flashgate":   false,
		"flashgate:pw@127.0.0.1:3306/flashgate":      false,
		"flashgate:pw@tcp(127.0.0.1:3306)/":          false,
	} {
		t.Setenv("FLASHGATE_LEDGER__DSN", dsn)
		err := (configCheckCmd{}).Run()
		if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "ledger.dsn") {
			t.Errorf("%s: %v", dsn, err)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("the password is printed: %v", err)
		}
	}
}
