package houserules_test

import (
	"go/ast"
	"testing"
)

// TestExportedNamesAreExplained asks every exported type, function, method, constant and
// variable for a doc comment. One comment may serve a group, and the line's own will do.
func TestExportedNamesAreExplained(t *testing.T) {
	for _, f := range sources(t) {
		if f.tests || f.ast.Name.Name == "main" {
			continue
		}
		for _, decl := range f.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
					t.Errorf("%s: %s has no doc comment", f.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				if d.Doc == nil {
					unexplained(t, f, d)
				}
			}
		}
	}
}

// exportedReceiver reports whether a function can be named from outside.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	name := rootOf(d.Recv.List[0].Type)
	return name != nil && name.IsExported()
}

// unexplained finds names in a declaration that has no comment of its own.
func unexplained(t *testing.T, f *file, d *ast.GenDecl) {
	t.Helper()
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil {
				t.Errorf("%s: %s has no doc comment", f.at(s), s.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && s.Doc == nil && s.Comment == nil {
					t.Errorf("%s: %s has no doc comment", f.at(name), name.Name)
				}
			}
		}
	}
}
