package client

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sshend"
)

// FuzzAgentRequest: an agent's last words blame only who they may, in clean text.
func FuzzAgentRequest(f *testing.F) {
	f.Add(sshend.Request, ssh.Marshal(struct {
		Reason, Initiator uint32
		Detail            string
	}{20, 2, "bye\x1b[2J"}))
	f.Add("exit-status", ssh.Marshal(struct{ Status uint32 }{1 << 31}))
	f.Add("exit-signal", ssh.Marshal(struct {
		Signal        string
		Core          bool
		Message, Lang string
	}{"TERM\x1b", true, "", ""}))
	f.Fuzz(func(t *testing.T, kind string, payload []byte) {
		req := &ssh.Request{Type: kind, Payload: payload}
		if a, ok := parseDisconnect(req); ok {
			require.True(t, a.Reason.Valid())
			require.Equal(t, a.Detail, disconnect.Scrub(a.Detail))
			require.Equal(t, disconnect.AgentToClient, a.ConnectType)
		}
		if exit, ok := parseExit(req); ok {
			require.True(t, exit.known)
			require.Equal(t, exit.signal, disconnect.Scrub(exit.signal))
			require.GreaterOrEqual(t, exit.code, 0)
			require.LessOrEqual(t, exit.code, 255)
		}
	})
}
