package server

import (
	"io"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

// heard is a relay connection that somebody reads, so that it answers pings.
type heard struct {
	*wsconn.Conn
	ended chan wsconn.Ending
}

func hear(t *testing.T, conn *wsconn.Conn) heard {
	h := heard{conn, make(chan wsconn.Ending, 1)}
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		h.ended <- conn.Ending()
	}()
	t.Cleanup(func() { _ = conn.Close() })
	return h
}

// relayed is a node at the embedded relay, as the one that a link has proved.
func (s *running) relayed(t *testing.T, who disconnect.Initiator, token string) heard {
	t.Helper()
	link, err := s.dial(t, who, token, uuid.NewString())
	require.NoError(t, err)
	if who == disconnect.Agent {
		register(t, link, hostKey(t))
	}
	conn, err := s.dialRelay(t, coordinate(t, link).token)
	require.NoError(t, err)
	return hear(t, conn)
}

// ending waits for the relay to end the connection.
func (h heard) ending(t *testing.T, within time.Duration) disconnect.Goodbye {
	t.Helper()
	select {
	case e := <-h.ended:
		g, ok := disconnect.ParseCloseCode(e.Code, e.Text)
		require.True(t, ok, "%+v", e)
		return g
	case <-time.After(within):
		require.Fail(t, "the connection goes on")
		return disconnect.Goodbye{}
	}
}

// TestWithdrawnRightEndsRelayConnections: what a relay connection rests on is gone, so
// it goes within 2 s, and no other does.
func TestWithdrawnRightEndsRelayConnections(t *testing.T) {
	s := run(t, nil)
	_, rootToken := s.addUser(t, "root", store.RoleAdmin)
	root := s.client(t, rootToken)
	ada, token := s.addUser(t, "ada", store.RoleMember)
	bystander := s.relayed(t, disconnect.Client, rootToken)
	second := s.addToken(t, ada, store.ScopeSSH)
	const soon = 2 * time.Second

	byToken := s.relayed(t, disconnect.Client, second)
	require.NoError(t, revoke(s.client(t, second), t.Context(), sdk.CurrentToken))
	require.Equal(t, revoked("the token was revoked"), byToken.ending(t, soon))

	ws, agentToken, err := s.createWorkspace(t.Context(), ada.ID, ada.Name, "dev")
	require.NoError(t, err)
	agent := s.relayed(t, disconnect.Agent, agentToken)
	_, err = s.client(t, token).RotateToken(t.Context(), "ada/dev")
	require.NoError(t, err)
	require.Equal(t, revoked("the agent's token was replaced"), agent.ending(t, soon))
	old := s.signer.Sign(relay.Claims{Node: proto.NodeKey{1}, Expires: time.Now().Add(time.Hour),
		Subject: relaySubject{agent: true, id: ws.ID, token: "former"}.String()})
	_, err = s.dialRelay(t, old)
	require.Error(t, err, "nor does it come back with the relay token of before")

	byUser := s.relayed(t, disconnect.Client, token)
	disabled := true
	_, err = root.UpdateUser(t.Context(), "ada", sdk.UpdateUserRequest{Disabled: &disabled})
	require.NoError(t, err)
	require.Equal(t, revoked("this account is disabled"), byUser.ending(t, soon))

	require.NoError(t, bystander.Ping(testutil.Context(t, patience)))
}

// TestRelayConnectionLastsAsLongAsItsNodesToken: the token of a node that is with the
// server is renewed, and with it the connection; an idle one that nobody renews ends,
// and so does that of a user whose credential has expired.
func TestRelayConnectionLastsAsLongAsItsNodesToken(t *testing.T) {
	clock := newClock()
	s := run(t, func(o *Options) { o.Now = clock.Now })
	ada, token := s.addUser(t, "ada", store.RoleMember)
	link, err := s.dial(t, disconnect.Client, token, uuid.NewString())
	require.NoError(t, err)
	n := coordinate(t, link)
	conn, err := s.dialRelay(t, n.token)
	require.NoError(t, err)
	kept := hear(t, conn)
	alone := hear(t, s.relayConn(t)) // of a node without a link

	brief, row := s.auth.NewUserToken(ada.ID, "brief")
	row.ExpiresAt = clock.Now().Add(time.Minute)
	require.NoError(t, s.store.CreateToken(t.Context(), row))
	user := s.relayed(t, disconnect.Client, brief)
	clock.advance(time.Minute)
	require.Equal(t, disconnect.AuthExpired, user.ending(t, 2*time.Second).Reason)

	clock.advance(20 * time.Hour)
	require.Equal(t, disconnect.AuthExpired, alone.ending(t, 2*time.Second).Reason)
	s.relayToken(n.key, control.Identity{}, clock.Now().Add(24*time.Hour)) // as the coordinator does every 12 h
	alone = hear(t, s.relayConn(t))
	clock.advance(20 * time.Hour)
	require.Equal(t, disconnect.AuthExpired, alone.ending(t, 2*time.Second).Reason)
	require.NoError(t, kept.Ping(testutil.Context(t, patience)), "its token of 40 hours ago does not count")
	alone = hear(t, s.relayConn(t))
	clock.advance(20 * time.Hour)
	require.Equal(t, disconnect.AuthExpired, kept.ending(t, 2*time.Second).Reason)
	require.Equal(t, disconnect.AuthExpired, alone.ending(t, 2*time.Second).Reason)
}

func FuzzRelaySubject(f *testing.F) {
	f.Add("user a b")
	f.Add("agent  ")
	f.Fuzz(func(t *testing.T, text string) {
		if s, ok := parseSubject(text); ok {
			require.Equal(t, text, s.String())
		}
	})
}
