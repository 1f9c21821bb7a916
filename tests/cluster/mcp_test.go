package cluster

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/tests/site"
)

// codingAgent is a program that has started `fairlead mcp`.
type codingAgent struct {
	t *testing.T
	*mcp.ClientSession
}

func startCodingAgent(t *testing.T, h *site.Home) codingAgent {
	t.Helper()
	cmd := h.Command(context.Background(), "mcp")
	stderr := site.NewOutput()
	cmd.Stderr = stderr
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil).
		Connect(t.Context(), &mcp.CommandTransport{Command: cmd, TerminateDuration: site.Patience}, nil)
	require.NoError(t, err, "%s", stderr)
	t.Cleanup(func() {
		require.NoError(t, session.Close())
		require.Equal(t, 0, cmd.ProcessState.ExitCode(), "%s", stderr)
		require.Empty(t, stderr.String())
	})
	return codingAgent{t, session}
}

// call uses a tool, and returns what it gave; wrong is its error.
func (a codingAgent) call(ctx context.Context, tool string, arguments map[string]any, out any) (wrong string) {
	a.t.Helper()
	result, err := a.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	require.NoError(a.t, err)
	return a.decode(result, out)
}

func (a codingAgent) decode(result *mcp.CallToolResult, out any) (wrong string) {
	a.t.Helper()
	require.NotEmpty(a.t, result.Content)
	text, ok := result.Content[0].(*mcp.TextContent)
	require.True(a.t, ok)
	if result.IsError {
		return text.Text
	}
	require.NoError(a.t, json.Unmarshal([]byte(text.Text), out), text.Text)
	structured, err := json.Marshal(result.StructuredContent)
	require.NoError(a.t, err)
	require.JSONEq(a.t, text.Text, string(structured), "the same for programs as for models")
	return ""
}

// ran is what run_command gives.
type ran struct {
	Code     int    `json:"exit_code"`
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	Omitted  int    `json:"stdout_omitted_bytes"`
	TimedOut bool   `json:"timed_out"`
	ID       string `json:"connection_id"`
	Reason   string `json:"disconnect_reason"`
	Expected bool   `json:"disconnect_expected"`
}

func (a codingAgent) run(command string, more ...any) (r ran) {
	a.t.Helper()
	arguments := map[string]any{"workspace": "dev", "command": command}
	for i := 0; i < len(more); i += 2 {
		arguments[more[i].(string)] = more[i+1]
	}
	require.Empty(a.t, a.call(a.t.Context(), "run_command", arguments, &r))
	return r
}

