package fairlead_test

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// goFile is one parsed Go file of the module.
type goFile struct {
	name      string // from the root, with slashes
	dir       string // the package, "." for the root
	source    []byte
	ast       *ast.File
	fset      *token.FileSet
	imports   []string
	isTest    bool
	external  bool // a test of package x_test, which uses x as others do
	generated bool
}

// at returns "file:line" for messages.
func (f *goFile) at(pos token.Pos) string {
	return f.name + ":" + strconv.Itoa(f.fset.Position(pos).Line)
}

// importName returns what file-level code calls the package with this import path,
// or "" if the file does not import it.
func (f *goFile) importName(importPath string) string {
	for _, spec := range f.ast.Imports {
		if p, _ := strconv.Unquote(spec.Path.Value); p == importPath {
			if spec.Name != nil {
				return spec.Name.Name
			}
			return path.Base(importPath)
		}
	}
	return ""
}

// selectors calls visit for each pkg.Name in the file, for the package with this
// import path.
func (f *goFile) selectors(importPath string, visit func(pos token.Pos, name string)) {
	pkg := f.importName(importPath)
	if pkg == "" {
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == pkg {
				visit(sel.Pos(), sel.Sel.Name)
			}
		}
		return true
	})
}

// module is the path in go.mod.
var module = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(strings.TrimPrefix(first, "module ")), nil
})

// goFiles parses every Go file of the module, once for all tests.
func goFiles(t *testing.T) []*goFile {
	t.Helper()
	files, err := parseTree()
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

var parseTree = sync.OnceValues(func() ([]*goFile, error) {
	var files []*goFile
	fset := token.NewFileSet()
	err := walk(func(name string) error {
		if path.Ext(name) != ".go" {
			return nil
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, name, source, parser.ParseComments)
		if err != nil {
			return err
		}
		file := &goFile{
			name: name, dir: path.Dir(name), source: source, ast: parsed, fset: fset,
			isTest:    strings.HasSuffix(name, "_test.go"),
			external:  strings.HasSuffix(parsed.Name.Name, "_test"),
			generated: ast.IsGenerated(parsed),
		}
		for _, spec := range parsed.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			file.imports = append(file.imports, p)
		}
		files = append(files, file)
		return nil
	})
	return files, err
})

// walk visits every file of the module that belongs to the project: not what git
// ignores or keeps for itself, nor other modules inside.
func walk(visit func(name string) error) error {
	ignored := ignoredNames()
	return filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		base := path.Base(name)
		if name == "." {
			return nil
		}
		if ignored[base] || base == ".git" {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.IsDir() {
			if !entry.Type().IsRegular() {
				return nil
			}
			return visit(name)
		}
		if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
			return filepath.SkipDir
		}
		if base == "testdata" || base == "node_modules" || strings.HasPrefix(base, "_") {
			return filepath.SkipDir
		}
		return nil
	})
}

// ignoredNames returns the plain names in .gitignore.
func ignoredNames() map[string]bool {
	names := map[string]bool{}
	file, err := os.Open(".gitignore")
	if err != nil {
		return names
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name := strings.Trim(strings.TrimSpace(lines.Text()), "/")
		if name != "" && !strings.ContainsAny(name, "#*!/") {
			names[name] = true
		}
	}
	return names
}
