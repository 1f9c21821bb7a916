package fairlead_test

import (
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// floors is the house: a package imports packages of lower floors only, never
// upward and never sideways. When this fails, move the code; the list changes only
// together with docs/architecture.md and a page in docs/decisions. A package that is
// listed need not exist yet; one that exists must be listed.
var floors = []struct {
	floor    int
	packages []string
}{
	{9, []string{
		"cmd/fairlead",      // main
		"disconnect/docgen", // main: writes docs/disconnects.md
		".",                 // the root: documentation and these tests
	}},
	{8, []string{"cli"}},
	{7, []string{"server"}},
	{6, []string{"server/webterm"}},
	{5, []string{
		"agent",
		"client",
		"relayhost",
	}},
	{4, []string{
		"tailnet",
		"tailnet/coordinator",
		"tailnet/relay",
		"agent/agentssh",
		"agent/reconnectingpty",
		"server/connlog",
		"server/auth",
	}},
	{3, []string{
		"control",
		"companion",
		"journal",
		"agent/agentcontextconfig",
		"sdk/agentsdk", // checks what agent/proto carries
		"server/store",
	}},
	{2, []string{
		"disconnect/explain",
		"hostwatch",
		"agent/proto",
		"control/proto",
		"tailnet/proto",
	}},
	{1, []string{
		"disconnect/wire",
		"disconnect/verdict",
		"sshend",
		"httpport",
		"metrics",
		"telemetry",
		"wsconn",
		"sdk",
		"pty",
	}},
	{0, []string{
		"disconnect",
		"clock",
	}},
}

// testPackages hold code for tests only. They import up to the given floor, and only
// tests and each other import them.
var testPackages = map[string]int{
	"testutil":              3,
	"tests/site":            9,
	"tests/cluster":         9,
	"tests/baddays":         9,
	"tests/threat":          9,
	"tests/proxy":           9,
	"tests/bench":           9,
	"tests/soak":            9,
	"tests/interop":         9,
	"tests/faults":          9,
	"tests/faults/scenario": 9,
	"tests/faults/score":    9,
	"tests/faults/timeline": 9,

	"tests/faults/netlab": 0,
	"tests/faults/linkem": 0,
	"tests/faults/inject": 0,
	"tests/faults/peers":  9,
}

// walls forbid imports within the module that the floors alone would allow. They
// hold through other packages too, except for those in through.
var walls = []struct {
	from, to []string // a package, or "name/..." for it and all below
	except   []string
	through  []string // who may reach behind the wall for others
	why      string
}{
	{
		from: []string{"agent/...", "client"}, to: []string{"server/..."},
		why: "agents and clients run on other machines than the server",
	},
	{
		from: []string{"client"}, to: []string{"agent/..."}, except: []string{"agent/proto"},
		why: "a client knows an agent by its protocol only",
	},
	{
		from: []string{"server/..."}, to: []string{"agent/..."}, except: []string{"agent/proto"},
		why: "the server knows an agent by its protocol only",
	},
	{
		from: []string{"relayhost"}, to: []string{"server/...", "tailnet", "agent/..."},
		why: "a relay runs on another machine than the server, and moves packets that it cannot read",
	},
	{
		from: []string{"server/..."}, to: []string{"tailnet"}, through: []string{"server/webterm"},
		why: "the control plane needs no packet engine",
	},
	{
		from: []string{"server/..."}, to: []string{"client"}, through: []string{"server/webterm"},
		why: "only the web terminal is a client that runs in the server",
	},
	{
		from: []string{"server/auth", "server/store", "server/connlog"}, to: []string{"control", "companion"},
		why: "who may do what, and what is stored, does not depend on the transport",
	},
	{
		from: []string{"tailnet/..."}, to: []string{"agent/...", "companion", "server/..."},
		why: "the network moves packets between peers and knows nothing of workspaces or sessions; it takes funcs",
	},
}

// forTests are the importers of what only tests need.
var forTests = slices.Collect(maps.Keys(testPackages))

// thirdParty says who may import what from outside the module. Tests are free of
// it: they meet the real counterpart.
var thirdParty = []struct {
	path    string // an import path, or "path/..." for it and all below
	allowed []string
	why     string
}{
	{"tailscale.com/...", []string{"tailnet", "tailnet/relay"}, "the packet engine stays behind tailnet's border, so that it can be replaced"},
	{"github.com/tailscale/...", []string{"tailnet", "tailnet/relay"}, "the packet engine stays behind tailnet's border, so that it can be replaced"},
	{"gvisor.dev/...", []string{"tailnet", "tailnet/relay"}, "the userspace network stack stays behind tailnet's border"},
	{"github.com/coder/websocket/...", []string{"wsconn"}, "every WebSocket records how it ended"},
	{"google.golang.org/grpc/credentials/...", []string{"control"}, "one place decides how control links are carried"},
	{"google.golang.org/grpc/keepalive", []string{"control"}, "one place decides when a control link is dead"},
	{"google.golang.org/grpc/balancer/...", []string{"control"}, "one place decides how control links are carried"},
	{"google.golang.org/grpc/resolver/...", []string{"control"}, "one place decides how control links are carried"},
	{"google.golang.org/grpc/stats/...", []string{"control"}, "one place watches how control links are carried"},
	{"google.golang.org/grpc/test/...", nil, "it is for tests"},
	{"modernc.org/...", []string{"server/store"}, "nothing above the store knows which database there is"},
	{"github.com/jackc/pgx/...", []string{"server/store"}, "nothing above the store knows which database there is"},
	{"github.com/mattn/go-sqlite3", nil, "cgo ruins cross builds"},
	{"database/sql/...", []string{"server/store"}, "there is no SQL above the store"},
	{"github.com/pressly/goose/...", []string{"server/store"}, "the store migrates itself"},
	{"github.com/prometheus/...", []string{"metrics"}, "one place decides what a metric is called and how many series it may have"},
	{"go.opentelemetry.io/...", append([]string{"telemetry"}, forTests...), "one place decides what leaves the process"},
	{"net/http/pprof", []string{"metrics"}, "it adds itself to the default mux, and shows what nobody else should see"},
	{"github.com/spf13/...", []string{"cli"}, "commands and flags live in cli"},
	{"github.com/modelcontextprotocol/...", []string{"cli"}, "a coding agent asks the same questions as a person, by one command"},
	{"github.com/creack/pty", []string{"pty"}, "platform differences of terminals stay in pty"},
	{"log", []string{"cli"}, "there is one logger, log/slog; cli silences the other, which net/http writes to"},
	{"testing/...", forTests, "it is for tests"},
	{"github.com/stretchr/testify/...", forTests, "it is for tests"},
	{"github.com/google/go-cmp/...", forTests, "it is for tests"},
	{"go.uber.org/goleak", forTests, "it is for tests"},
	{"github.com/charmbracelet/...", forTests, "an emulator is for tests: it would be the slowest part of a terminal"},
}

// nowhere lists imports that no file may have, tests included.
var nowhere = map[string]string{
	"html/template":          "it makes the linker keep every exported method: 10 MB",
	"text/template":          "it makes the linker keep every exported method: 10 MB",
	"golang.org/x/net/trace": "it uses html/template",
	"io/ioutil":              "it is deprecated",
}

// grpcTransport are the names in package grpc that decide how a link is carried.
// The others are what generated stubs need.
var grpcTransport = []string{
	"Dial", "DialContext", "NewClient", "NewServer", "DialOption", "ServerOption", "Creds", "KeepaliveParams",
	"KeepaliveEnforcementPolicy", "With*", "Max*", "Initial*", "Static*", "Chain*", "UnaryInterceptor",
	"StreamInterceptor", "StatsHandler", "ConnectionTimeout", "NumStreamWorkers", "ReadBufferSize", "WriteBufferSize",
}

func floorOf() map[string]int {
	floorOf := map[string]int{}
	for _, f := range floors {
		for _, pkg := range f.packages {
			floorOf[pkg] = f.floor
		}
	}
	return floorOf
}

// local returns the package inside the module that an import path names.
func local(t *testing.T, importPath string) (pkg string, ok bool) {
	t.Helper()
	module, err := module()
	require.NoError(t, err)
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

func TestEveryPackageHasAFloor(t *testing.T) {
	floorOf := floorOf()
	for _, file := range goFiles(t) {
		_, onFloor := floorOf[file.dir]
		_, forTests := testPackages[file.dir]
		if !onFloor && !forTests {
			t.Errorf("%s: package %s is on no floor: list it in layers_test.go", file.name, file.dir)
		}
		if onFloor && forTests {
			t.Errorf("package %s is listed twice", file.dir)
		}
	}
}

func TestImportsGoDown(t *testing.T) {
	floorOf := floorOf()
	for _, file := range goFiles(t) {
		limit, forTests := testPackages[file.dir]
		limit++ // a package for tests may import its limit itself
		if !forTests {
			limit = floorOf[file.dir]
		}
		for _, importPath := range file.imports {
			pkg, ok := local(t, importPath)
			if !ok || (file.isTest && pkg == file.dir) {
				continue
			}
			// An external test may meet the counterparts of its own floor: a fake of
			// them could be wrong in the same way as the code.
			if file.isTest && file.external && floorOf[pkg] == limit {
				continue
			}
			if _, ok := testPackages[pkg]; ok {
				if !forTests && (!file.isTest || pkg != "testutil") {
					t.Errorf("%s imports %s, which is for tests only (testutil: for the tests of any package; tests/...: for each other)", file.name, pkg)
				}
				continue
			}
			floor, ok := floorOf[pkg]
			if !ok {
				t.Errorf("%s imports %s, which is on no floor", file.name, pkg)
				continue
			}
			if floor >= limit {
				direction := "upward"
				if floor == limit {
					direction = "sideways"
				}
				t.Errorf("%s (floor %d) imports %s (floor %d): %s", file.name, limit, pkg, floor, direction)
			}
		}
	}
}

func TestWalls(t *testing.T) {
	graph := importGraph(t)
	for _, wall := range walls {
		for from := range graph {
			if !matches(wall.from, from) || slices.Contains(wall.through, from) {
				continue
			}
			for pkg, route := range reach(graph, from, wall.through) {
				if matches(wall.to, pkg) && !slices.Contains(wall.except, pkg) {
					t.Errorf("%s: %s", strings.Join(route, " imports "), wall.why)
				}
			}
		}
	}
}

// importGraph returns what each package's own code, without tests, imports from
// the module.
func importGraph(t *testing.T) map[string][]string {
	graph := map[string][]string{}
	for _, file := range goFiles(t) {
		if file.isTest {
			continue
		}
		for _, importPath := range file.imports {
			if pkg, ok := local(t, importPath); ok && !slices.Contains(graph[file.dir], pkg) {
				graph[file.dir] = append(graph[file.dir], pkg)
			}
		}
	}
	return graph
}

// reach returns every package that from imports, directly or not, each with the way
// there. It does not look behind the packages in stops.
func reach(graph map[string][]string, from string, stops []string) map[string][]string {
	routes := map[string][]string{from: {from}}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range graph[queue[0]] {
			if _, seen := routes[next]; seen || slices.Contains(stops, next) {
				continue
			}
			routes[next] = append(slices.Clone(routes[queue[0]]), next)
			queue = append(queue, next)
		}
	}
	delete(routes, from)
	return routes
}

// matches reports whether pkg is one of patterns, or below one that ends in "/...".
func matches(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		tree, isTree := strings.CutSuffix(pattern, "/...")
		return pkg == tree || (isTree && strings.HasPrefix(pkg, tree+"/"))
	})
}

