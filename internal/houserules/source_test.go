package houserules_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// maxLines is of a file, tests too.
const maxLines = 450

// file is one parsed Go file of the repository.
type file struct {
	path  string // from the root, with slashes
	text  []byte
	set   *token.FileSet
	ast   *ast.File
	tests bool
}

func (f *file) at(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.set.Position(n.Pos()).Line)
}

func (f *file) dir() string { return filepath.ToSlash(filepath.Dir(f.path)) }

func (f *file) imports(path string) bool {
	return slices.ContainsFunc(f.ast.Imports, func(s *ast.ImportSpec) bool { return s.Path.Value == strconv.Quote(path) })
}

// sources parses every Go file of the repository.
func sources(t *testing.T) []*file {
	t.Helper()
	base := root(t)
	var files []*file
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && path != base
		if d.IsDir() && (hidden || d.Name() == "testdata" || d.Name() == "vendor" || d.Name() == "data") {
			return filepath.SkipDir
		}
		if d.IsDir() || hidden || filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(base, path)
		files = append(files, &file{filepath.ToSlash(name), text, set, parsed, strings.HasSuffix(path, "_test.go")})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestSource(t *testing.T) {
	vague := regexp.MustCompile(`(^|_)(utils?|types|common|helpers?|misc)(_test)?\.go$`)
	later := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	for _, f := range sources(t) {
		if vague.MatchString(filepath.Base(f.path)) {
			t.Errorf("%s: files are named for the noun inside", f.path)
		}
		if n := bytes.Count(f.text, []byte("\n")); n > maxLines && !ast.IsGenerated(f.ast) {
			t.Errorf("%s has %d lines; above %d it is more than one thing", f.path, n, maxLines)
		}
		for _, group := range f.ast.Comments {
			if later.MatchString(group.Text()) && !strings.Contains(f.path, "houserules") {
				t.Errorf("%s: unfinished business belongs in an issue, not in a comment", f.at(group))
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool { look(t, f, n); return true })
	}
}

// look checks the rules that one node of the tree can break.
func look(t *testing.T, f *file, n ast.Node) {
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Name.Name == "init" && n.Recv == nil {
			t.Errorf("%s: no init(): what happens at import cannot be ordered, configured or tested", f.at(n))
		}
	case *ast.InterfaceType:
		if n.Methods.NumFields() == 0 {
			t.Errorf("%s: write any, not interface{}", f.at(n))
		}
	case *ast.CallExpr:
		// A test inside a synctest bubble sleeps on a clock that costs no time.
		if f.tests && isCall(n, "time", "Sleep") && !f.imports("testing/synctest") {
			t.Errorf("%s: a test that sleeps is slow or flaky; poll with a deadline or use testing/synctest", f.at(n))
		}
		product := !f.tests && !strings.HasPrefix(f.path, "internal/testenv/")
		if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "panic" && product && len(n.Args) == 1 {
			if text, ok := n.Args[0].(*ast.BasicLit); ok && text.Kind == token.STRING {
				t.Errorf("%s: product code returns errors", f.at(n))
			}
		}
	}
}

func isCall(n *ast.CallExpr, pkg, name string) bool {
	selector, ok := n.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// TestNoGlobals finds package variables that can change: those without a value, those
// made to be filled, and those that some function assigns to.
func TestNoGlobals(t *testing.T) {
	globals := map[string]map[string]string{} // directory -> name -> where
	files := sources(t)
	// What a test binary's own tests share has to live somewhere.
	exempt := func(f *file) bool { return f.tests || strings.HasPrefix(f.path, "internal/testenv/") }
	for _, f := range files {
		if exempt(f) {
			continue
		}
		for _, decl := range f.ast.Decls {
			vars, ok := decl.(*ast.GenDecl)
			if !ok || vars.Tok != token.VAR {
				continue
			}
			for _, spec := range vars.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					if name.Name == "_" {
						continue
					}
					if globals[f.dir()] == nil {
						globals[f.dir()] = map[string]string{}
					}
					globals[f.dir()][name.Name] = f.at(name)
					embedded := hasEmbed(vars.Doc) || hasEmbed(v.Doc)
					if len(v.Values) <= i && !embedded {
						t.Errorf("%s: the package variable %s has no value, so somebody must set it", f.at(name), name.Name)
					} else if len(v.Values) > i && madeToBeFilled(v.Values[i]) {
						t.Errorf("%s: the package variable %s is made to be filled", f.at(name), name.Name)
					}
				}
			}
		}
	}
	for _, f := range files {
		if exempt(f) {
			continue
		}
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
				assigned(fn, func(target *ast.Ident) {
					if where, ok := globals[f.dir()][target.Name]; ok {
						t.Errorf("%s: the package variable %s (%s) is changed", f.at(target), target.Name, where)
					}
				})
			}
		}
	}
}

// hasEmbed looks for the directive, which Text leaves out.
func hasEmbed(g *ast.CommentGroup) bool {
	return g != nil && slices.ContainsFunc(g.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed") })
}

func madeToBeFilled(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	name, ok := call.Fun.(*ast.Ident)
	return ok && (name.Name == "make" || name.Name == "new")
}

// assigned calls found for the root of everything that fn assigns to and does not
// declare itself.
func assigned(fn *ast.FuncDecl, found func(*ast.Ident)) {
	local := map[string]bool{}
	declare := func(fields *ast.FieldList) {
		if fields == nil {
			return
		}
		for _, field := range fields.List {
			for _, name := range field.Names {
				local[name.Name] = true
			}
		}
	}
	declare(fn.Recv)
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			declare(n.Params)
			declare(n.Results)
		case *ast.ValueSpec:
			for _, name := range n.Names {
				local[name.Name] = true
			}
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				if name, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					local[name.Name] = true
				}
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if name, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					local[name.Name] = true
				}
			}
		}
		return true
	})
	check := func(e ast.Expr) {
		if name := rootOf(e); name != nil && !local[name.Name] {
			found(name)
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, e := range n.Lhs {
					check(e)
				}
			}
		case *ast.IncDecStmt:
			check(n.X)
		}
		return true
	})
}

func rootOf(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}
