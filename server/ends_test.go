package server

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentproto "fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/testutil"
)

// follower is an agent that asks for its orders when it is nudged.
type follower struct {
	link *control.Link
	key  string
}

// current asks.
func (f follower) current(t *testing.T) *agentproto.Orders {
	t.Helper()
	m, err := agentproto.NewAgentServiceClient(f.link.RPC()).GetManifest(testutil.Context(t, patience), &agentproto.GetManifestRequest{SshHostKey: f.key})
	require.NoError(t, err)
	return m.GetOrders()
}

// next waits for a nudge, and asks.
func (f follower) next(t *testing.T) *agentproto.Orders {
	t.Helper()
	select {
	case <-f.link.Nudged():
	case <-time.After(patience):
		require.FailNow(t, "the agent was not nudged")
	}
	return f.current(t)
}

// TestOrders: all at once, and again when something of it changes.
func TestOrders(t *testing.T) {
	s := run(t, func(o *Options) { o.IdleTimeout = time.Hour })
	u, token := s.addUser(t, "ada", store.RoleMember)
	ada, ctx := s.client(t, token), testutil.Context(t, patience)
	link, ws, _ := s.agentLink(t, u, "dev")
	stream := follower{link, hostKey(t)}
	o := stream.current(t)
	require.Nil(t, o.GetStopped())
	require.Nil(t, o.GetNotice())
	require.Equal(t, time.Hour, o.GetPolicy().GetIdleTimeout().AsDuration())
	require.Equal(t, "the server's default policy", o.GetPolicy().GetIdleRule())
	require.Zero(t, o.GetPolicy().GetSessionLimit().AsDuration())

	change, err := ada.StopWorkspace(ctx, "dev")
	require.NoError(t, err)
	require.True(t, change.Changed)
	require.Equal(t, "ada", change.Workspace.Stopped.By)
	want := disconnect.Goodbye{Reason: disconnect.WorkspaceStopped, Initiator: disconnect.Server, Detail: "stopped by ada"}
	require.Equal(t, want, wire.ToGoodbye(stream.next(t).GetStopped().GetGoodbye()))
	change, err = ada.StopWorkspace(ctx, "dev")
	require.NoError(t, err)
	require.False(t, change.Changed)
	_, err = ada.StartWorkspace(ctx, "dev")
	require.NoError(t, err)
	require.Nil(t, stream.next(t).GetStopped(), "what did not change nudged nobody")

	limit, never := "8h", sdk.Never
	p, err := ada.UpdatePolicy(ctx, "dev", sdk.UpdatePolicyRequest{SessionLimit: &limit, IdleTimeout: &never})
	require.NoError(t, err)
	require.Equal(t, sdk.Policy{IdleTimeout: sdk.Bound{Value: "never", Rule: "workspace"}, SessionLimit: sdk.Bound{Value: "8h0m0s", Rule: "workspace"},
		FileTransfer: "allowed", LocalForwarding: "allowed", RemoteForwarding: "allowed", AcceptEnv: "*"}, p)
	o = stream.next(t)
	require.Zero(t, o.GetPolicy().GetIdleTimeout().AsDuration())
	require.Equal(t, 8*time.Hour, o.GetPolicy().GetSessionLimit().AsDuration())
	require.Equal(t, "the workspace's policy", o.GetPolicy().GetSessionRule())
	for _, absurd := range []string{"-1s", "1ms", "100000h", "soon", ""} {
		_, err := ada.UpdatePolicy(ctx, "dev", sdk.UpdatePolicyRequest{IdleTimeout: &absurd})
		require.True(t, sdk.IsCode(err, sdk.CodeInvalid), "%q: %v", absurd, err)
	}

	blocked, allowed, names := sdk.Blocked, sdk.Allowed, "LANG,,LC_*"
	p, err = ada.UpdatePolicy(ctx, "dev", sdk.UpdatePolicyRequest{FileTransfer: &blocked, RemoteForwarding: &blocked, AcceptEnv: &names})
	require.NoError(t, err)
	require.Equal(t, []string{"blocked", "allowed", "blocked", "LANG,LC_*", "8h0m0s"},
		[]string{p.FileTransfer, p.LocalForwarding, p.RemoteForwarding, p.AcceptEnv, p.SessionLimit.Value})
	o = stream.next(t)
	require.Equal(t, []string{"file_transfer", "remote_forwarding"}, o.GetPolicy().GetBlocked())
	require.Equal(t, []string{"LANG", "LC_*"}, o.GetPolicy().GetAcceptEnv())
	any := sdk.AnyEnv
	p, err = ada.UpdatePolicy(ctx, "dev", sdk.UpdatePolicyRequest{FileTransfer: &allowed, RemoteForwarding: &allowed, AcceptEnv: &any})
	require.NoError(t, err)
	require.Equal(t, "allowed", p.FileTransfer)
	require.Empty(t, stream.next(t).GetPolicy().GetBlocked())
	for _, bad := range []string{"", "LANG;rm", ",", "A*B", strings.Repeat("A,", 3000)} {
		for _, req := range []sdk.UpdatePolicyRequest{{AcceptEnv: &bad}, {FileTransfer: &bad}, {LocalForwarding: &bad}, {RemoteForwarding: &bad}} {
			_, err := ada.UpdatePolicy(ctx, "dev", req)
			require.True(t, sdk.IsCode(err, sdk.CodeInvalid), "%q: %v", bad, err)
		}
	}

	_, err = ada.GiveNotice(ctx, "dev", sdk.NoticeRequest{Kind: "preempted", Deadline: time.Now().Add(time.Minute)})
	require.NoError(t, err)
	n := stream.next(t).GetNotice()
	require.Equal(t, "preempted", n.GetKind())
	require.InDelta(t, (time.Minute + evictionSlack).Seconds(), n.GetCovers().AsDuration().Seconds(), 10)
	for _, bad := range []sdk.NoticeRequest{{Kind: "preempted"}, {Kind: "preempted", Deadline: time.Now()}, {Kind: "", Deadline: time.Now().Add(time.Hour)},
		{Kind: "x y", Deadline: time.Now().Add(time.Hour)}, {Kind: "x", Deadline: time.Now().Add(maxNotice + time.Hour)}} {
		_, err := ada.GiveNotice(ctx, "dev", bad)
		require.True(t, sdk.IsCode(err, sdk.CodeInvalid), "%+v: %v", bad, err)
	}
	_, err = ada.WithdrawNotice(ctx, "dev")
	require.NoError(t, err)
	require.Nil(t, stream.next(t).GetNotice())

	// What was said once holds for an agent that asks again.
	_, err = ada.StopWorkspace(ctx, "dev")
	require.NoError(t, err)
	require.NotNil(t, stream.next(t).GetStopped())
	require.NotNil(t, stream.current(t).GetStopped())
	require.NoError(t, link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent}))
	s.waitOnline(t, ws.ID, false)
	require.Eventually(t, func() bool {
		s.orders.mu.Lock()
		defer s.orders.mu.Unlock()
		return len(s.orders.pending) == 0
	}, patience, 5*time.Millisecond, "nothing is kept for nobody")
}

