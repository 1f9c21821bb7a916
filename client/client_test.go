package client

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sshend"
	"fairlead.dev/fairlead/tailnet"
	"fairlead.dev/fairlead/tailnet/proto"
)

func TestRefusalsAreOneSentence(t *testing.T) {
	now := time.Now()
	for want, refused := range map[string]*tailnet.RefusedError{
		"there is no workspace dev":             {Code: proto.Refusal_NOT_FOUND, Message: "whatever"},
		"the agent of workspace dev is offline": {Code: proto.Refusal_AGENT_OFFLINE},
		"the server refused workspace dev: a b": {Code: proto.Refusal_INVALID, Message: "a\nb"},
		"the agent of workspace dev is offline since " + now.Add(-90*time.Second).Format("2006-01-02 15:04:05") +
			" (1m30s ago); it ended with reason=server_shutdown initiator=agent expected=true detail=\"SIGTERM\"": {
			Code: proto.Refusal_AGENT_OFFLINE, Since: now.Add(-90 * time.Second),
			Ending: disconnect.Attribution{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "SIGTERM"},
		},
	} {
		require.Equal(t, want, refusalText("dev", refused, now))
	}
	require.NotContains(t, refusalText("d\x1b[31mev", &tailnet.RefusedError{Code: proto.Refusal_NOT_FOUND}, now), "\x1b")
}

// TestContactFailures dials what is not there, and what is something else.
func TestContactFailures(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	answer := func(status int, body string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
	}
	web, denied := answer(http.StatusNotFound, "<html>hello</html>"), answer(http.StatusUnauthorized, "{}")
	page := answer(http.StatusOK, "<html>hello</html>")
	gateway := answer(http.StatusBadGateway, "<html>Bad Gateway</html>")
	defer gateway.Close()
	defer page.Close()
	defer web.Close()
	defer denied.Close()
	for address, want := range map[string]struct {
		text   string
		reason disconnect.Reason
	}{
		"http://" + closed.Addr().String(): {"cannot reach the server at", disconnect.ConnectionRefused},
		gateway.URL:                        {"the Fairlead server behind it does not answer", disconnect.ConnectionRefused},
		web.URL:                            {"is not a Fairlead server", disconnect.ProtocolError},
		page.URL:                           {"is a web page", disconnect.NetworkUnreachable},
		denied.URL:                         {"log in again", disconnect.AuthFailed},
	} {
		access, err := url.Parse(address)
		require.NoError(t, err)
		_, err = Open(t.Context(), Options{AccessURL: access, Token: "x", Instance: "client-1"})
		require.ErrorContains(t, err, want.text)
		require.ErrorContains(t, err, address)
		require.Less(t, len(err.Error()), 120, "one clear sentence")
		a, ok := disconnect.FromError(err)
		require.True(t, ok)
		require.Equal(t, want.reason, a.Reason, a.String())
		require.Equal(t, disconnect.ClientToServer, a.ConnectType)
	}
}

func TestEveryContactFailureIsOneSentence(t *testing.T) {
	for _, reason := range disconnect.Reasons() {
		text := contactText("http://x", disconnect.Attribution{Reason: reason, Detail: "a\nb"})
		require.Contains(t, text, "http://x")
		require.NotContains(t, text, "\n")
	}
}

func TestParseDisconnectRequest(t *testing.T) {
	payload := ssh.Marshal(struct {
		Reason, Initiator uint32
		Detail            string
	}{20, 2, "bye\x1b[2J"})
	a, ok := parseDisconnect(&ssh.Request{Type: sshend.Request, Payload: payload})
	require.True(t, ok)
	require.Equal(t, disconnect.ServerShutdown, a.Reason)
	require.Equal(t, disconnect.Agent, a.Initiator)
	require.Equal(t, disconnect.AgentToClient, a.ConnectType)
	require.NotContains(t, a.Detail, "\x1b")
	payload[7] = 1 // the client
	a, ok = parseDisconnect(&ssh.Request{Type: sshend.Request, Payload: payload})
	require.True(t, ok)
	require.Equal(t, disconnect.Agent, a.Initiator, "who says it is who ends it")
	_, ok = parseDisconnect(&ssh.Request{Type: sshend.Request, Payload: payload[:5]})
	require.False(t, ok)
	_, ok = parseDisconnect(&ssh.Request{Type: "keepalive@openssh.com"})
	require.False(t, ok)
}

