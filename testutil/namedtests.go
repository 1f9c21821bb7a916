package testutil

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)\\w+)`")

// PageNamesItsTests fails t if a line of a page that promises something names no test, as
// `package.TestName` with the package's path from root, or if a test that the page names
// does not exist. The page's path is from root too.
func PageNamesItsTests(t *testing.T, root, page string, promises func(line string) bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if promises(line) && !namedTest.MatchString(line) {
			t.Errorf("%s: this names no test: %s", page, line)
		}
	}
	exists := map[string]map[string]bool{}
	for _, name := range namedTest.FindAllStringSubmatch(string(text), -1) {
		if exists[name[1]] == nil {
			exists[name[1]] = testsOf(t, filepath.Join(root, name[1]))
		}
		if !exists[name[1]][name[2]] {
			t.Errorf("%s names %s of package %s, which does not exist", page, name[2], name[1])
		}
	}
}

// testsOf returns the names of the tests and fuzz targets in a package's directory.
func testsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}