// TestKillIsRepeatedUntilItIsDone: an agent that lost its link hears it again.
func TestKillIsRepeatedUntilItIsDone(t *testing.T) {
	s := run(t, nil)
	u, token := s.addUser(t, "ada", store.RoleMember)
	_, bobs := s.addUser(t, "bob", store.RoleMember)
	ada, ctx := s.client(t, token), testutil.Context(t, patience)
	link, ws, agentToken := s.agentLink(t, u, "dev")
	key := hostKey(t)
	register(t, link, key)
	id := uuid.New()
	report := session(id, "ada")
	reported(t, link, report)
	_, err := s.client(t, bobs).KillConnection(ctx, id.String())
	require.True(t, sdk.IsCode(err, sdk.CodeNotFound), "%v", err)
	for _, none := range []string{"0", uuid.NewString(), "../../me", id.String()[:8]} {
		_, err = ada.KillConnection(ctx, none)
		require.True(t, sdk.IsCode(err, sdk.CodeNotFound), "%q: %v", none, err)
	}
	killed := make(chan sdk.Connection, 1)
	go func() {
		row, err := ada.KillConnection(ctx, id.String())
		if err == nil {
			killed <- row
		}
		close(killed)
	}()
	want := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.AdminTerminated, Initiator: disconnect.Server, Detail: "ended by ada"}
	for i := range 2 {
		asked := follower{link, key}
		require.Eventually(t, func() bool {
			ends := asked.current(t).GetEnds()
			return len(ends) == 1 && string(ends[0].GetId()) == string(id[:]) && wire.ToGoodbye(ends[0].GetGoodbye()) == want.Goodbye()
		}, patience, time.Millisecond)
		if i == 0 { // it comes back under another link
			link.Abort(disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network})
			link, err = s.dial(t, disconnect.Agent, agentToken, uuid.NewString())
			require.NoError(t, err)
			register(t, link, key)
		}
	}
	report.Action, report.StatusCode, report.Attribution = agentproto.Connection_DISCONNECT, -1, wire.FromAttribution(want)
	_, err = reportConnections(ctx, link, report)
	require.NoError(t, err)
	row, ok := <-killed
	require.True(t, ok)
	if row.Reason != nil { // else the answer came before the end, as it may after killWait
		require.Equal(t, "admin_terminated", *row.Reason)
	}
	_, err = ada.KillConnection(ctx, id.String())
	require.True(t, sdk.IsCode(err, sdk.CodeConflict), "%v", err)
	require.Empty(t, follower{link, key}.current(t).GetEnds(), "it is done")
	s.ends.mu.Lock()
	defer s.ends.mu.Unlock()
	require.Empty(t, s.ends.waiting)
	require.Len(t, s.ends.links, 1, "of %s", ws.ID)
}

