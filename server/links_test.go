package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentproto "fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/auth"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/coordinator"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/testutil"
	"fairlead.dev/fairlead/wsconn"
)

const patience = 20 * time.Second

// recorded starts a server whose log lines the test reads as records.
func recorded(t *testing.T, change func(*Options)) (*running, *testutil.Recorder) {
	t.Helper()
	logger, rec := testutil.NewLogRecorder(t)
	return run(t, func(o *Options) {
		o.Logger = logger
		if change != nil {
			change(o)
		}
	}), rec
}

// dial opens a control link; who is disconnect.Agent or disconnect.Client.
func (s *running) dial(t *testing.T, who disconnect.Initiator, token, instance string) (*control.Link, error) {
	t.Helper()
	leg := disconnect.ClientToServer
	if who == disconnect.Agent {
		leg = disconnect.ServerToAgent
	}
	link, err := control.Dial(testutil.Context(t, patience), control.DialOptions{
		AccessURL: s.URL(), Token: token, Instance: instance, Version: "test", ConnectType: leg, Self: who, Peer: disconnect.Server,
	})
	if err == nil {
		t.Cleanup(func() { _ = link.Close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: who}) })
	}
	return link, err
}

// agentLink opens the control link of a new workspace's agent.
func (s *running) agentLink(t *testing.T, owner store.User, name string) (*control.Link, store.Workspace, string) {
	t.Helper()
	ws, token, err := s.createWorkspace(t.Context(), owner.ID, owner.Name, name)
	require.NoError(t, err)
	link, err := s.dial(t, disconnect.Agent, token, uuid.NewString())
	require.NoError(t, err)
	return link, ws, token
}

// register does what an agent does first on its link.
func register(t *testing.T, link *control.Link, key string) {
	t.Helper()
	_, err := agentproto.NewAgentServiceClient(link.RPC()).GetManifest(testutil.Context(t, patience),
		&agentproto.GetManifestRequest{SshHostKey: key})
	require.NoError(t, err)
}

// waitOnline waits until a workspace's agent is, or is not, online.
func (s *running) waitOnline(t *testing.T, workspaceID string, want bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, online := s.presence.since(workspaceID)
		return online == want
	}, patience, 5*time.Millisecond)
}

// linkOf is the link that counts for a workspace's agent.
func (s *running) linkOf(t *testing.T, workspaceID string) *control.Link {
	t.Helper()
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	require.Contains(t, s.presence.online, workspaceID)
	return s.presence.online[workspaceID].link
}

func ended(message string) func(testutil.Ending) bool {
	return func(e testutil.Ending) bool { return e.Message == message }
}

func hostKey(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func TestAgentLinkLife(t *testing.T) {
	dir := t.TempDir()
	s, rec := recorded(t, func(o *Options) { o.StateDir = dir })
	u, token := s.addUser(t, "ada", store.RoleMember)
	link, ws, _ := s.agentLink(t, u, "dev")
	register(t, link, hostKey(t))
	s.waitOnline(t, ws.ID, true)
	got, err := s.client(t, token).Workspace(t.Context(), "dev")
	require.NoError(t, err)
	require.Equal(t, sdk.AgentConnecting, got.Agent.Status)
	require.NotNil(t, got.Agent.Since)

	require.NoError(t, link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "SIG\x1b[31mTERM"}))
	line := rec.WaitFor(testutil.Context(t, patience), ended("agent control link ended"))
	require.Equal(t, disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.ServerShutdown,
		Initiator: disconnect.Agent, Detail: disconnect.Scrub("SIG\x1b[31mTERM")}, line.Attribution)
	require.True(t, line.Expected)
	require.Equal(t, ws.ID, line.Attrs["workspace_id"])
	require.Equal(t, "ada", line.Attrs["user"])
	require.Eventually(t, func() bool { // who has the link knows the name of its row
		row, err := s.client(t, token).Connection(t.Context(), link.ConnectionID())
		return err == nil && row.Reason != nil && *row.Reason == "server_shutdown"
	}, patience, 10*time.Millisecond)

	check := func(s *running) {
		got, err := s.client(t, token).Workspace(t.Context(), "dev")
		require.NoError(t, err)
		require.Equal(t, sdk.AgentOffline, got.Agent.Status)
		require.NotNil(t, got.Agent.Since)
		require.Equal(t, &sdk.Ending{Reason: "server_shutdown", Initiator: "agent", Expected: true,
			Detail: disconnect.Scrub("SIG\x1b[31mTERM")}, got.Agent.Ending)
		since, ending, ok := s.offline(t.Context(), ws.ID)
		require.True(t, ok)
		require.WithinDuration(t, time.Now(), since, time.Minute)
		require.Equal(t, line.Attribution, ending)
	}
	check(s)
	s.stop()
	s, _ = recorded(t, func(o *Options) { o.StateDir = dir })
	check(s)
	require.Len(t, endingsOf(rec, "agent control link ended"), 1, "one line for one ending")
}

