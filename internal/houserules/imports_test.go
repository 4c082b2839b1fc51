// Package houserules holds the rules of this repository that no compiler checks, as
// tests over its own source.
package houserules_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "flashgate"

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath   string
	Name         string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// packages lists every package of the module.
func packages(t *testing.T) []listed {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "./...")
	list.Dir = root(t)
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// within reports whether an import path is the package path or below it.
func within(path, pkg string) bool { return path == pkg || strings.HasPrefix(path, pkg+"/") }

func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") && first != module
}

// TestDependencies holds the packages apart: the domain knows nobody, everybody knows
// the domain, and only internal/app joins them, which only the root imports.
func TestDependencies(t *testing.T) {
	for _, p := range packages(t) {
		for _, path := range p.Imports {
			if p.ImportPath == module+"/sale" && !standard(path) {
				t.Errorf("%s imports %s; the domain imports the standard library only", p.ImportPath, path)
			}
			if p.ImportPath == module+"/configs" && within(path, module) {
				t.Errorf("%s imports %s; the configuration is plain data", p.ImportPath, path)
			}
			if within(path, module+"/internal/testenv") && !within(p.ImportPath, module+"/internal") && !within(p.ImportPath, module+"/loadtest") {
				t.Errorf("%s imports %s outside of its tests", p.ImportPath, path)
			}
		}
		const joins = module + "/internal/app"
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if path == joins && p.ImportPath != module {
				t.Errorf("%s imports %s; nobody but the root does", p.ImportPath, path)
			}
			ours := within(path, module) && path != p.ImportPath
			if ours && path != module+"/sale" && !within(path, module+"/internal") && !within(path, p.ImportPath) && p.ImportPath != joins {
				t.Errorf("%s imports %s; only internal/app imports more than sale and internal: declare the interface that is needed", p.ImportPath, path)
			}
		}
	}
}

// TestOwners holds each dependency to the package that owns it, so that what is behind
// it can be replaced, and faked, at one seam.
func TestOwners(t *testing.T) {
	owners := []struct {
		what, path string
		product    []string // packages whose product code may import it
		tests      []string // packages whose tests may besides
	}{
		{"the Redis client", "github.com/redis/go-redis", []string{"deduct", "lock"}, nil},
		{"the embedded Redis", "github.com/alicebob/miniredis", []string{"deduct"}, []string{"lock"}},
		{"NATS", "github.com/nats-io", []string{"results"}, nil},
		{"SQL", "database/sql", []string{"ledger", "ledger/dialect"}, nil},
		{"the MySQL driver", "github.com/go-sql-driver", []string{"ledger/dialect"}, []string{"ledger"}},
		{"the SQLite driver", "modernc.org/sqlite", []string{"ledger/dialect"}, []string{"ledger"}},
		{"the migrations", "github.com/pressly/goose", []string{"ledger"}, nil},
		{"Fiber", "github.com/gofiber", []string{"gateway", "dashboard"}, nil},
		{"fasthttp", "github.com/valyala/fasthttp", []string{"gateway", "dashboard"}, nil},
		{"the command line", "github.com/alecthomas/kong", []string{"internal/app"}, nil},
		{"the configuration's reader", "github.com/knadh/koanf", []string{"configs"}, nil},
	}
	for _, p := range packages(t) {
		// The load generator and the strategy lab talk to everything from outside.
		if within(p.ImportPath, module+"/internal/testenv") || within(p.ImportPath, module+"/loadtest") {
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, o := range owners {
			check := func(imports, allowed []string, where string) {
				if i := slices.IndexFunc(imports, func(path string) bool { return within(path, o.path) || strings.HasPrefix(path, o.path+"@") }); i >= 0 && !slices.Contains(allowed, name) {
					t.Errorf("%s imports %s%s; %s belongs to %v", p.ImportPath, imports[i], where, o.what, o.product)
				}
			}
			check(p.Imports, o.product, "")
			check(slices.Concat(p.TestImports, p.XTestImports), slices.Concat(o.product, o.tests), " in its tests")
		}
	}
}
