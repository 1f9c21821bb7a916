package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

// comeBack bounds how long a fleet may take to be whole.
const comeBack = 2 * time.Minute

// fleet is a server of its own and many agents in one other process.
type fleet struct {
	*site.Site
	n      int
	meters string // address of the server's metrics
	stun   string // address of the server's STUN
	api    *sdk.Client
	empty  usage // of the server before the agents came
}

// reportMemory measures what one idle agent costs the server.
func (b *bench) reportMemory() error {
	f, err := b.wholeFleet()
	if err != nil {
		return err
	}
	full, err := f.usage(b.ctx, b.settle)
	if err != nil {
		return err
	}
	printUsage(f.n, f.empty, full)
	return f.profile(b.ctx, b.profiles, "server-idle")
}

// reportRestarts measures how soon all agents are back after the server was away.
func (b *bench) reportRestarts() error {
	f, err := b.wholeFleet()
	if err != nil {
		return err
	}
	table := newTable(fmt.Sprintf("all of %d agents are back, from the new server's start", f.n), "s")
	for _, way := range []struct {
		name string
		end  func(*site.Process)
		away time.Duration
	}{
		{"after SIGTERM", (*site.Process).Stop, 0},
		{"after kill -9", (*site.Process).Kill, 0},
		{"after kill -9 and half a minute without a server", (*site.Process).Kill, 30 * time.Second},
	} {
		way.end(f.Server)
		time.Sleep(way.away)
		begin := time.Now()
		f.startServer()
		if err := f.awaitAll(b.ctx); err != nil {
			return err
		}
		table.add(way.name, []float64{time.Since(begin).Seconds()})
		time.Sleep(5 * time.Second) // as long as it takes to be lost again
	}
	table.print()
	return nil
}

// wholeFleet returns the fleet, with every agent online.
func (b *bench) wholeFleet() (*fleet, error) {
	if b.fleet != nil {
		return b.fleet, nil
	}
	b.fleet = &fleet{Site: site.Empty(b.t), n: b.agents, meters: site.FreeAddress(b.t), stun: site.FreeAddress(b.t)}
	return b.fleet, b.fleet.start(b.ctx, b.settle/3)
}

// start makes a server with one workspace for each agent, and starts it anew, since
// what making them left in its memory is not the agents'; then the agents.
func (f *fleet) start(ctx context.Context, settle time.Duration) (err error) {
	f.startServer()
	if f.api, err = sdk.NewClient(f.URL, ""); err != nil {
		return err
	}
	login, err := f.api.Login(ctx, sdk.LoginRequest{Code: site.OneTimeCode(f.Server)})
	if err != nil {
		return err
	}
	if f.api, err = sdk.NewClient(f.URL, login.Token); err != nil {
		return err
	}
	f.T.Cleanup(f.api.Close)
	var tokens strings.Builder
	for i := range f.n {
		made, err := f.api.CreateWorkspace(ctx, sdk.CreateWorkspaceRequest{Name: fmt.Sprintf("agent-%d", i)})
		if err != nil {
			return err
		}
		fmt.Fprintln(&tokens, made.AgentToken)
	}
	f.Server.Stop()
	f.startServer()
	if f.empty, err = f.usage(ctx, settle); err != nil {
		return err
	}
	return f.startAgents(ctx, tokens.String())
}

// startServer keeps the port of STUN, as a real server does: another one is another
// relay region for the nodes, to which they connect anew.
func (f *fleet) startServer() { f.StartServer("--metrics-listen", f.meters, "--stun-listen", f.stun) }

func (f *fleet) startAgents(ctx context.Context, tokens string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	begin := time.Now()
	f.Agent = f.StartCommand(exec.Command(self, fleetCommand, f.URL, f.Path("agents")))
	if _, err := io.WriteString(f.Agent.Stdin, tokens+"\n"); err != nil {
		return err
	}
	f.Agent.Stdout.AwaitText(f.T, fleetStarted)
	if err := f.awaitAll(ctx); err != nil {
		return err
	}
	progress("%d agents are online after %v", f.n, time.Since(begin).Round(time.Millisecond))
	return nil
}

