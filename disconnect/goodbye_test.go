package disconnect

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestCloseTextFitsItsFrame(t *testing.T) {
	g := Goodbye{Reason: ServerShutdown, Initiator: Agent, Detail: strings.Repeat("é", 200)}
	code, text := g.CloseCode()
	require.LessOrEqual(t, len(text), 123)
	require.True(t, utf8.ValidString(text))

	heard, ok := ParseCloseCode(code, text)
	require.True(t, ok)
	require.Equal(t, Agent, heard.Initiator)
	require.True(t, strings.HasPrefix(g.Detail, heard.Detail))
	require.NotEmpty(t, heard.Detail)
}

func TestParseCloseCode(t *testing.T) {
	tests := []struct {
		name string
		code int
		text string
		want Goodbye
		ok   bool
	}{
		{"ours", 4020, "i=3;d=upgrade", Goodbye{ServerShutdown, Server, "upgrade"}, true},
		{"no text", 4020, "", Goodbye{Reason: ServerShutdown}, true},
		{"a field of a newer version", 4020, "i=3;c=8f2a;d=upgrade", Goodbye{ServerShutdown, Server, "upgrade"}, true},
		{"initiator of a newer version", 4020, "i=77;d=x", Goodbye{Reason: ServerShutdown, Detail: "x"}, true},
		{"initiator out of range", 4020, "i=-1;d=x", Goodbye{Reason: ServerShutdown, Detail: "x"}, true},
		{"foreign text", 4020, "going away", Goodbye{Reason: ServerShutdown}, true},
		{"hostile detail", 4020, "i=3;d=\x1b]0;x\x07\u202e", Goodbye{ServerShutdown, Server, "]0;x"}, true},
		{"not private", 1000, "i=3;d=", Goodbye{}, false},
		{"outside the set", 4099, "i=3;d=", Goodbye{}, false},
		{"far outside", 4999, "i=3;d=", Goodbye{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := ParseCloseCode(tt.code, tt.text)
			require.Equal(t, tt.ok, ok)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestGoodbyeAndAttribution(t *testing.T) {
	a := Attribution{ServerToAgent, ServerShutdown, Server, "upgrade"}
	require.Equal(t, Goodbye{ServerShutdown, Server, "upgrade"}, a.Goodbye())
	require.Equal(t, a, a.Goodbye().On(ServerToAgent))
}

func TestGoodbyeNamesItsSender(t *testing.T) {
	for _, tc := range []struct {
		sender Initiator
		said   Goodbye
		named  Initiator
	}{
		{Agent, Goodbye{Reason: ServerShutdown, Initiator: Agent}, Agent},
		{Agent, Goodbye{Reason: ServerShutdown, Initiator: Server}, Agent},
		{Agent, Goodbye{Reason: ServerShutdown}, Agent},
		{Agent, Goodbye{Reason: ProtocolError, Initiator: Server}, Server},
		{Agent, Goodbye{Reason: NetworkTimeout, Initiator: Network}, Network},
		{Client, Goodbye{Reason: ServerShutdown, Initiator: Agent}, Client},
		{Server, Goodbye{Reason: ClientClosed, Initiator: Client}, Client},
		{Server, Goodbye{}, InitiatorUnknown},
	} {
		heard := tc.said.From(tc.sender)
		require.Equal(t, tc.named, heard.Initiator, "%v says %v", tc.sender, tc.said)
		require.Equal(t, tc.said.Reason, heard.Reason)
	}
}

// TestTheServersWordIsPassedOn: what only the server decides may come through an agent.
func TestTheServersWordIsPassedOn(t *testing.T) {
	for _, r := range []Reason{AuthRevoked, AuthExpired, DuplicateAgent, WorkspaceStopped, AdminTerminated, WorkspaceEvicted} {
		g := Goodbye{Reason: r, Initiator: Server, Detail: "x"}
		require.Equal(t, g, g.From(Agent))
		require.Equal(t, g, g.From(Client))
		require.Equal(t, Agent, Goodbye{Reason: r, Initiator: Client}.From(Agent).Initiator, "that accuses the client")
	}
	replaced := Goodbye{Reason: SessionReplaced, Initiator: Client}
	require.Equal(t, replaced, replaced.From(Agent), "the client of the newer session did it")
}
