package configs

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Print is the whole configuration as YAML, in the order of its documentation. With
// redact, secrets that are set are shown as such and not told; without, Load reads
// the very same configuration back.
func (c Config) Print(redact bool) []byte {
	var out strings.Builder
	var open []string // the sections that the last line stood in
	for _, f := range leavesOf(&c) {
		path := strings.Split(f.key, ".")
		sections := path[:len(path)-1]
		same := 0
		for same < len(open) && same < len(sections) && open[same] == sections[same] {
			same++
		}
		for i := same; i < len(sections); i++ {
			fmt.Fprintf(&out, "%s%s:\n", strings.Repeat("  ", i), sections[i])
		}
		open = sections
		fmt.Fprintf(&out, "%s%s: %s\n", strings.Repeat("  ", len(sections)), path[len(path)-1], scalar(f.plain(redact)))
	}
	return []byte(out.String())
}

// scalar writes a value on one line. JSON's texts, numbers and lists are YAML's.
func scalar(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return `""` // texts, finite numbers and lists of texts cannot fail to encode
	}
	return strings.TrimSuffix(b.String(), "\n")
}