// TestNoticeAndALinkThatComesBack: an agent that lost its link during a notice was not
// evicted if the same process is back, and its connections go on.
func TestNoticeAndALinkThatComesBack(t *testing.T) {
	s := run(t, nil)
	u, token := s.addUser(t, "ada", store.RoleMember)
	ada, ctx := s.client(t, token), testutil.Context(t, patience)
	link, ws, agentToken := s.agentLink(t, u, "dev")
	key := hostKey(t)
	register(t, link, key)
	id := uuid.New()
	open := session(id, "ada")
	reported(t, link, open)
	_, err := ada.GiveNotice(ctx, "dev", sdk.NoticeRequest{Kind: "preempted", Deadline: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	instance := s.linkOf(t, ws.ID).PeerInstance()
	lose := func(want int) {
		t.Helper()
		link.Abort(disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network})
		evicted := disconnect.WorkspaceEvicted
		require.Eventually(t, func() bool { return len(s.rows(t, store.ConnFilter{Reason: &evicted})) == want }, patience, 5*time.Millisecond)
		s.waitOnline(t, ws.ID, false)
	}
	lose(2) // the link and the connection
	back := func(instance string) {
		t.Helper()
		link, err = s.dial(t, disconnect.Agent, agentToken, instance)
		require.NoError(t, err)
		register(t, link, key)
		_, err := agentproto.NewAgentServiceClient(link.RPC()).AnnounceConnections(ctx,
			&agentproto.AnnounceConnectionsRequest{Known: [][]byte{id[:]}, SentAt: timestamppb.Now()})
		require.NoError(t, err)
	}
	back(instance)
	links := s.rows(t, store.ConnFilter{ConnectType: disconnect.ServerToAgent, Status: store.StatusClosed})
	require.Len(t, links, 1)
	require.Equal(t, disconnect.NetworkError, links[0].Ending.Reason, "by its own account")
	require.Equal(t, 1, links[0].Revision)
	require.Equal(t, store.StatusOpen, s.rows(t, store.ConnFilter{IDPrefix: id.String()})[0].Status)

	lose(2)
	back(uuid.NewString()) // another process: what it knows of the former's, it has yet to report
	require.Equal(t, disconnect.WorkspaceEvicted, s.rows(t, store.ConnFilter{IDPrefix: id.String()})[0].Ending.Reason)
	died := disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: disconnect.PeerCrashed, Initiator: disconnect.Agent, Detail: "died"}
	open.Action, open.StatusCode, open.Attribution, open.Timestamp = agentproto.Connection_DISCONNECT, -1, wire.FromAttribution(died), timestamppb.Now()
	open.BytesSent = 7
	_, err = reportConnections(ctx, link, open)
	require.NoError(t, err)
	row := s.rows(t, store.ConnFilter{IDPrefix: id.String()})[0]
	require.Equal(t, disconnect.WorkspaceEvicted, row.Ending.Reason)
	require.EqualValues(t, 7, row.BytesSent)
	require.False(t, row.Provisional)

	// What ended once and was open again is ended like anything else, and then forgotten.
	s.orders.end(ws.ID, id.String(), disconnect.Goodbye{Reason: disconnect.AdminTerminated, Initiator: disconnect.Server})
	require.Empty(t, follower{link, key}.current(t).GetEnds())
	require.Empty(t, s.orders.pending)

	// One that died while the server was away is known by its next life's word only.
	other := uuid.New()
	open.Id = other[:]
	_, err = reportConnections(ctx, link, open)
	require.NoError(t, err)
	require.Equal(t, disconnect.WorkspaceEvicted, s.rows(t, store.ConnFilter{IDPrefix: other.String()})[0].Ending.Reason)
}

