package baddays

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	agentproto "fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/tests/site"
)

const everybody = 500

// TestEverybodyAtOnce: the agents of 500 workspaces dial a server with its default limits
// in the same moment. Every one of them gets in and registers.
func TestEverybodyAtOnce(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer()
	token := s.Path("token")
	s.Must("login", s.URL, "--code", site.OneTimeCode(s.Server))
	s.Must("token", "create", "flood", "--token-file", token)
	api, err := sdk.NewClient(s.URL, strings.TrimSpace(read(t, token)))
	require.NoError(t, err)
	defer api.Close()
	tokens := make([]string, everybody)
	for i := range tokens {
		made, err := api.CreateWorkspace(t.Context(), sdk.CreateWorkspaceRequest{Name: fmt.Sprintf("w%d", i)})
		require.NoError(t, err)
		tokens[i] = made.AgentToken
	}

	begin := time.Now()
	errs := make([]error, everybody)
	links := make([]*control.Link, everybody)
	var all sync.WaitGroup
	for i, token := range tokens {
		all.Go(func() { links[i], errs[i] = arrive(t, s.URL, token) })
	}
	all.Wait()
	t.Logf("%d agents in after %v", everybody, time.Since(begin))
	for i, err := range errs {
		require.NoError(t, err, "agent %d", i)
	}
	list, err := api.Workspaces(t.Context())
	require.NoError(t, err)
	for _, ws := range list {
		require.Equal(t, sdk.AgentConnecting, ws.Agent.Status, "%s: connected; its node is not part of this", ws.Name)
	}
	require.Len(t, list, everybody)
	for _, link := range links {
		all.Go(func() { leave(link) })
	}
	all.Wait()
	require.NotContains(t, s.Server.Stderr.String(), `"level":"ERROR"`)
}

// arrive connects as an agent does, and registers.
func arrive(t *testing.T, url, token string) (*control.Link, error) {
	ctx := t.Context()
	base, err := sdk.ParseURL(url)
	if err != nil {
		return nil, err
	}
	link, err := control.Dial(ctx, control.DialOptions{
		AccessURL: base, Token: token, Instance: uuid.NewString(), Version: "test",
		ConnectType: disconnect.ServerToAgent, Self: disconnect.Agent, Peer: disconnect.Server,
	})
	if err != nil {
		return nil, err
	}
	_, err = agentproto.NewAgentServiceClient(link.RPC()).GetManifest(ctx, &agentproto.GetManifestRequest{
		SshHostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
	})
	return link, err
}

func leave(link *control.Link) {
	_ = link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent})
}

// TestOneTooMany: an agent for which there is no room is told when to come again, waits
// that long, and comes in when there is.
func TestOneTooMany(t *testing.T) {
	t.Parallel()
	s := site.Empty(t)
	s.StartServer("--max-links-per-address", "2")
	s.Settle()
	s.StartAgent()
	s.Must("workspace", "create", "spare", "--token-file", s.Path("spare-token"))
	s.Must("workspace", "create", "late", "--token-file", s.Path("late-token"))
	start := func(name string) *site.Process {
		return s.Start("agent", s.URL, "--token-file", s.Path(name+"-token"), "--state-dir", s.Path(name), "--log-format", "json")
	}
	spare := start("spare")
	spare.Stderr.AwaitText(t, `"connected to server"`)
	late := start("late")
	late.Stderr.AwaitText(t, `"could not reach the server"`)
	for _, r := range late.Stderr.Records(t) {
		if r["msg"] == "could not reach the server" {
			require.Equal(t, "limit_exceeded", r["reason"])
			wait, err := time.ParseDuration(r["retry_in"].(string))
			require.NoError(t, err)
			require.GreaterOrEqual(t, wait, 10*time.Second, "the server asked for 10 s")
			require.LessOrEqual(t, wait, 15*time.Second)
		}
	}
	r := s.Run("ssh", "dev", "--", "true")
	require.Equal(t, 255, r.Code)
	require.Contains(t, r.Stderr, "is too busy: try again later")
	require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)

	spare.Stop()
	late.Stderr.AwaitText(t, `"connected to server"`)
	require.Equal(t, 1, strings.Count(late.Stderr.String(), `"could not reach the server"`))
}