func endingsOf(rec *testutil.Recorder, message string) (all []testutil.Ending) {
	for _, e := range rec.Endings() {
		if e.Message == message {
			all = append(all, e)
		}
	}
	return all
}

// TestServerSaysGoodbye: every peer is told, each ending is logged, and how the
// agents' links ended is known after the restart.
func TestServerSaysGoodbye(t *testing.T) {
	dir := t.TempDir()
	s, rec := recorded(t, func(o *Options) { o.StateDir = dir })
	u, token := s.addUser(t, "ada", store.RoleMember)
	agentLink, ws, _ := s.agentLink(t, u, "dev")
	register(t, agentLink, hostKey(t))
	clientLink, err := s.dial(t, disconnect.Client, token, uuid.NewString())
	require.NoError(t, err)
	relayed := s.relayConn(t)
	s.waitOnline(t, ws.ID, true)
	s.stop()

	for link, leg := range map[*control.Link]disconnect.ConnectType{agentLink: disconnect.ServerToAgent, clientLink: disconnect.ClientToServer} {
		<-link.Done()
		end := link.Ending()
		require.True(t, end.Goodbye)
		require.Equal(t, disconnect.ServerShutdown, end.Reason)
		require.Equal(t, disconnect.Server, end.Initiator)
		require.Equal(t, leg, end.ConnectType)
	}
	_, _ = io.Copy(io.Discard, relayed) // the relay greets; then it says why it leaves
	require.Equal(t, 4020, relayed.Ending().Code)

	for message, leg := range map[string]disconnect.ConnectType{
		"agent control link ended": disconnect.ServerToAgent, "client control link ended": disconnect.ClientToServer,
	} {
		lines := endingsOf(rec, message)
		require.Len(t, lines, 1)
		require.Equal(t, disconnect.Attribution{ConnectType: leg, Reason: disconnect.ServerShutdown,
			Initiator: disconnect.Server, Detail: "the server is stopping"}, lines[0].Attribution)
		require.True(t, lines[0].Expected)
	}
	s, rec = recorded(t, func(o *Options) { o.StateDir = dir })
	got, err := s.client(t, token).Workspace(t.Context(), "dev")
	require.NoError(t, err)
	require.Equal(t, &sdk.Ending{Reason: "server_shutdown", Initiator: "server", Expected: true, Detail: "the server is stopping"}, got.Agent.Ending)
	require.Empty(t, rec.Endings(), "the former life ended well")
}

// relayConn opens a connection to the relay for a new node.
func (s *running) relayConn(t *testing.T) *wsconn.Conn {
	t.Helper()
	var key proto.NodeKey
	_, err := rand.Read(key[:])
	require.NoError(t, err)
	u, _ := s.addUser(t, fmt.Sprintf("user%x", key[:4]), store.RoleMember)
	tokens, err := s.store.Tokens(t.Context(), u.ID)
	require.NoError(t, err)
	by := relaySubject{id: u.ID, token: tokens[0].ID}
	conn, err := s.dialRelay(t, s.signer.Sign(relay.Claims{Node: key, Expires: s.opts.Now().Add(time.Hour), Subject: by.String()}))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *running) dialRelay(t *testing.T, token string) (*wsconn.Conn, error) {
	t.Helper()
	return wsconn.Dial(testutil.Context(t, patience), s.URL().JoinPath("/api/v1/relay").String(), wsconn.DialOptions{
		Header: http.Header{"Authorization": {"Bearer " + token}}, Subprotocols: []string{relay.Subprotocol},
	})
}