// TestMCP: a coding agent does with the tools what a person does with the commands.
func TestMCP(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	put(t, s.Home, "AGENTS.md", "make\n")
	a := startCodingAgent(t, s.Home)
	ctx := t.Context()

	var list struct {
		Workspaces []struct{ Name, Owner string }
	}
	require.Empty(t, a.call(ctx, "list_workspaces", nil, &list))
	require.Len(t, list.Workspaces, 1)
	require.Equal(t, "dev", list.Workspaces[0].Name)

	var config struct {
		Parts []struct {
			Content string `json:"context_file_content"`
		}
	}
	require.Empty(t, a.call(ctx, "read_context", map[string]any{"workspace": "dev"}, &config))
	require.Len(t, config.Parts, 1)
	require.Equal(t, "make\n", config.Parts[0].Content)

	r := a.run("cat; echo oops >&2; exit 3", "stdin", "hello")
	require.Equal(t, ran{Code: 3, Stdout: "hello", Stderr: "oops\n", ID: r.ID, Reason: "process_exited", Expected: true}, r)
	require.NotEmpty(t, r.ID)
	long := a.run("head -c 1000000 /dev/zero | tr '\\0' x; echo end")
	require.Equal(t, 1000004-65536, long.Omitted)
	require.True(t, strings.HasSuffix(long.Stdout, "xend\n"))
	require.Less(t, len(long.Stdout), 66000)

	// One that takes too long ends, and another one beside it does not.
	beside := make(chan *mcp.CallToolResult, 1)
	go func() {
		defer close(beside)
		result, err := a.CallTool(ctx, &mcp.CallToolParams{Name: "run_command", Arguments: map[string]any{
			"workspace": "dev", "command": "while [ ! -e go ]; do sleep 0.05; done; echo on",
		}})
		if err == nil {
			beside <- result
		}
	}()
	late := a.run("trap '' TERM; while :; do sleep 0.1; done", "timeout_seconds", 1)
	require.True(t, late.TimedOut)
	require.Equal(t, 137, late.Code)
	put(t, s.Home, "go", "")
	result, ok := <-beside
	require.True(t, ok, "it was answered")
	require.Empty(t, a.decode(result, &r))
	require.Equal(t, "on\n", r.Stdout)
	first := r.ID

	// One that nobody wants any more ends too.
	unwanted, cancel := context.WithCancel(ctx)
	gone := make(chan error, 1)
	go func() {
		_, err := a.CallTool(unwanted, &mcp.CallToolParams{Name: "run_command", Arguments: map[string]any{
			"workspace": "admin/dev", "command": "echo $$ >pid; exec sleep 1000",
		}})
		gone <- err
	}()
	site.Eventually(t, "the command", func() bool { found, _ := filepath.Glob(s.Path("pid")); return len(found) == 1 })
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	site.Eventually(t, "its end", func() bool { return a.run("kill -0 $(cat pid)").Code != 0 })

	var log struct {
		Connections []struct {
			ID     string
			Reason *string `json:"disconnect_reason"`
		}
		More bool
	}
	site.Eventually(t, "the row", func() bool {
		require.Empty(t, a.call(ctx, "connections", map[string]any{"workspace": "dev", "reason": "graceful", "limit": 100}, &log))
		for _, c := range log.Connections {
			if c.ID == first {
				return true
			}
		}
		return false
	})
	var told struct{ Sentence string }
	require.Empty(t, a.call(ctx, "why", map[string]any{"target": first}, &told))
	require.Contains(t, told.Sentence, "The program on dev finished at")
}

// TestMCPMisuse: each is the error of a tool, in one sentence, and the next call works.
func TestMCPMisuse(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	eve := s.NewUser("eve")
	a := startCodingAgent(t, eve)
	for _, tc := range []struct {
		tool      string
		arguments map[string]any
		says      string
	}{
		{"run_command", map[string]any{"workspace": "admin/dev", "command": "id"}, "there is no workspace admin/dev"},
		{"run_command", map[string]any{"workspace": "../etc", "command": "id"}, "cannot be a workspace"},
		{"run_command", map[string]any{"workspace": "dev", "command": " "}, "the command is empty"},
		{"run_command", map[string]any{"workspace": "dev", "command": "a\x00b"}, "zero byte"},
		{"run_command", map[string]any{"workspace": "dev", "command": "id", "timeout_seconds": 9999}, "give 1 to 3600"},
		{"run_command", map[string]any{"workspace": "dev"}, "command"},
		{"read_context", map[string]any{"workspace": "admin/dev"}, "there is no workspace admin/dev"},
		{"connections", map[string]any{"since": "soon"}, "neither a time"},
		{"connections", map[string]any{"limit": 1000}, "give 1 to 200"},
		{"connections", map[string]any{"workspace": "\x1b[2J"}, "is not a name"},
		{"why", nil, "no session: none of yours has ended or was interrupted yet"},
		{"why", map[string]any{"target": "UPPER"}, "neither a workspace nor the beginning"},
	} {
		wrong := a.call(t.Context(), tc.tool, tc.arguments, new(any))
		require.Contains(t, wrong, tc.says, "%s %v", tc.tool, tc.arguments)
		require.NotContains(t, wrong, "\x1b")
	}
	s.Must("workspace", "share", "dev", "eve")
	var r ran
	command := map[string]any{"workspace": "admin/dev", "command": "echo hi"}
	require.Empty(t, a.call(t.Context(), "run_command", command, &r))
	require.Equal(t, "hi\n", r.Stdout)

	// The agent comes back as another process, and the next command finds it.
	s.Agent.Stop()
	s.AwaitAgent("offline")
	require.Contains(t, a.call(t.Context(), "run_command", command, &r), "offline")
	s.StartAgent()
	require.Empty(t, a.call(t.Context(), "run_command", command, &r))

	r2 := site.NewHome(t).Run("mcp")
	require.Equal(t, 4, r2.Code, "without a login")
	require.Empty(t, r2.Stdout)
}

