package houserules_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestGuaranteesNameTheirTests holds docs/GUARANTEES.md to tests that exist, at least
// one for each promise.
func TestGuaranteesNameTheirTests(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "GUARANTEES.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, f := range sources(t) {
		if f.tests {
			for _, m := range function.FindAllSubmatch(f.text, -1) {
				declared[f.dir()+"."+string(m[1])] = true
			}
		}
	}
	name := regexp.MustCompile("`([a-z/]+\\.(?:Test|Fuzz)\\w+)`")
	promises := map[string]int{}
	for section := range strings.SplitSeq(string(text), "\n## ") {
		named := name.FindAllStringSubmatch(section, -1)
		for _, m := range named {
			if !declared[m[1]] {
				t.Errorf("docs/GUARANTEES.md names %s, which does not exist", m[1])
			}
		}
		title, _, _ := strings.Cut(section, " ")
		promises[title] += len(named)
	}
	for i := 1; i <= 8; i++ {
		if g := fmt.Sprintf("G%d", i); promises[g] == 0 {
			t.Errorf("docs/GUARANTEES.md names no test that shows %s", g)
		}
	}
}