func TestRelayIsNotOpen(t *testing.T) {
	clock := newClock()
	s := run(t, func(o *Options) { o.Now = clock.Now })
	ada, user := s.addUser(t, "ada", store.RoleAdmin)
	tokens, err := s.store.Tokens(t.Context(), ada.ID)
	require.NoError(t, err)
	claims := relay.Claims{Node: proto.NodeKey{1}, Expires: clock.Now().Add(time.Minute), Subject: relaySubject{id: ada.ID, token: tokens[0].ID}.String()}
	late := s.signer.Sign(claims)
	clock.advance(time.Minute)
	claims.Expires = clock.Now().Add(time.Hour)
	conn, err := s.dialRelay(t, s.signer.Sign(claims))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	other := relay.NewTokenSigner([32]byte{1}).Sign(claims)
	refused := []string{"", "garbage", user, late, other}
	for _, subject := range []string{"", "user", relaySubject{id: ada.ID, token: uuid.NewString()}.String(),
		relaySubject{id: uuid.NewString(), token: tokens[0].ID}.String(), relaySubject{agent: true, id: ada.ID}.String()} {
		claims.Subject = subject // signed by us, and no right behind it
		refused = append(refused, s.signer.Sign(claims))
	}
	for _, token := range refused {
		_, err := s.dialRelay(t, token)
		var refused *wsconn.DialError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, http.StatusUnauthorized, refused.Status)
		require.Equal(t, "30", refused.Header.Get(sdk.HeaderReason))
	}
}

func TestControlLinkNeedsAToken(t *testing.T) {
	s := run(t, nil)
	u, token := s.addUser(t, "ada", store.RoleMember)
	for _, bad := range []string{"garbage", newAgentToken()} {
		_, err := s.dial(t, disconnect.Client, bad, uuid.NewString())
		require.Error(t, err)
		a := control.JudgeDial(err, disconnect.ClientToServer, disconnect.Client, disconnect.Server)
		require.Equal(t, disconnect.AuthFailed, a.Reason)
		require.Equal(t, disconnect.Server, a.Initiator)
	}
	_, err := s.store.UpdateUser(t.Context(), u.ID, func(u *store.User) { u.Disabled = true })
	require.NoError(t, err)
	_, err = s.dial(t, disconnect.Client, token, uuid.NewString())
	require.Error(t, err)
}

// TestFormerLife: after a server that died without a word, its agents are not online.
// TestRightWithdrawnWhileALinkIsMade: who ended the links of the withdrawn right did not
// find this one yet.
func TestRightWithdrawnWhileALinkIsMade(t *testing.T) {
	for name, withdraw := range map[string]func(s *running, u store.User, p auth.Principal) error{
		"token revoked": func(s *running, _ store.User, p auth.Principal) error {
			return s.store.DeleteToken(t.Context(), p.TokenID)
		},
		"account disabled": func(s *running, u store.User, _ auth.Principal) error {
			_, err := s.store.UpdateUser(t.Context(), u.ID, func(u *store.User) { u.Disabled = true })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, rec := recorded(t, nil)
			u, token := s.addUser(t, "ada", store.RoleMember)
			p, err := s.auth.Authenticate(t.Context(), token)
			require.NoError(t, err)
			require.NoError(t, withdraw(s, u, p))
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = s.getControl(w, r, p) // admitted before
			}))
			defer h.Close()
			at, err := url.Parse(h.URL)
			require.NoError(t, err)
			link, err := control.Dial(testutil.Context(t, patience), control.DialOptions{
				AccessURL: at, Token: token, Instance: "i", ConnectType: disconnect.ClientToServer,
				Self: disconnect.Client, Peer: disconnect.Server,
			})
			if err == nil {
				defer link.Close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client})
				<-link.Done()
			} // else it ended before the hello, and the next attempt is refused with 401
			line := rec.WaitFor(testutil.Context(t, patience), ended("client control link ended"))
			require.Equal(t, disconnect.AuthRevoked, line.Attribution.Reason)
			require.Equal(t, disconnect.Server, line.Attribution.Initiator)
		})
	}
}

