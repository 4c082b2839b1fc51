package houserules_test

import (
	"bytes"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The kinds of names that the documents put between backticks.
var (
	quoted    = regexp.MustCompile("`([^`\n]+)`")
	pathName  = regexp.MustCompile(`^[\w.-]+(/[\w.-]+)*(\.(go|md|sh|sql|lua|yaml|yml|cfg)|/)$`)
	goName    = regexp.MustCompile(`^([a-z]+(?:/[a-z]+)*)\.([A-Za-z]\w*)(?:\.(\w+))?(?:\(\))?$`)
	keyName   = regexp.MustCompile(`^[a-z]+(\.[a-z_]+)+$`)
	metric    = regexp.MustCompile(`^flashgate_[a-z_]+$`)
	makeName  = regexp.MustCompile(`^make ([a-z-]+)$`)
	makeRules = regexp.MustCompile(`(?m)^([a-z-]+):`)
)

// TestDocumentsNameWhatExists holds the documents to the code: what stands between
// backticks and looks like a file, a Go name, a configuration key, a metric or a make
// target is one.
func TestDocumentsNameWhatExists(t *testing.T) {
	k := known(t)
	for _, doc := range []string{"docs/ARCHITECTURE.md", "docs/GUARANTEES.md", "docs/CONTAINMENT.md"} {
		text, err := os.ReadFile(filepath.Join(root(t), doc))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				if !k.has(t, m[1]) {
					t.Errorf("%s:%d names %s, which does not exist", doc, i+1, m[1])
				}
			}
		}
	}
}

// knowledge is what the repository has.
type knowledge struct {
	packages map[string]bool // directories with Go files
	names    map[string]bool // dir.Name, and dir.Type.Member
	keys     map[string]bool // of the configuration
	text     []byte          // all Go text, for metrics
	targets  map[string]bool
}

func (k *knowledge) has(t *testing.T, name string) bool {
	t.Helper()
	switch {
	case pathName.MatchString(name):
		_, err := os.Stat(filepath.Join(root(t), filepath.FromSlash(name)))
		return err == nil
	case metric.MatchString(name):
		return bytes.Contains(k.text, []byte(`"`+name+`"`))
	case makeName.MatchString(name):
		return k.targets[makeName.FindStringSubmatch(name)[1]]
	case goName.MatchString(name) && k.packages[goName.FindStringSubmatch(name)[1]]:
		return k.names[strings.TrimSuffix(name, "()")] || k.keys[name]
	case keyName.MatchString(name) && k.keys[strings.SplitN(name, ".", 2)[0]]:
		return k.keys[name]
	}
	return true // none of these kinds
}

func known(t *testing.T) *knowledge {
	t.Helper()
	k := &knowledge{packages: map[string]bool{}, names: map[string]bool{}, keys: map[string]bool{}, targets: map[string]bool{}}
	for _, f := range sources(t) {
		dir := f.dir()
		k.packages[dir] = true
		k.text = append(k.text, f.text...)
		for _, decl := range f.ast.Decls {
			k.declare(dir, decl)
		}
	}
	sample, err := os.ReadFile(filepath.Join(root(t), "configs", "flashgate.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := yaml.Unmarshal(sample, &keys); err != nil {
		t.Fatal(err)
	}
	k.addKeys("", keys)
	rules, err := os.ReadFile(filepath.Join(root(t), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range makeRules.FindAllSubmatch(rules, -1) {
		k.targets[string(m[1])] = true
	}
	return k
}

func (k *knowledge) declare(dir string, decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			k.names[dir+"."+d.Name.Name] = true
		} else if of := rootOf(d.Recv.List[0].Type); of != nil {
			k.names[dir+"."+of.Name+"."+d.Name.Name] = true
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, name := range s.Names {
					k.names[dir+"."+name.Name] = true
				}
			case *ast.TypeSpec:
				k.names[dir+"."+s.Name.Name] = d.Tok == token.TYPE
				k.declareMembers(dir+"."+s.Name.Name, s.Type)
			}
		}
	}
}

// declareMembers notes a type's fields, or an interface's methods.
func (k *knowledge) declareMembers(of string, expr ast.Expr) {
	var fields *ast.FieldList
	switch x := expr.(type) {
	case *ast.StructType:
		fields = x.Fields
	case *ast.InterfaceType:
		fields = x.Methods
	default:
		return
	}
	for _, field := range fields.List {
		for _, name := range field.Names {
			k.names[of+"."+name.Name] = true
		}
	}
}

func (k *knowledge) addKeys(prefix string, keys map[string]any) {
	for name, value := range keys {
		k.keys[prefix+name] = true
		if inner, ok := value.(map[string]any); ok {
			k.addKeys(prefix+name+".", inner)
		}
	}
}
