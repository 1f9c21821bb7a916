package site

import (
	"encoding/json"
	"strings"

	"github.com/stretchr/testify/require"
)

// Site is a server with one workspace, its agent and its owner, as three processes.
type Site struct {
	*Home             // of all three; Settle logs it in as the admin
	Address    string // where the server listens
	URL        string // how others reach it
	Server     *Process
	Agent      *Process
	AgentToken string // file with the agent's token
}

// New starts a server, logs its admin in with the one-time code, creates the
// workspace "dev" and starts its agent.
func New(t T, agentArgs ...string) *Site {
	t.Helper()
	s := Empty(t)
	s.StartServer()
	s.Settle()
	s.StartAgent(agentArgs...)
	return s
}

// Empty returns a site where nothing runs yet.
func Empty(t T) *Site {
	t.Helper()
	s := &Site{Home: NewHome(t), Address: FreeAddress(t)}
	s.URL, s.AgentToken = "http://"+s.Address, s.Path("agent-token")
	return s
}

// StartServer starts the server and waits until it listens.
func (s *Site) StartServer(args ...string) {
	s.T.Helper()
	s.Server = s.Start(append([]string{"server", "--listen", s.Address, "--state-dir", s.Path("server"),
		"--stun-listen", "127.0.0.1:0", "--log-format", "json"}, args...)...)
	s.Server.Stderr.AwaitText(s.T, `"server listening"`)
}

// OneTimeCode reads the code that the server's first start printed.
func OneTimeCode(server *Process) string {
	server.T.Helper()
	const label = "--code "
	_, rest, _ := strings.Cut(server.Stdout.AwaitText(server.T, label), label)
	code := strings.Fields(rest)[0]
	require.NotContains(server.T, server.Stderr.String(), code, "the code is never logged")
	return code
}

// Settle logs the admin in and creates the workspace "dev".
func (s *Site) Settle() {
	s.T.Helper()
	s.Must("login", s.URL, "--code", OneTimeCode(s.Server))
	s.Must("workspace", "create", "dev", "--token-file", s.AgentToken)
}

// StartAgent starts the agent of "dev" and waits until it is online.
func (s *Site) StartAgent(args ...string) {
	s.T.Helper()
	s.LaunchAgent(args...)
	s.AwaitAgent("online")
}

// LaunchAgent starts the agent of "dev" and does not wait for it.
func (s *Site) LaunchAgent(args ...string) {
	s.T.Helper()
	s.Agent = s.Start(append([]string{"agent", s.URL, "--token-file", s.AgentToken,
		"--state-dir", s.Path("agent"), "--log-format", "json"}, args...)...)
}

// AwaitAgent waits until the server lists the one agent in that state.
func (s *Site) AwaitAgent(status string) {
	s.T.Helper()
	Eventually(s.T, "agent "+status, func() bool {
		var list []struct {
			Agent struct {
				Status string `json:"status"`
			} `json:"agent"`
		}
		r := s.Run("ls", "--output", "json")
		return json.Unmarshal([]byte(r.Stdout), &list) == nil && len(list) == 1 && list[0].Agent.Status == status
	})
}

// NewUser makes a user, logged in on a machine of their own.
func (s *Site) NewUser(name string) *Home {
	s.T.Helper()
	token := s.Path("token-of-" + name)
	s.Must("user", "create", name, "--token-file", token)
	h := NewHome(s.T)
	h.Must("login", s.URL, "--token-file", token)
	return h
}

// StartUp runs `fairlead up` and returns it, once it is ready, with its URL.
func StartUp(h *Home, args ...string) (*Process, string) {
	h.T.Helper()
	p := h.Start(append([]string{"up", "--state-dir", h.Path("up"), "--listen", "127.0.0.1:0",
		"--output", "json", "--log-format", "json"}, args...)...)
	line := p.Stdout.AwaitText(h.T, "\n")
	var ready struct {
		URL       string `json:"url"`
		Workspace string `json:"workspace"`
		StateDir  string `json:"state_dir"`
	}
	require.NoError(h.T, json.Unmarshal([]byte(line), &ready), line)
	require.Equal(h.T, []string{"local", h.Path("up")}, []string{ready.Workspace, ready.StateDir})
	return p, ready.URL
}