func TestFormerLife(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(t.Context(), dir)
	require.NoError(t, err)
	seen := time.Now().Add(-time.Hour).Truncate(time.Microsecond).UTC()
	owner := store.User{ID: uuid.NewString(), Name: "ada", Role: store.RoleAdmin, CreatedAt: seen}
	require.NoError(t, db.CreateUser(t.Context(), owner))
	ws := store.Workspace{ID: uuid.NewString(), OwnerID: owner.ID, Name: "dev", AgentTokenHash: "h", CreatedAt: seen}
	require.NoError(t, db.CreateWorkspace(t.Context(), ws))
	require.NoError(t, db.AgentConnected(t.Context(), ws.ID, "life", seen))
	left := map[string]disconnect.ConnectType{uuid.NewString(): disconnect.ServerToAgent, uuid.NewString(): disconnect.ClientToServer}
	require.NoError(t, db.WriteConnections(t.Context(), false, func(tx *store.ConnTx) error {
		for id, leg := range left {
			row := store.Connection{ID: id, ConnectType: leg, Type: store.TypeControl, Instance: "before", ConnectedAt: seen, Status: store.StatusOpen}
			if row.User.ID, row.User.Name = owner.ID, owner.Name; leg == disconnect.ServerToAgent {
				row.Workspace.Owner = row.User
				row.Workspace.ID, row.Workspace.Name = ws.ID, ws.Name
			}
			if err := tx.Insert(t.Context(), &row); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, db.Close()) // without an ending

	s, rec := recorded(t, func(o *Options) { o.StateDir = dir })
	want := disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.PeerCrashed,
		Initiator: disconnect.Server, Detail: "the server died without a goodbye"}
	since, ending, ok := s.offline(t.Context(), ws.ID)
	require.True(t, ok)
	require.Equal(t, seen, since)
	require.Equal(t, want, ending)
	for _, line := range rec.Endings() { // each is named, for who knows it by that
		id := line.Attrs["connection_id"].(string)
		require.Equal(t, want.On(left[id]), line.Attribution)
		require.False(t, line.Expected)
		delete(left, id)
	}
	require.Empty(t, left)
	require.Len(t, s.rulings.of(ws.ID), 1, "the agent saw that the link broke, no more")
}

// TestNewerLinkCounts: an agent that comes back before its old link is known to be
// dead stays online when the old one ends.
func TestNewerLinkCounts(t *testing.T) {
	s, rec := recorded(t, nil)
	u, _ := s.addUser(t, "ada", store.RoleMember)
	ws, token, err := s.createWorkspace(t.Context(), u.ID, u.Name, "dev")
	require.NoError(t, err)
	instance, key := uuid.NewString(), hostKey(t)
	old, err := s.dial(t, disconnect.Agent, token, instance)
	require.NoError(t, err)
	register(t, old, key)
	s.waitOnline(t, ws.ID, true)
	first, _ := s.presence.since(ws.ID)
	newer, err := s.dial(t, disconnect.Agent, token, instance)
	require.NoError(t, err)
	register(t, newer, key)
	require.Eventually(t, func() bool { since, _ := s.presence.since(ws.ID); return since.After(first) }, patience, 5*time.Millisecond)

	old.Abort(disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkError, Initiator: disconnect.Network})
	line := rec.WaitFor(testutil.Context(t, patience), ended("agent control link ended"))
	require.False(t, line.Expected, "a cut without a goodbye is no clean end")
	_, online := s.presence.since(ws.ID)
	require.True(t, online)
	row, err := s.store.WorkspaceByID(t.Context(), ws.ID)
	require.NoError(t, err)
	require.True(t, row.Agent.Online)
}

// TestUnregisteredLinksAreBounded: who has an agent's token but not its host key holds a
// few links, and keeps the agent itself out of nothing.
func TestUnregisteredLinksAreBounded(t *testing.T) {
	s := run(t, nil)
	ada, _ := s.addUser(t, "ada", store.RoleMember)
	link, ws, token := s.agentLink(t, ada, "dev")
	key := hostKey(t)
	register(t, link, key)
	var held []*control.Link
	for range 3 * maxUnregistered {
		l, err := s.dial(t, disconnect.Agent, token, uuid.NewString())
		require.NoError(t, err)
		held = append(held, l)
	}
	ended := func() (n int) { // the server need not see them in the order in which they were dialled
		for _, l := range held {
			if l.Err() == nil {
				continue
			}
			n++
			require.Equal(t, disconnect.LimitExceeded, l.Ending().Reason)
			require.Equal(t, disconnect.Server, l.Ending().Initiator)
		}
		return n
	}
	require.Eventually(t, func() bool { return ended() == 2*maxUnregistered }, patience, 5*time.Millisecond,
		"links that have not registered are held")
	require.NoError(t, link.Err(), "the agent is no stranger")
	require.Eventually(t, func() bool { return len(s.control.Links()) == 1+maxUnregistered }, patience, 5*time.Millisecond)
	require.Equal(t, 2*maxUnregistered, ended(), "the others stay")

	again, err := s.dial(t, disconnect.Agent, token, link.PeerInstance())
	require.NoError(t, err)
	register(t, again, key)
	for range 2 * maxUnregistered {
		_, err := s.dial(t, disconnect.Agent, token, uuid.NewString())
		require.NoError(t, err)
	}
	require.NoError(t, again.Err())
	_, online := s.presence.since(ws.ID)
	require.True(t, online)
	for _, l := range s.control.Links() {
		_ = l.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Server})
	}
	require.Eventually(t, func() bool {
		s.presence.mu.Lock()
		defer s.presence.mu.Unlock()
		return len(s.presence.strangers) == 0
	}, patience, 5*time.Millisecond, "those that have ended are forgotten")
}