func TestThirdPartyImports(t *testing.T) {
	for _, file := range goFiles(t) {
		for _, importPath := range file.imports {
			if why, ok := nowhere[importPath]; ok {
				t.Errorf("%s imports %s: %s", file.name, importPath, why)
			}
			if file.isTest {
				continue
			}
			for _, wall := range thirdParty {
				if matches([]string{wall.path}, importPath) && !slices.Contains(wall.allowed, file.dir) {
					t.Errorf("%s imports %s, allowed in %q only: %s", file.name, importPath, wall.allowed, wall.why)
				}
			}
			first, _, _ := strings.Cut(importPath, "/")
			if _, inModule := local(t, importPath); file.dir == "disconnect" && (inModule || strings.Contains(first, ".")) {
				t.Errorf("%s imports %s: disconnect is for any Go program, so it uses the standard library only", file.name, importPath)
			}
		}
	}
}

func TestOnlyControlDecidesHowGRPCIsCarried(t *testing.T) {
	for _, file := range goFiles(t) {
		if file.isTest || file.generated || file.dir == "control" {
			continue
		}
		file.selectors("google.golang.org/grpc", func(pos token.Pos, name string) {
			for _, pattern := range grpcTransport {
				prefix, isPrefix := strings.CutSuffix(pattern, "*")
				if name == pattern || (isPrefix && strings.HasPrefix(name, prefix)) {
					t.Errorf("%s uses grpc.%s: only control decides how links are carried", file.at(pos), name)
				}
			}
		})
	}
}

var architectureRow = regexp.MustCompile("^\\| (\\d) \\| ((?:`[^`]+`(?:, )?)+) \\|")

// TestArchitecturePageShowsTheFloors compares the table for people with the data:
// no floor may differ, and no package that exists may be missing.
func TestArchitecturePageShowsTheFloors(t *testing.T) {
	page, err := os.ReadFile("docs/architecture.md")
	require.NoError(t, err)
	floorOf, shown := floorOf(), map[string]bool{}
	for line := range strings.Lines(string(page)) {
		row := architectureRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		for pkg := range strings.SplitSeq(row[2], ", ") {
			pkg = strings.Trim(pkg, "`")
			shown[pkg] = true
			if floor, ok := floorOf[pkg]; !ok || row[1] != strconv.Itoa(floor) {
				t.Errorf("docs/architecture.md shows %s on floor %s, layers_test.go has it on %d (listed: %v)", pkg, row[1], floor, ok)
			}
		}
	}
	for _, file := range goFiles(t) {
		_, onFloor := floorOf[file.dir]
		if onFloor && !shown[file.dir] && file.dir != "." && file.dir != "disconnect/docgen" {
			shown[file.dir] = true
			t.Errorf("docs/architecture.md does not show %s", file.dir)
		}
	}
}