// awaitAll returns when the server lists every agent as online and each has a relay
// connection on which it has shown its key.
func (f *fleet) awaitAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, comeBack)
	defer cancel()
	begin, told := time.Now(), time.Duration(0)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		online, relayed := f.here(ctx)
		if online >= f.n && relayed >= f.n {
			return nil
		}
		if since := time.Since(begin).Truncate(time.Second); since != told {
			told = since
			progress("after %v: %d online, %d at the relay", since, online, relayed)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("of %d agents %d are online and %d at the relay: %w", f.n, online, relayed, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// here returns how many agents the server lists as online and how many nodes are at
// its relay. The list is only asked for when the relay has them all: it is long.
func (f *fleet) here(ctx context.Context) (online, relayed int) {
	m, err := f.metrics(ctx)
	if err != nil {
		return 0, 0
	}
	relayed = int(m["fairlead_relay_nodes"])
	online = int(m[`fairlead_control_links{kind="agent"}`])
	if relayed < f.n || online < f.n {
		return online, relayed
	}
	list, err := f.api.Workspaces(ctx)
	if err != nil {
		return 0, relayed
	}
	online = 0
	for _, ws := range list {
		if ws.Agent.Status == sdk.AgentOnline {
			online++
		}
	}
	return online, relayed
}

// usage is what a process occupies.
type usage struct {
	rss, anon                   float64 // bytes, by the kernel
	heapLive, heapInUse, stacks float64 // bytes, by the Go runtime
	goroutines, descriptors     float64
}

func (f *fleet) usage(ctx context.Context, after time.Duration) (usage, error) {
	select {
	case <-ctx.Done():
		return usage{}, context.Cause(ctx)
	case <-time.After(after):
	}
	m, err := f.metrics(ctx)
	if err != nil {
		return usage{}, err
	}
	u := usage{
		heapInUse: m["go_memstats_heap_inuse_bytes"], stacks: m["go_memstats_stack_inuse_bytes"],
		goroutines: m["go_goroutines"], descriptors: m["process_open_fds"],
	}
	if u.rss, err = occupied(f.Server.Cmd.Process.Pid, "VmRSS"); err != nil {
		return usage{}, err
	}
	if u.anon, err = occupied(f.Server.Cmd.Process.Pid, "RssAnon"); err != nil {
		return usage{}, err
	}
	if _, err := f.get(ctx, "http://"+f.meters+"/debug/pprof/heap?gc=1"); err != nil { // what is left is alive
		return usage{}, err
	}
	if m, err = f.metrics(ctx); err != nil {
		return usage{}, err
	}
	u.heapLive = m["go_memstats_heap_alloc_bytes"]
	return u, nil
}

func printUsage(n int, empty, full usage) {
	fmt.Printf("| server with %d idle agents | none | all | per agent |\n|---|---|---|---|\n", n)
	row := func(name, format string, scale, a, b float64) {
		fmt.Printf("| %s | "+format+" | "+format+" | "+"%.1f"+" |\n", name, a/scale, b/scale, (b-a)/float64(n)/min(scale, 1e3))
	}
	row("RssAnon (MB; per agent KB)", "%.1f", 1e6, empty.anon, full.anon)
	row("VmRSS (MB; per agent KB)", "%.1f", 1e6, empty.rss, full.rss)
	row("Go heap in use (MB; per agent KB)", "%.1f", 1e6, empty.heapInUse, full.heapInUse)
	row("Go heap alive (MB; per agent KB)", "%.1f", 1e6, empty.heapLive, full.heapLive)
	row("Go stacks (MB; per agent KB)", "%.1f", 1e6, empty.stacks, full.stacks)
	row("goroutines", "%.0f", 1, empty.goroutines, full.goroutines)
	row("open files", "%.0f", 1, empty.descriptors, full.descriptors)
	fmt.Println()
}

// metrics reads the server's metrics by name and labels.
func (f *fleet) metrics(ctx context.Context) (map[string]float64, error) {
	text, err := f.get(ctx, "http://"+f.meters+"/metrics")
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for line := range strings.SplitSeq(string(text), "\n") {
		name, value, ok := strings.Cut(line, " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			m[name] = v
		}
	}
	return m, nil
}

func (f *fleet) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// profile keeps the server's profiles in dir, unless that is empty.
func (f *fleet) profile(ctx context.Context, dir, name string) error {
	if dir == "" {
		return nil
	}
	for _, kind := range []string{"heap", "goroutine"} {
		data, err := f.get(ctx, "http://"+f.meters+"/debug/pprof/"+kind)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/"+name+"-"+kind+".pprof", data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