// TestManyAgentsWithOneToken: of agents that register at one time one is left, and each
// of the others is told.
func TestManyAgentsWithOneToken(t *testing.T) {
	s := run(t, nil)
	u, _ := s.addUser(t, "ada", store.RoleMember)
	first, ws, token := s.agentLink(t, u, "dev")
	key := hostKey(t)
	register(t, first, key)
	links := []*control.Link{first}
	for range 5 {
		link, err := s.dial(t, disconnect.Agent, token, uuid.NewString())
		require.NoError(t, err)
		links = append(links, link)
	}
	var all sync.WaitGroup
	for _, link := range links[1:] {
		all.Go(func() { // the loser's call fails with its link
			_, _ = agentproto.NewAgentServiceClient(link.RPC()).GetManifest(testutil.Context(t, patience),
				&agentproto.GetManifestRequest{SshHostKey: key})
		})
	}
	all.Wait()
	require.Eventually(t, func() bool {
		left := 0
		for _, link := range links {
			if link.Ending().IsZero() {
				left++
			}
		}
		return left == 1
	}, patience, 5*time.Millisecond)
	for _, link := range links {
		if e := link.Ending(); !e.IsZero() {
			require.Equal(t, disconnect.DuplicateAgent, e.Reason)
			continue
		}
		require.True(t, s.linkOf(t, ws.ID).Ending().IsZero(), "the one that is left counts")
	}
}

// TestEndingWithoutARecordedBeginning: a database that missed the beginning of a link
// is told its end all the same.
func TestEndingWithoutARecordedBeginning(t *testing.T) {
	s := run(t, nil)
	u, _ := s.addUser(t, "ada", store.RoleMember)
	link, ws, _ := s.agentLink(t, u, "dev")
	register(t, link, hostKey(t))
	require.NoError(t, s.store.AgentConnected(t.Context(), ws.ID, "of long ago", s.opts.Now()))
	require.NoError(t, link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent}))
	require.Eventually(t, func() bool {
		row, err := s.store.WorkspaceByID(t.Context(), ws.ID)
		return err == nil && !row.Agent.Online && row.Agent.Ending.Reason == disconnect.ServerShutdown
	}, patience, 5*time.Millisecond)
}

