package fairlead_test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/testutil"
)

const maxFunctionLines = 100

// TestPackageDocs wants one package comment each: none leaves a reader without a
// map, and of two each says half.
func TestPackageDocs(t *testing.T) {
	docs := map[string][]string{}
	for _, file := range goFiles(t) {
		if file.isTest || strings.HasSuffix(file.name, ".pb.go") {
			continue
		}
		if docs[file.dir] == nil {
			docs[file.dir] = []string{}
		}
		if file.ast.Doc != nil {
			docs[file.dir] = append(docs[file.dir], file.name)
		}
	}
	for dir, in := range docs {
		if len(in) != 1 {
			t.Errorf("package %s has %d package comments, want exactly one: %v", dir, len(in), in)
		}
	}
}

func TestFunctionsAreShort(t *testing.T) {
	for _, file := range goFiles(t) {
		if file.isTest || file.generated {
			continue
		}
		for _, decl := range file.ast.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := file.fset.Position(fn.End()).Line - file.fset.Position(fn.Pos()).Line + 1
			if lines > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", file.at(fn.Pos()), fn.Name.Name, lines, maxFunctionLines)
			}
		}
	}
}

func TestPackageNames(t *testing.T) {
	for _, file := range goFiles(t) {
		switch name := strings.TrimSuffix(file.ast.Name.Name, "_test"); name {
		case "util", "utils", "common", "helper", "helpers", "types", "model", "models", "misc":
			t.Errorf("%s: package %s says nothing about what it holds", file.name, name)
		}
	}
}

func TestNoTestSleeps(t *testing.T) {
	for _, file := range goFiles(t) {
		_, forTests := testPackages[file.dir]
		if !file.isTest && (!forTests || file.dir == "tests/bench") { // which paces what it measures
			continue
		}
		file.selectors("time", func(pos token.Pos, name string) {
			if name == "Sleep" {
				t.Errorf("%s sleeps: wait for an event, or use testing/synctest and a timer", file.at(pos))
			}
		})
	}
}

func TestFormatted(t *testing.T) {
	for _, file := range goFiles(t) {
		formatted, err := format.Source(file.source)
		require.NoError(t, err, file.name)
		if !bytes.Equal(formatted, file.source) {
			t.Errorf("%s is not formatted: run gofmt -w %s", file.name, file.name)
		}
	}
}

var mutexComment = regexp.MustCompile(`\b(guards?|held|seriali[sz]es?)\b`)

// TestMutexesNameWhatTheyGuard looks at struct fields and package variables. A mutex
// that guards no fields but puts calls in order says so.
func TestMutexesNameWhatTheyGuard(t *testing.T) {
	for _, file := range goFiles(t) {
		if file.isTest || file.generated {
			continue
		}
		check := func(pos token.Pos, typ ast.Expr, comments ...*ast.CommentGroup) {
			sel, ok := typ.(*ast.SelectorExpr)
			if !ok || (sel.Sel.Name != "Mutex" && sel.Sel.Name != "RWMutex") {
				return
			}
			for _, c := range comments {
				if mutexComment.MatchString(c.Text()) {
					return
				}
			}
			t.Errorf("%s: say in a comment at the mutex what it guards", file.at(pos))
		}
		ast.Inspect(file.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, field := range n.Fields.List {
					check(field.Pos(), field.Type, field.Doc, field.Comment)
				}
			case *ast.GenDecl:
				for _, spec := range n.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						check(v.Pos(), v.Type, v.Doc, v.Comment, n.Doc)
					}
				}
			}
			return true
		})
	}
}

