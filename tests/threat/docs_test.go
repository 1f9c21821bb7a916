package threat

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var namedTest = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)\\w+)`")

// TestSecurityPageNamesItsTests: every sentence of docs/security.md that promises
// something, each of them a list item, names tests, and every test named exists.
func TestSecurityPageNamesItsTests(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	require.NoError(t, err)
	for line := range strings.Lines(string(page)) {
		unprotected := strings.Contains(line, "there is no protection")
		if strings.HasPrefix(line, "- ") && !unprotected && !namedTest.MatchString(line) {
			t.Errorf("this promise names no test: %s", line)
		}
	}
	exists := map[string]map[string]bool{}
	for _, name := range namedTest.FindAllStringSubmatch(string(page), -1) {
		if exists[name[1]] == nil {
			exists[name[1]] = testsOf(t, name[1])
		}
		if !exists[name[1]][name[2]] {
			t.Errorf("docs/security.md names %s of package %s, which does not exist", name[2], name[1])
		}
	}
}

// testsOf returns the names of a package's tests and fuzz targets.
func testsOf(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
	require.NoError(t, err)
	names := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}