func TestManifestPinsTheHostKey(t *testing.T) {
	s := run(t, nil)
	u, userToken := s.addUser(t, "ada", store.RoleMember)
	link, ws, token := s.agentLink(t, u, "dev")
	ctx := testutil.Context(t, patience)
	agent := agentproto.NewAgentServiceClient(link.RPC())
	first, second := hostKey(t), hostKey(t)

	for _, bad := range []string{"", "garbage", first + "\n" + second, "ssh-ed25519 AAAA", strings.Repeat("x", maxHostKey+1)} {
		_, err := agent.GetManifest(ctx, &agentproto.GetManifestRequest{SshHostKey: bad})
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%.40q: %v", bad, err)
	}
	pinned := func() string {
		ws, err := s.store.WorkspaceByID(ctx, ws.ID)
		require.NoError(t, err)
		return ws.SSHHostKey
	}
	require.Empty(t, pinned())
	for range 2 {
		m, err := agent.GetManifest(ctx, &agentproto.GetManifestRequest{SshHostKey: first + " a comment\n"})
		require.NoError(t, err)
		require.Equal(t, ws.ID, m.GetWorkspaceId())
		require.Equal(t, "dev", m.GetWorkspaceName())
		require.Equal(t, "ada", m.GetOwnerName())
		require.Equal(t, first, pinned())
	}

	again, err := s.dial(t, disconnect.Agent, token, uuid.NewString())
	require.NoError(t, err)
	_, err = agentproto.NewAgentServiceClient(again.RPC()).GetManifest(ctx, &agentproto.GetManifestRequest{SshHostKey: second})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.Contains(t, err.Error(), "registered with another SSH host key")
	require.Equal(t, first, pinned())

	// Whoever has the token but not the key takes nobody's place, and reports nothing.
	stream, err := proto.NewTailnetServiceClient(again.RPC()).Coordinate(ctx)
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	id := uuid.New()
	_, err = reportConnections(ctx, again, &agentproto.Connection{Id: id[:], Action: agentproto.Connection_CONNECT})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.True(t, s.presence.registered(s.linkOf(t, ws.ID)))

	// The owner allows the change, once; everybody who reaches the workspace can see that.
	owner := s.client(t, userToken)
	require.NoError(t, owner.RekeyWorkspace(ctx, "dev"))
	register(t, again, second)
	require.Equal(t, second, pinned())
	rekeys, err := owner.Rekeys(ctx, "dev")
	require.NoError(t, err)
	require.Len(t, rekeys, 1)
	require.Equal(t, []string{"ada", first, second}, []string{rekeys[0].By, rekeys[0].OldKey, rekeys[0].NewKey})
	// The older agent is told: the two share a token, and it still lives.
	select {
	case <-link.Done():
	case <-ctx.Done():
		require.FailNow(t, "the older agent was not told")
	}
	require.Equal(t, disconnect.DuplicateAgent, link.Ending().Reason)
	require.Equal(t, disconnect.Server, link.Ending().Initiator)
	back, err := s.dial(t, disconnect.Agent, token, uuid.NewString())
	require.NoError(t, err)
	_, err = agentproto.NewAgentServiceClient(back.RPC()).GetManifest(ctx, &agentproto.GetManifestRequest{SshHostKey: first})
	require.Equal(t, codes.PermissionDenied, status.Code(err), "the old key is the wrong one now")

	client, err := s.dial(t, disconnect.Client, userToken, uuid.NewString())
	require.NoError(t, err)
	_, err = agentproto.NewAgentServiceClient(client.RPC()).GetManifest(ctx, &agentproto.GetManifestRequest{SshHostKey: second})
	require.Equal(t, codes.PermissionDenied, status.Code(err), "a client is no agent")
}

// reportConnections sends one batch as an agent does.
func reportConnections(ctx context.Context, link *control.Link, all ...*agentproto.Connection) (*agentproto.ReportConnectionsResponse, error) {
	req := &agentproto.ReportConnectionsRequest{SentAt: timestamppb.Now()}
	for _, c := range all {
		req.Reports = append(req.Reports, &agentproto.ReportConnectionRequest{Connection: c})
	}
	return agentproto.NewAgentServiceClient(link.RPC()).ReportConnections(ctx, req)
}