var snakeCase = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// TestLogKeys wants snake_case, and the five disconnect fields to come from an
// Attribution only, so that no site can write four of them.
func TestLogKeys(t *testing.T) {
	attribute := []string{"String", "Int", "Int64", "Uint64", "Float64", "Bool", "Time", "Duration", "Group", "Any"}
	five := []string{
		disconnect.KeyConnectType, disconnect.KeyReason, disconnect.KeyExpected,
		disconnect.KeyInitiator, disconnect.KeyDetail,
	}
	for _, file := range goFiles(t) {
		pkg := file.importName("log/slog")
		if file.isTest || file.dir == "disconnect" || pkg == "" {
			continue
		}
		ast.Inspect(file.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(attribute, sel.Sel.Name) {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); !ok || id.Name != pkg {
				return true
			}
			key, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				return true
			}
			word, _ := strconv.Unquote(key.Value)
			if !snakeCase.MatchString(word) {
				t.Errorf("%s: log key %q is not snake_case", file.at(key.Pos()), word)
			}
			if slices.Contains(five, word) {
				t.Errorf("%s: log the ending through disconnect.Attribution, not %q by hand", file.at(key.Pos()), word)
			}
			return true
		})
	}
}

var markdownLink = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)\s]*)?\)`)

func TestMarkdownLinksLeadSomewhere(t *testing.T) {
	require.NoError(t, walk(func(name string) error {
		if path.Ext(name) != ".md" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, link := range markdownLink.FindAllSubmatch(text, -1) {
			target := string(link[1])
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			if _, err := os.Stat(path.Join(path.Dir(name), target)); err != nil {
				t.Errorf("%s links to %s, which is not there", name, target)
			}
		}
		return nil
	}))
}

// TestTrapsHaveTests: every row of the tables of traps names tests, and they exist.
func TestTrapsHaveTests(t *testing.T) {
	testutil.PageNamesItsTests(t, ".", "docs/decisions/021-a-test-for-each-trap.md", func(line string) bool {
		return strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| trap |")
	})
}

// exampleHome is the only home that a page may show, or a test make up.
const exampleHome = "/home/ada/"

var anyHome = regexp.MustCompile(`/(home|Users)/[A-Za-z0-9._-]+/`)

// TestNoMachinePaths finds the paths of whoever wrote a file: the tree must work
// wherever it is checked out. Homes are found whoever's they are, on every machine.
func TestNoMachinePaths(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	home, _ := os.UserHomeDir()               // without one there is none to find
	home = strings.TrimRight(home, "/") + "/" // "/" is in every path, and no home
	require.NoError(t, walk(func(name string) error {
		text, err := os.ReadFile(name)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		for _, p := range machinePaths(text, here, home) {
			t.Errorf("%s holds the path %s of a machine; an example is %s", name, p, exampleHome)
		}
		return nil
	}))
}

// machinePaths returns the paths in text that are of a machine: the checkout here, the
// home of whoever runs this, and all homes but the example's.
func machinePaths(text []byte, here, home string) []string {
	var found []string
	for _, p := range []string{here, home} {
		if strings.Count(p, "/") > 1 && p != exampleHome && bytes.Contains(text, []byte(p)) {
			found = append(found, p)
		}
	}
	for _, p := range anyHome.FindAllString(string(text), -1) {
		if p != exampleHome {
			found = append(found, p)
		}
	}
	return found
}

func TestMachinePaths(t *testing.T) {
	const ada = "    /home/ada/.ssh/config knows your workspaces now"
	require.Empty(t, machinePaths([]byte(ada), "/home/ada/fairlead", "/home/ada/"))
	require.Empty(t, machinePaths([]byte(ada), "/src/fairlead", "/"))
	require.NotEmpty(t, machinePaths([]byte("cd /home/ada/fairlead"), "/home/ada/fairlead", "/home/ada/"))
	require.NotEmpty(t, machinePaths([]byte("cat /srv/eve/notes"), "/src/fairlead", "/srv/eve/"))
	for _, of := range []string{"/home/", "/Users/"} {
		require.NotEmpty(t, machinePaths([]byte("see "+of+"eve/notes"), "/src/fairlead", "/"))
	}
}
