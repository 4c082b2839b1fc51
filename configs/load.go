package configs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	yamlv3 "go.yaml.in/yaml/v3"
)

const (
	envPrefix  = "FLASHGATE_"
	fileSuffix = "_file"
	// A secret or a configuration larger than this is a wrong path, not a file of ours.
	maxFileSize = 1 << 20
)

// Load reads the configuration of a gateway in production: the defaults of Serve,
// over them the YAML file (path "" = none), over that the environment (as of
// os.Environ). It refuses what cannot be read: unknown keys, wrong types, a secret
// given twice. All problems are reported, one line each. Whether the values make
// sense is Validate's to say.
func Load(path string, environ []string) (Config, error) {
	return LoadOver(Default(Serve), path, environ)
}

// LoadOver is Load over other defaults than Serve's.
func LoadOver(base Config, path string, environ []string) (Config, error) {
	l := loader{config: base, given: map[string]bool{}}
	l.leaves = leavesOf(&l.config)
	if path != "" {
		l.file(path)
	}
	l.environ(environ)
	l.derive()
	return l.config, errors.Join(l.problems...)
}

// Check is Load and Validate in one, over the mode's defaults: what `config check`
// and every start do. The configuration is returned even where it is refused.
func Check(mode Mode, path string, environ []string) (Config, error) {
	c, err := LoadOver(Default(mode), path, environ)
	return c, errors.Join(err, c.Validate(mode))
}

type loader struct {
	config   Config
	leaves   []leaf
	given    map[string]bool // keys that the file or the environment gave
	problems []error
}

func (l *loader) problem(format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf(format, args...))
}

func (l *loader) file(path string) {
	text, err := readFile(path)
	if err != nil {
		l.problem("configuration: %w", err)
		return
	}
	// koanf flattens the document, so that every value has one key with dots.
	k := koanf.New(".")
	if err := k.Load(rawbytes.Provider([]byte(text)), yaml.Parser()); err != nil {
		l.problem("%s: %s", path, redactYAML(oneLine(err.Error())))
		return
	}
	// What follows a second "---" would be passed over in silence.
	d := yamlv3.NewDecoder(strings.NewReader(text))
	var first, second yamlv3.Node
	if d.Decode(&first) == nil && d.Decode(&second) == nil {
		l.problem("%s: holds more than one YAML document", path)
	}
	l.apply(k.All(), func(key string) string { return key })
}

func (l *loader) environ(environ []string) {
	read := env.Provider("", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			key := keyOfEnv(name)
			if !l.meant(key) {
				l.config.foreign = append(l.config.foreign, name)
				return "", nil
			}
			return key, value
		},
	})
	values, err := read.Read()
	if err != nil {
		l.problem("environment: %w", err)
		return
	}
	l.apply(values, envOfKey)
}

// meant reports whether an environment variable is a setting, if perhaps a misspelt one: it
// names a key or a section, something below a section, or nearly a key. Others begin with
// our prefix by accident, as those that Kubernetes makes for services named flashgate or
// flashgate-redis (FLASHGATE_REDIS_MASTER_PORT); they must not stop the start.
func (l *loader) meant(key string) bool {
	section, _, below := strings.Cut(key, ".")
	if _, ok := l.find(strings.TrimSuffix(key, fileSuffix)); ok || l.isSection(key) {
		return true
	}
	return below && l.isSection(section) || l.hint(key, envOfKey) != ""
}

func keyOfEnv(name string) string {
	path := strings.TrimPrefix(name, envPrefix)
	if path != strings.ToUpper(path) {
		return path // not our spelling: reported as unknown under its own name
	}
	return strings.ReplaceAll(strings.ToLower(path), "__", ".")
}

func envOfKey(key string) string {
	return envPrefix + strings.ReplaceAll(strings.ToUpper(key), ".", "__")
}

// apply sets the values of one source. spell is how the source writes a key.
func (l *loader) apply(values map[string]any, spell func(string) string) {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys) // so that problems come in the same order every time
	for _, key := range keys {
		value := values[key]
		if leaf, ok := l.find(key); ok {
			if err := leaf.set(value); err != nil {
				l.problem("%s: %w", spell(key), err)
			}
			l.given[key] = true
			continue
		}
		if leaf, ok := l.find(strings.TrimSuffix(key, fileSuffix)); ok && leaf.secret == secretValue && strings.HasSuffix(key, fileSuffix) {
			if _, twice := values[leaf.key]; twice {
				l.problem("%s: %s is given too; give one of them", spell(key), spell(leaf.key))
				continue
			}
			if err := leaf.setFromFile(value); err != nil {
				l.problem("%s: %w", spell(key), err)
			}
			l.given[leaf.key] = true
			continue
		}
		switch {
		case !l.isSection(key):
			l.problem("%s: no such key%s", spell(key), l.hint(key, spell))
		case !emptySection(value):
			l.problem("%s: is a section of keys and cannot have a value of its own", spell(key))
		}
	}
}

func (l *loader) find(key string) (leaf, bool) {
	i := slices.IndexFunc(l.leaves, func(f leaf) bool { return f.key == key })
	if i < 0 {
		return leaf{}, false
	}
	return l.leaves[i], true
}

func (l *loader) isSection(key string) bool {
	return slices.ContainsFunc(l.leaves, func(f leaf) bool { return strings.HasPrefix(f.key, key+".") })
}

func emptySection(value any) bool {
	m, ok := value.(map[string]any)
	return value == nil || (ok && len(m) == 0)
}

// hint names the key that was probably meant: one underscore where the environment
// needs two is the mistake that everybody makes once.
func (l *loader) hint(key string, spell func(string) string) string {
	flat := func(s string) string {
		return strings.NewReplacer(".", "", "_", "", "-", "").Replace(strings.ToLower(s))
	}
	for _, f := range l.leaves {
		if flat(f.key) == flat(key) || (strings.Contains(f.key, ".") && f.key[strings.LastIndexByte(f.key, '.')+1:] == key) {
			return "; did you mean " + spell(f.key) + "?"
		}
	}
	return ""
}

// derive adapts what was not given to what was.
func (l *loader) derive() {
	c := &l.config
	if !l.given["queue.max_batch"] {
		c.Queue.MaxBatch = max(1, min(c.Queue.MaxBatch, c.Queue.Capacity))
	}
	if !l.given["reconcile.grace"] {
		c.Reconcile.Grace = c.usualGrace()
	}
	c.Server.Wait = min(c.Server.Wait, c.Queue.MaxAge)
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(b) > maxFileSize {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFileSize)
	}
	return string(b), err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// leavesOf lists every key of the configuration with the place of its value.
func leavesOf(c *Config) []leaf {
	var leaves []leaf
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !field.IsExported() {
				continue // nobody's to set
			}
			key := path + field.Tag.Get("yaml")
			if field.Type.Kind() == reflect.Struct {
				walk(v.Field(i), key+".")
				continue
			}
			leaves = append(leaves, leaf{key: key, secret: field.Tag.Get("secret"), value: v.Field(i)})
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return leaves
}