// TestReportConnections: what makes no sense is refused, by its place in the batch, and
// stops nothing else; the end is logged once, however often it is reported.
func TestReportConnections(t *testing.T) {
	s, rec := recorded(t, nil)
	u, userToken := s.addUser(t, "ada", store.RoleMember)
	link, ws, _ := s.agentLink(t, u, "dev")
	register(t, link, hostKey(t))
	ctx := testutil.Context(t, patience)
	id := uuid.New()
	good := func() *agentproto.Connection {
		return &agentproto.Connection{
			Id: id[:], Action: agentproto.Connection_CONNECT, Type: agentproto.Connection_SSH, Principal: "ada",
			Timestamp: timestamppb.Now(), App: "vsc\x1bode", Ip: "192.0.2.1", Path: agentproto.Connection_RELAY,
		}
	}
	for name, spoil := range map[string]func(*agentproto.Connection){
		"no id":          func(c *agentproto.Connection) { c.Id = nil },
		"short id":       func(c *agentproto.Connection) { c.Id = id[:15] },
		"zero id":        func(c *agentproto.Connection) { c.Id = make([]byte, 16) },
		"no action":      func(c *agentproto.Connection) { c.Action = 0 },
		"unknown action": func(c *agentproto.Connection) { c.Action = 9 },
		"unknown type":   func(c *agentproto.Connection) { c.Type = 99 },
		"unknown path":   func(c *agentproto.Connection) { c.Path = 99 },
		"no time":        func(c *agentproto.Connection) { c.Timestamp = nil },
	} {
		bad := good()
		spoil(bad)
		answer, err := reportConnections(ctx, link, nil, good(), bad)
		require.NoError(t, err, name)
		require.Len(t, answer.GetRefused(), 2, name)
		require.EqualValues(t, 0, answer.GetRefused()[0].GetIndex(), name)
		require.EqualValues(t, 2, answer.GetRefused()[1].GetIndex(), name)
	}
	rows := s.rows(t, store.ConnFilter{ConnectType: disconnect.AgentToClient})
	require.Len(t, rows, 1)
	require.Equal(t, id.String(), rows[0].ID)
	require.Equal(t, ws.ID, rows[0].Workspace.ID)
	require.Equal(t, "ada", rows[0].User.Name)
	require.NotContains(t, rows[0].App, "\x1b")
	require.Equal(t, store.StatusOpen, rows[0].Status)

	want := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.ProcessExited, Initiator: disconnect.Agent, Detail: "exit 7"}
	end := good()
	end.Action, end.StatusCode, end.Attribution, end.BytesSent = agentproto.Connection_DISCONNECT, 7, wire.FromAttribution(want), 99
	for range 2 {
		_, err := reportConnections(ctx, link, end, good())
		require.NoError(t, err)
	}
	line := rec.WaitFor(ctx, ended("connection ended"))
	require.Equal(t, want, line.Attribution)
	require.Len(t, endingsOf(rec, "connection ended"), 1)
	rows = s.rows(t, store.ConnFilter{ConnectType: disconnect.AgentToClient})
	require.Len(t, rows, 1)
	require.Equal(t, want, rows[0].Ending)
	require.Equal(t, 7, *rows[0].ExitCode)
	require.EqualValues(t, 99, rows[0].BytesSent)
	require.Zero(t, rows[0].Revision)

	client, err := s.dial(t, disconnect.Client, userToken, uuid.NewString())
	require.NoError(t, err)
	_, err = reportConnections(ctx, client, good())
	require.Equal(t, codes.PermissionDenied, status.Code(err))
}

// rows returns what the connection log has.
func (s *running) rows(t *testing.T, f store.ConnFilter) []store.Connection {
	t.Helper()
	f.Limit = 100
	rows, err := s.store.Connections(t.Context(), f)
	require.NoError(t, err)
	return rows
}