// TestMCPGarbage: what is no message ends the command, with nothing on standard output
// but messages.
func TestMCPGarbage(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer()
	s.Settle()
	require.Equal(t, 0, s.RunWith(strings.NewReader(""), "mcp").Code)
	for _, garbage := range []string{"hello\n", "[[[[", "{\"jsonrpc\":\"1\"}\n", strings.Repeat("[", 5<<20)} {
		r := s.RunWith(strings.NewReader(garbage), "mcp")
		require.Contains(t, []int{0, 1}, r.Code)
		require.LessOrEqual(t, strings.Count(r.Stderr, "\n"), 1, r.Stderr)
		for line := range strings.Lines(r.Stdout) {
			require.True(t, json.Valid([]byte(line)), line)
		}
	}
}

// TestMCPEnds: when the coding agent is gone, or the command is stopped, what runs in
// workspaces for it ends, and both ends know why.
func TestMCPEnds(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	for name, end := range map[string]func(*site.Process){
		"coding agent gone": func(p *site.Process) { require.NoError(t, p.Stdin.Close()) },
		"stopped":           func(p *site.Process) { p.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			h := s.With(t)
			pid := s.Path(strings.ReplaceAll(name, " ", "-"))
			p := h.Start("mcp")
			for _, line := range []string{
				`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`,
				`{"jsonrpc":"2.0","method":"notifications/initialized"}`,
				`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"run_command","arguments":{"workspace":"dev","command":"echo $$ >` + pid + `; exec sleep 1000"}}}`,
			} {
				_, err := io.WriteString(p.Stdin, line+"\n")
				require.NoError(t, err)
			}
			site.Eventually(t, "the command", func() bool { text, _ := os.ReadFile(pid); return strings.HasSuffix(string(text), "\n") })
			end(p)
			require.Equal(t, 0, p.Wait(), p.Stderr)
			require.Empty(t, p.Stderr.String())
			require.NotZero(t, h.Run("ssh", "dev", "--", "kill -0 $(cat "+pid+")").Code, "it is gone")
		})
	}
	for _, row := range awaitClosed(t, s.Home, 4) {
		require.Contains(t, []string{"process_signaled", "process_exited"}, *row.Reason)
	}
}

// TestMCPWithALoginThatReads: the scope of a token holds for a coding agent too.
func TestMCPWithALoginThatReads(t *testing.T) {
	t.Parallel()
	s := site.New(t)
	s.Must("token", "create", "--scope", "read", "--token-file", s.Path("read-token"), "agent")
	reader := site.NewHome(t)
	reader.Must("login", s.URL, "--token-file", s.Path("read-token"))
	a := startCodingAgent(t, reader)
	var list struct{ Workspaces []struct{ Name string } }
	require.Empty(t, a.call(t.Context(), "list_workspaces", nil, &list))
	require.Len(t, list.Workspaces, 1)
	for tool, arguments := range map[string]map[string]any{
		"run_command":  {"workspace": "dev", "command": "id"},
		"read_context": {"workspace": "dev"},
	} {
		require.Contains(t, a.call(t.Context(), tool, arguments, new(any)), "may not connect to workspaces", tool)
	}
}
