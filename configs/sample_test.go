package configs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	yaml "go.yaml.in/yaml/v3"

	"flashgate/configs"
)

// keysOf lists the keys of a YAML document, each with its value's text.
func keysOf(t *testing.T, text []byte) map[string]string {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]string)
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		if n.Kind != yaml.MappingNode {
			keys[path] = n.Value
			return
		}
		for i := 0; i < len(n.Content); i += 2 {
			walk(n.Content[i+1], strings.TrimPrefix(path+"."+n.Content[i].Value, "."))
		}
	}
	walk(document.Content[0], "")
	return keys
}

func TestSampleIsCompleteAndTellsTheDefaults(t *testing.T) {
	// As it is shipped, it has no secrets, and serve needs some: a line for each.
	_, err := configs.Check(configs.Serve, "flashgate.yaml", nil)
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "admin.key: is needed") || !strings.Contains(err.Error(), "auth.jwt: secret or public_key_file is needed") {
		t.Errorf("the sample as it is: %v", err)
	}
	c, err := configs.Check(configs.Serve, "flashgate.yaml", []string{"FLASHGATE_ADMIN__KEY=0123456789abcdef", "FLASHGATE_AUTH__JWT__SECRET=0123456789abcdef0123456789abcdef"})
	if err != nil {
		t.Fatalf("the sample is refused:\n%v", err)
	}
	// What the sample must give because there is no default, or shows by example.
	c.Admin.Key, c.Auth.JWT.Secret, c.Ledger.DSN, c.NATS.URL = "", "", "", ""
	c.Redis.Addrs, c.Server.TrustedProxies = nil, nil
	c.Payments.WebhookSecrets = nil
	if want := configs.Default(configs.Serve); !reflect.DeepEqual(c, want) {
		t.Errorf("the sample differs from the defaults:\n%s\nwant\n%s", c.Print(false), want.Print(false))
	}

	sample, err := os.ReadFile("flashgate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	given := keysOf(t, sample)
	for key := range keysOf(t, configs.Default(configs.Serve).Print(true)) {
		// Of two keys that exclude each other one stands in a comment.
		if _, ok := given[key]; !ok && key != "auth.jwt.public_key" {
			t.Errorf("the sample does not give %s", key)
		}
	}
	if !strings.Contains(string(sample), "# public_key_file:") {
		t.Error("the sample does not mention auth.jwt.public_key_file")
	}
}

// TestFilesNameKeysThatExist: whatever the files beside the sample, and the sample's
// comments, call by the path of a key.
func TestFilesNameKeysThatExist(t *testing.T) {
	keys := keysOf(t, configs.Default(configs.Serve).Print(true))
	sections := make(map[string]bool)
	for key := range keys {
		if section, _, ok := strings.Cut(key, "."); ok {
			sections[section] = true
		}
	}
	path := regexp.MustCompile(`\b([a-z]+)((?:\.[a-z_]+)+)\b`)
	for _, name := range []string{"flashgate.yaml", "haproxy.cfg", "prometheus.yml", "alerts.yml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range path.FindAllStringSubmatch(string(text), -1) {
			if _, ok := keys[m[0]]; sections[m[1]] && !ok {
				t.Errorf("%s names %s, which is no key", name, m[0])
			}
		}
	}
}

// TestAlertsWatchMetricsThatExist looks for the names in the sources of all packages.
func TestAlertsWatchMetricsThatExist(t *testing.T) {
	metric := regexp.MustCompile(`flashgate_[a-z_]+`)
	exist := make(map[string]bool)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, name := range regexp.MustCompile(`"(flashgate_[a-z_]+)"`).FindAllSubmatch(text, -1) {
			exist[string(name[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := os.ReadFile("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	names := metric.FindAllString(string(alerts), -1)
	if len(names) == 0 {
		t.Error("the alerts watch nothing")
	}
	for _, name := range names {
		if base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, ""); !exist[name] && !exist[base] {
			t.Errorf("the alerts watch %s, which is no metric", name)
		}
	}
}
