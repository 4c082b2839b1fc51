package houserules_test

import (
	"bytes"
	"go/ast"
	"strings"
	"testing"
)

// TestGoroutinesAreWatched asks every package that starts goroutines to look for
// leaks in its tests.
func TestGoroutinesAreWatched(t *testing.T) {
	starts := map[string]string{}
	watched := map[string]bool{}
	for _, f := range sources(t) {
		if f.tests {
			looks := bytes.Contains(f.text, []byte("goleak.")) || bytes.Contains(f.text, []byte("testenv.Main("))
			watched[f.dir()] = watched[f.dir()] || looks
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				starts[f.dir()] = f.at(n)
			} else if groupOf(n, "Go", 1) != "" {
				starts[f.dir()] = f.at(n)
			}
			return true
		})
	}
	for dir, where := range starts {
		if !watched[dir] {
			t.Errorf("%s starts a goroutine, and no test of %s uses goleak", where, dir)
		}
	}
}

// TestGoroutinesAreJoined asks for an owner who waits for each goroutine of the product:
// it is started by a WaitGroup or an errgroup of that package, which waits for the group.
// The one goroutine that a deadline cuts off is a stage's, and runStages says so.
func TestGoroutinesAreJoined(t *testing.T) {
	waited := map[string]bool{}   // directory and group -> somebody waits for it
	starts := map[string]string{} // directory and group -> where it starts one
	for _, f := range sources(t) {
		if f.tests || strings.HasPrefix(f.path, "internal/testenv/") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok && f.path != "internal/app/stages.go" {
				t.Errorf("%s: start it with the Go of a group that its owner waits for", f.at(n))
			}
			if name := groupOf(n, "Go", 1); name != "" {
				starts[f.dir()+" "+name] = f.at(n)
			}
			if name := groupOf(n, "Wait", 0); name != "" {
				waited[f.dir()+" "+name] = true
			}
			return true
		})
	}
	for group, where := range starts {
		if !waited[group] {
			t.Errorf("%s: nobody waits for the group of this goroutine", where)
		}
	}
}

// groupOf is the last name of x in a call x.method(...) with so many arguments.
func groupOf(n ast.Node, method string, args int) string {
	call, ok := n.(*ast.CallExpr)
	if !ok || len(call.Args) != args {
		return ""
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != method {
		return ""
	}
	switch x := selector.X.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	}
	return ""
}