func TestParseExit(t *testing.T) {
	exit, ok := parseExit(&ssh.Request{Type: "exit-status", Payload: ssh.Marshal(struct{ Status uint32 }{300})})
	require.True(t, ok)
	require.Equal(t, exitStatus{known: true, code: 44}, exit)
	exit, ok = parseExit(&ssh.Request{Type: "exit-signal", Payload: ssh.Marshal(struct {
		Signal     string
		CoreDumped bool
		Message    string
		Language   string
	}{"NEW\x1b", false, "", ""})})
	require.True(t, ok)
	require.Equal(t, 128, exit.code)
	require.NotContains(t, exit.signal, "\x1b")
	for _, req := range []*ssh.Request{
		{Type: "exit-status"}, {Type: "exit-signal"}, {Type: "eow@openssh.com"},
	} {
		_, ok = parseExit(req)
		require.False(t, ok)
	}
}

func TestSessionEndGoodbye(t *testing.T) {
	ended := func(r disconnect.Reason) disconnect.Attribution {
		return disconnect.Attribution{Reason: r, Detail: "x"}
	}
	for _, test := range []struct {
		end  SessionEnd
		want disconnect.Goodbye
	}{
		{SessionEnd{Exited: true, Attribution: ended(disconnect.ProcessExited)}, disconnect.Goodbye{Reason: disconnect.Graceful, Initiator: disconnect.Client, Detail: "the session is over"}},
		{SessionEnd{Attribution: ended(disconnect.ClientClosed)}, disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "x"}},
		{SessionEnd{Attribution: ended(disconnect.NetworkTimeout)}, disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client, Detail: "its session ended: network_timeout"}},
	} {
		require.Equal(t, test.want, test.end.Goodbye())
	}
}

func TestOnlyAnAgentThatTheServerLostIsWaitedFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	offline := func(reason disconnect.Reason, by disconnect.Initiator, ago time.Duration) error {
		return fmt.Errorf("tunnel: %w", &tailnet.RefusedError{
			Code: proto.Refusal_AGENT_OFFLINE, Since: now.Add(-ago),
			Ending: disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: reason, Initiator: by},
		})
	}
	require.True(t, comingBack(offline(disconnect.ServerShutdown, disconnect.Server, time.Second), now))
	require.True(t, comingBack(offline(disconnect.PeerCrashed, disconnect.Server, time.Second), now))
	require.False(t, comingBack(offline(disconnect.ServerShutdown, disconnect.Server, time.Hour), now))
	require.False(t, comingBack(offline(disconnect.ServerShutdown, disconnect.Agent, time.Second), now))
	require.False(t, comingBack(offline(disconnect.NetworkError, disconnect.Network, time.Second), now))
	require.False(t, comingBack(&tailnet.RefusedError{Code: proto.Refusal_NOT_FOUND}, now))
	require.False(t, comingBack(nil, now))
}

// TestReachIsOncePerAgent: a second way to an agent would take the first one's news.
func TestReachIsOncePerAgent(t *testing.T) {
	b := open(t)
	c := &Client{workspaces: make(map[proto.NodeKey]*Workspace)}
	key := proto.NodeKey{1}
	require.True(t, c.reserve(key))
	require.False(t, c.reserve(key), "one is being opened")
	c.workspaces[key] = b.Workspace
	require.False(t, c.reserve(key), "one is open")
	require.True(t, c.reserve(proto.NodeKey{2}), "another agent's")
	b.Workspace.watch.End(disconnect.Attribution{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server})
	require.True(t, c.reserve(key), "it is over")
}