// TestJudgeByNotice: a notice covers what ends after it, up to the deadline and a little,
// and nothing that somebody decided.
func TestJudgeByNotice(t *testing.T) {
	clock := newClock()
	o := newOrders(nil, Options{Now: clock.Now}, func(string) {})
	given := clock.Now()
	deadline := given.Add(2 * time.Minute)
	require.NotNil(t, o.notice("dev", store.Notice{Kind: "preempted", At: given, Deadline: deadline}))
	end := func(r disconnect.Reason, i disconnect.Initiator) control.Ending {
		return control.Ending{Attribution: disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: r, Initiator: i, Detail: "x"}}
	}
	lost := end(disconnect.NetworkError, disconnect.Network)
	for name, c := range map[string]struct {
		workspace string
		at        time.Time
		end       control.Ending
		evicted   bool
	}{
		"lost":                {"dev", given.Add(time.Second), lost, true},
		"at the same time":    {"dev", given, lost, true},
		"before":              {"dev", given.Add(-time.Microsecond), lost, false},
		"a little late":       {"dev", deadline.Add(evictionSlack), lost, true},
		"too late":            {"dev", deadline.Add(evictionSlack + time.Second), lost, false},
		"another workspace":   {"other", given.Add(time.Second), lost, false},
		"stopped in order":    {"dev", deadline, end(disconnect.ServerShutdown, disconnect.Agent), true},
		"silent":              {"dev", deadline, end(disconnect.NetworkTimeout, disconnect.Network), true},
		"the server's stop":   {"dev", deadline, end(disconnect.ServerShutdown, disconnect.Server), false},
		"an operator's doing": {"dev", deadline, end(disconnect.AdminTerminated, disconnect.Server), false},
		"a revoked token":     {"dev", deadline, end(disconnect.AuthRevoked, disconnect.Server), false},
	} {
		got := o.judge(c.workspace, c.at, c.end)
		if !c.evicted {
			require.Equal(t, c.end, got, name)
			continue
		}
		require.Equal(t, evictedBy(store.Notice{Kind: "preempted", Deadline: deadline}).On(disconnect.ServerToAgent), got.Attribution, name)
		require.True(t, got.Goodbye, "the client believes it")
	}
	report := func(r disconnect.Reason, i disconnect.Initiator, at time.Time) disconnect.Reason {
		return o.judgeReport("dev", at, end(r, i).Attribution.On(disconnect.AgentToClient)).Reason
	}
	require.Equal(t, disconnect.WorkspaceEvicted, report(disconnect.PeerCrashed, disconnect.Agent, deadline))
	require.Equal(t, disconnect.WorkspaceEvicted, report(disconnect.ServerShutdown, disconnect.Agent, deadline))
	require.Equal(t, disconnect.PeerCrashed, report(disconnect.PeerCrashed, disconnect.Agent, given.Add(-time.Second)))
	require.Equal(t, disconnect.PeerCrashed, report(disconnect.PeerCrashed, disconnect.Client, deadline), "the client's crash is its own")
	require.Equal(t, disconnect.NetworkTimeout, report(disconnect.NetworkTimeout, disconnect.Network, deadline), "a session alone")
	require.Equal(t, disconnect.Graceful, report(disconnect.Graceful, disconnect.Agent, deadline))

	claimed := o.judge("other", given, end(disconnect.WorkspaceEvicted, disconnect.Server))
	require.Equal(t, disconnect.ServerShutdown, claimed.Reason, "an agent does not excuse itself")
	require.Equal(t, disconnect.Agent, claimed.Initiator)

	clock.advance(2*time.Minute + evictionSlack + time.Second)
	require.Nil(t, o.notice("dev", store.Notice{Kind: "preempted", At: given, Deadline: deadline}), "it is over")
	require.Empty(t, o.notices)
}
