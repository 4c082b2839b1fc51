package houserules_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryKindHasAStream holds the kinds of events to the streams' subjects: a row that
// no stream takes is published in vain for ever, and holds up its SKU's later ones.
func TestEveryKindHasAStream(t *testing.T) {
	read := func(path ...string) string {
		text, err := os.ReadFile(filepath.Join(append([]string{root(t)}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	kinds := regexp.MustCompile(`Kind\s+=\s+"([a-z]+)\.`).FindAllStringSubmatch(read("sale", "event.go"), -1)
	if len(kinds) < 8 {
		t.Fatalf("%d kinds are found in sale/event.go", len(kinds))
	}
	streams := read("results", "streams.go")
	for _, kind := range kinds {
		if !strings.Contains(streams, `c.names.root + "`+kind[1]+`.>"`) {
			t.Errorf("no stream has the subjects flashgate.%s.>", kind[1])
		}
	}
}