// TestLinksAreLogged: each control link is a row, with its ending.
func TestLinksAreLogged(t *testing.T) {
	s := run(t, nil)
	u, userToken := s.addUser(t, "ada", store.RoleMember)
	agentLink, ws, _ := s.agentLink(t, u, "dev")
	clientLink, err := s.dial(t, disconnect.Client, userToken, uuid.NewString())
	require.NoError(t, err)
	live := func() []store.Connection {
		return s.rows(t, store.ConnFilter{Status: store.StatusOpen, Ascending: true})
	}
	require.Eventually(t, func() bool { return len(live()) == 2 }, patience, time.Millisecond)
	require.NoError(t, clientLink.Close(disconnect.Goodbye{Reason: disconnect.ClientClosed, Initiator: disconnect.Client}))
	require.NoError(t, agentLink.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "stopping"}))
	require.Eventually(t, func() bool { return len(live()) == 0 }, patience, time.Millisecond)
	for _, row := range s.rows(t, store.ConnFilter{}) {
		switch row.ConnectType {
		case disconnect.ServerToAgent:
			require.Equal(t, ws.ID, row.Workspace.ID)
			require.Equal(t, disconnect.ServerShutdown, row.Ending.Reason)
			require.Equal(t, disconnect.Agent, row.Ending.Initiator)
		case disconnect.ClientToServer:
			require.Equal(t, "ada", row.User.Name)
			require.Equal(t, disconnect.ClientClosed, row.Ending.Reason)
		default:
			require.Fail(t, "a row of another layer")
		}
		require.Equal(t, store.TypeControl, row.Type)
		require.Equal(t, "127.0.0.1", row.IP)
		require.False(t, row.DisconnectedAt.Before(row.ConnectedAt))
	}
}

func TestAuthorize(t *testing.T) {
	s := run(t, nil)
	ctx := t.Context()
	tokens := make(map[string]string) // a token's id, by its user's
	withToken := func(name string, role store.Role) store.User {
		u, token := s.addUser(t, name, role)
		p, err := s.auth.Authenticate(ctx, token)
		require.NoError(t, err)
		tokens[u.ID] = p.TokenID
		return u
	}
	root, ada, bob := withToken("root", store.RoleAdmin), withToken("ada", store.RoleMember), withToken("bob", store.RoleMember)
	dev, _, err := s.createWorkspace(ctx, ada.ID, ada.Name, "dev")
	require.NoError(t, err)
	hex, _, err := s.createWorkspace(ctx, ada.ID, ada.Name, "0123456789abcdef0123456789abcdef")
	require.NoError(t, err)
	as := func(u store.User) control.Identity {
		return control.Identity{Kind: control.ClientPeer, ID: u.ID, TokenID: tokens[u.ID]}
	}
	for _, c := range []struct {
		id   control.Identity
		name string
		ok   bool
	}{
		{as(ada), "dev", true}, {as(ada), "ada/dev", true}, {as(ada), dev.ID, true},
		{as(root), "ada/dev", true}, {as(root), dev.ID, true}, {as(root), "dev", false},
		{as(bob), "dev", false}, {as(bob), "ada/dev", false}, {as(bob), dev.ID, false},
		{as(ada), "", false}, {as(ada), "nothing", false}, {as(ada), "a/b/c", false}, {as(ada), "dev\x00", false},
		{as(ada), uuid.NewString(), false}, {as(store.User{ID: "nobody"}), "dev", false},
		{control.Identity{Kind: control.AgentPeer, ID: ada.ID, TokenID: tokens[ada.ID]}, "dev", false},
		{control.Identity{Kind: control.AgentPeer, ID: dev.ID}, dev.ID, false},
		{control.Identity{ID: ada.ID, TokenID: tokens[ada.ID]}, "dev", false},
		{control.Identity{Kind: control.ClientPeer, ID: ada.ID}, "dev", false},
		{control.Identity{Kind: control.ClientPeer, ID: ada.ID, TokenID: tokens[root.ID]}, "dev", false},
	} {
		got, err := s.authorize(ctx, c.id, c.name)
		if c.ok {
			require.NoError(t, err, c.name)
			require.Equal(t, dev.ID, got.WorkspaceID)
			continue
		}
		require.ErrorIs(t, err, coordinator.ErrNotFound, "%+v %q", c.id, c.name)
	}

	got, err := s.authorize(ctx, as(ada), hex.Name)
	require.NoError(t, err, "a name that looks like an id without its hyphens")
	require.Equal(t, hex.ID, got.WorkspaceID)

	_, err = s.store.UpdateUser(ctx, ada.ID, func(u *store.User) { u.Disabled = true })
	require.NoError(t, err)
	_, err = s.authorize(ctx, as(ada), "dev")
	require.ErrorIs(t, err, coordinator.ErrNotFound)
	dead, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.authorize(dead, as(root), "ada/dev")
	require.Error(t, err)
	require.NotErrorIs(t, err, coordinator.ErrNotFound, "a database that fails denies nothing")
}
