package tailnet

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// No type of the packet engine or of the TCP stack crosses the package's border: an
// exported declaration must not name an identifier of their packages.
func TestNoForeignTypeCrossesTheBorder(t *testing.T) {
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	seen := 0
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		foreign := foreignImports(file)
		for _, decl := range file.Decls {
			for _, typ := range exportedTypes(decl) {
				seen++
				ast.Inspect(typ, func(n ast.Node) bool {
					if sel, ok := n.(*ast.SelectorExpr); ok {
						if pkg, ok := sel.X.(*ast.Ident); ok {
							require.NotContains(t, foreign, pkg.Name, "%s: %s.%s", name, pkg.Name, sel.Sel.Name)
						}
					}
					return true
				})
			}
		}
	}
	require.Greater(t, seen, 20, "the test must have found the API")
}

// foreignImports returns the local names of imports from the engine and the stack.
func foreignImports(file *ast.File) map[string]string {
	names := map[string]string{}
	for _, imp := range file.Imports {
		path := strings.Trim(imp.Path.Value, `"`)
		for _, prefix := range []string{"tailscale.com/", "gvisor.dev/", "github.com/tailscale/", "go4.org/"} {
			if !strings.HasPrefix(path, prefix) {
				continue
			}
			name := path[strings.LastIndex(path, "/")+1:]
			if imp.Name != nil {
				name = imp.Name.Name
			}
			names[name] = path
		}
	}
	return names
}

// exportedTypes returns what a user of the package can see of a declaration.
func exportedTypes(decl ast.Decl) (out []ast.Node) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || exportedReceiver(d.Recv)) {
			out = append(out, d.Type)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					out = append(out, exportedParts(s.Type)...)
				}
			case *ast.ValueSpec:
				if s.Names[0].IsExported() && s.Type != nil {
					out = append(out, s.Type)
				}
			}
		}
	}
	return out
}

func exportedReceiver(recv *ast.FieldList) bool {
	typ := recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

// exportedParts leaves out the unexported fields of a struct.
func exportedParts(typ ast.Expr) (out []ast.Node) {
	s, ok := typ.(*ast.StructType)
	if !ok {
		return []ast.Node{typ}
	}
	for _, field := range s.Fields.List {
		if len(field.Names) == 0 || field.Names[0].IsExported() {
			out = append(out, field.Type)
		}
	}
	return out
}

func TestEngineLogIsBounded(t *testing.T) {
	var out bytes.Buffer
	l := newEngineLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for range 10 * engineLogBurst {
		l.logf("line %d\x1b[31m", 1)
	}
	lines := strings.Count(out.String(), "\n")
	require.InDelta(t, engineLogBurst, lines, engineLogBurst/10)
	require.NotContains(t, out.String(), "\x1b")
	require.Contains(t, out.String(), `msg="packet engine"`)
	require.Positive(t, l.dropped.Load())

	out.Reset()
	quiet := newEngineLog(slog.New(slog.NewTextHandler(&out, nil)))
	quiet.logf("line")
	require.Empty(t, out.String())
}
