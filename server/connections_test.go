package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
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
	"fairlead.dev/fairlead/testutil"
)

// session is a report of an SSH session.
func session(id uuid.UUID, user string) *agentproto.Connection {
	return &agentproto.Connection{
		Id: id[:], Action: agentproto.Connection_CONNECT, Type: agentproto.Connection_SSH, Principal: user,
		Timestamp: timestamppb.Now(), Ip: "192.0.2.1",
	}
}

func sessionEnd(c *agentproto.Connection, reason disconnect.Reason) *agentproto.Connection {
	end := session(uuid.UUID(c.GetId()), c.GetPrincipal())
	end.Action, end.ConnectedAt = agentproto.Connection_DISCONNECT, c.GetTimestamp()
	end.Attribution = wire.FromAttribution(disconnect.Attribution{ConnectType: disconnect.AgentToClient, Reason: reason, Initiator: disconnect.Agent})
	return end
}

// reported sends reports that are all taken.
func reported(t *testing.T, link *control.Link, all ...*agentproto.Connection) {
	t.Helper()
	answer, err := reportConnections(testutil.Context(t, patience), link, all...)
	require.NoError(t, err)
	require.Empty(t, answer.GetRefused())
}

// logSite is a server with two owners' workspaces, whose agents have registered.
type logSite struct {
	*running
	ada, bob, root             store.User
	adaToken, bobToken, rootTk string
	adaLink, bobLink           *control.Link
	bobs                       store.Workspace
}

func newLogSite(t *testing.T) *logSite {
	t.Helper()
	return newLogSiteOn(t, nil)
}

// newLogSiteOn is newLogSite at a port that is open; nil: any.
func newLogSiteOn(t *testing.T, port net.Listener) *logSite {
	t.Helper()
	l := &logSite{running: run(t, func(o *Options) { o.Listener = port })}
	l.ada, l.adaToken = l.addUser(t, "ada", store.RoleMember)
	l.bob, l.bobToken = l.addUser(t, "bob", store.RoleMember)
	l.root, l.rootTk = l.addUser(t, "root", store.RoleAdmin)
	l.adaLink, _, _ = l.agentLink(t, l.ada, "dev")
	l.bobLink, l.bobs, _ = l.agentLink(t, l.bob, "lab")
	register(t, l.adaLink, hostKey(t))
	register(t, l.bobLink, hostKey(t))
	return l
}

// TestOneConnection: a row is shown to those whom it concerns; to others it is not there.
func TestOneConnection(t *testing.T) {
	l := newLogSite(t)
	id, adminsOwn := uuid.New(), uuid.New()
	reported(t, l.bobLink, session(id, "bob"), session(adminsOwn, "root"))
	for _, token := range []string{l.bobToken, l.rootTk} {
		a := l.send(t, "GET", "/api/v1/connections/"+id.String(), token, "")
		require.Equal(t, http.StatusOK, a.StatusCode, a.body)
		var row sdk.Connection
		require.NoError(t, json.Unmarshal([]byte(a.body), &row))
		require.Equal(t, []string{id.String(), "lab", "bob", "bob", "open"}, []string{row.ID, row.Workspace, row.Owner, row.User, row.Status})
	}
	requireRefusal(t, l.send(t, "GET", "/api/v1/connections/"+id.String(), l.adaToken, ""), http.StatusNotFound, sdk.CodeNotFound)
	for _, bad := range []string{uuid.NewString(), id.String()[:8], strings.ToUpper(id.String()), "x", strings.ReplaceAll(id.String(), "-", "")} {
		requireRefusal(t, l.send(t, "GET", "/api/v1/connections/"+bad, l.rootTk, ""), http.StatusNotFound, sdk.CodeNotFound)
	}
}

// TestConnectionGaps: gaps are for owners and admins, and filters that do not fit are
// refused.
func TestConnectionGaps(t *testing.T) {
	l := newLogSite(t)
	now := time.Now()
	_, err := agentproto.NewAgentServiceClient(l.bobLink.RPC()).AnnounceConnections(testutil.Context(t, patience), &agentproto.AnnounceConnectionsRequest{
		SentAt: timestamppb.New(now), Gap: &agentproto.Gap{From: timestamppb.New(now), To: timestamppb.New(now), Detail: "the power went"},
	})
	require.NoError(t, err)
	for token, n := range map[string]int{l.adaToken: 0, l.bobToken: 1, l.rootTk: 1} {
		gaps, err := l.client(t, token).ConnectionGaps(t.Context(), "", time.Time{})
		require.NoError(t, err)
		require.Len(t, gaps, n)
		if n > 0 {
			require.Equal(t, []string{"lab", "bob", "the power went"}, []string{gaps[0].Workspace, gaps[0].Owner, gaps[0].Detail})
		}
	}
	gaps, err := l.client(t, l.rootTk).ConnectionGaps(t.Context(), "ada/dev", time.Time{})
	require.NoError(t, err)
	require.Empty(t, gaps)
	gaps, err = l.client(t, l.rootTk).ConnectionGaps(t.Context(), "bob/lab", now.Add(time.Hour))
	require.NoError(t, err)
	require.Empty(t, gaps)
	for _, bad := range []string{"?type=ssh", "?since=yesterday", "?workspace=a/b/c", "?limit=0"} {
		requireRefusal(t, l.send(t, "GET", "/api/v1/connections/gaps"+bad, l.rootTk, ""), http.StatusBadRequest, sdk.CodeInvalid)
	}
}

// stream is what somebody reads who follows the log.
type stream struct {
	t     *testing.T
	lines chan string
	stop  context.CancelFunc
}

// followed is a line of a stream.
type followed struct {
	sdk.Connection
	Error *sdk.ErrorBody `json:"error"`
}

func (s *running) follow(t *testing.T, token, query string) *stream {
	t.Helper()
	ctx, stop := context.WithCancel(testutil.Context(t, patience))
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL().String()+"/api/v1/connections?follow=true"+query, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
	f := &stream{t: t, lines: make(chan string), stop: stop}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(f.lines)
		defer resp.Body.Close()
		for scanner := bufio.NewScanner(resp.Body); scanner.Scan(); {
			if scanner.Text() == "" {
				continue
			}
			select {
			case f.lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	return f
}

// next is the next line; nil: the stream is over.
func (f *stream) next() *followed {
	f.t.Helper()
	select {
	case text, ok := <-f.lines:
		if !ok {
			return nil
		}
		var line followed
		require.NoError(f.t, json.Unmarshal([]byte(text), &line), text)
		return &line
	case <-time.After(patience):
		require.FailNow(f.t, "no line came")
		return nil
	}
}

func (f *stream) requireEnd(code string) {
	f.t.Helper()
	for line := f.next(); ; line = f.next() {
		require.NotNil(f.t, line, "the stream ended without a word")
		if line.Error != nil {
			require.Equal(f.t, code, line.Error.Code)
			require.NotEmpty(f.t, line.Error.Message)
			require.Nil(f.t, f.next())
			return
		}
	}
}

// TestFollow: rows come as they open and close, to those who may see them and asked for
// them; a server that stops says so.
func TestFollow(t *testing.T) {
	l := newLogSite(t)
	earlier := session(uuid.New(), "bob")
	reported(t, l.bobLink, earlier, sessionEnd(earlier, disconnect.Graceful))
	everything := l.follow(t, l.rootTk, "&connect_type=agent_to_client")
	adas := l.follow(t, l.adaToken, "&connect_type=agent_to_client")
	unexpected := l.follow(t, l.bobToken, "&connect_type=agent_to_client&expected=false")
	last := l.follow(t, l.bobToken, "&connect_type=agent_to_client&limit=5")
	first := last.next()
	require.Equal(t, uuid.UUID(earlier.GetId()).String(), first.ID, "what there is comes first")

	one, two := session(uuid.New(), "bob"), session(uuid.New(), "ada")
	reported(t, l.bobLink, one)
	reported(t, l.adaLink, two)
	reported(t, l.bobLink, sessionEnd(one, disconnect.ProcessSignaled))
	for _, want := range []struct{ id, status string }{
		{uuid.UUID(one.GetId()).String(), "open"}, {uuid.UUID(two.GetId()).String(), "open"}, {uuid.UUID(one.GetId()).String(), "closed"},
	} {
		got := everything.next()
		require.Equal(t, want.id, got.ID)
		require.Equal(t, want.status, got.Status)
	}
	require.Equal(t, uuid.UUID(two.GetId()).String(), adas.next().ID)
	require.Equal(t, "process_signaled", *unexpected.next().Reason)
	require.Equal(t, "open", last.next().Status)
	require.Equal(t, "closed", last.next().Status)

	for _, bad := range []string{"?follow=1", "?follow=true&cursor=abc", "?follow=true&color=red"} {
		requireRefusal(t, l.send(t, "GET", "/api/v1/connections"+bad, l.rootTk, ""), http.StatusBadRequest, sdk.CodeInvalid)
	}
	require.Empty(t, l.send(t, "HEAD", "/api/v1/connections?follow=true", l.rootTk, "").body)
	go l.stop() // Cleanup waits for it
	everything.requireEnd(sdk.CodeUnavailable)
	adas.requireEnd(sdk.CodeUnavailable)
}

// TestFollowEndsWithTheRight: a stream shows no more than its reader may see now.
func TestFollowEndsWithTheRight(t *testing.T) {
	l := newLogSite(t)
	boss, bossToken := l.addUser(t, "boss", store.RoleAdmin)
	demoted := l.follow(t, bossToken, "")
	revoked := l.follow(t, l.adaToken, "")
	disabled := l.follow(t, l.bobToken, "")
	admin := l.client(t, l.rootTk)

	_, err := admin.UpdateUser(t.Context(), "boss", sdk.UpdateUserRequest{Role: ptr("member")})
	require.NoError(t, err)
	one := session(uuid.New(), "bob")
	reported(t, l.bobLink, one)
	mine, _, _ := l.agentLink(t, boss, "own")
	register(t, mine, hostKey(t))
	for line := demoted.next(); line.Workspace != "own"; line = demoted.next() {
		require.NotEqual(t, uuid.UUID(one.GetId()).String(), line.ID, "a member sees no other's rows")
	}

	p, err := l.auth.Authenticate(t.Context(), l.adaToken)
	require.NoError(t, err)
	_, err = l.client(t, l.adaToken).RevokeToken(t.Context(), p.TokenID)
	require.NoError(t, err)
	revoked.requireEnd(sdk.CodeUnauthenticated)
	_, err = admin.UpdateUser(t.Context(), "bob", sdk.UpdateUserRequest{Disabled: ptr(true)})
	require.NoError(t, err)
	disabled.requireEnd(sdk.CodeForbidden)
}

func ptr[T any](v T) *T { return &v }

// TestFollowExpires: a stream ends with its token.
func TestFollowExpires(t *testing.T) {
	l := newLogSite(t)
	token, row := l.auth.NewUserToken(l.ada.ID, "short")
	row.ExpiresAt = time.Now().Add(time.Second)
	require.NoError(t, l.store.CreateToken(t.Context(), row))
	l.follow(t, token, "").requireEnd(sdk.CodeTokenExpired)
}

// TestFollowLimit: one reader has a bounded number of streams, and has it again when they
// have ended.
func TestFollowLimit(t *testing.T) {
	l := newLogSite(t)
	var streams []*stream
	for range maxFollowsPerUser {
		streams = append(streams, l.follow(t, l.adaToken, ""))
	}
	a := l.send(t, "GET", "/api/v1/connections?follow=true", l.adaToken, "")
	requireRefusal(t, a, http.StatusTooManyRequests, sdk.CodeLimitExceeded)
	require.NotEmpty(t, a.Header.Get("Retry-After"))
	l.follow(t, l.bobToken, "")
	streams[0].stop()
	require.Eventually(t, func() bool {
		done, err := l.limits.follow(auth.Principal{UserID: l.ada.ID})
		if err == nil {
			done()
		}
		return err == nil
	}, patience, 5*time.Millisecond)
}

// smallBuffers accepts connections that hold little of what nobody reads.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		err = conn.(*net.TCPConn).SetWriteBuffer(4096)
	}
	return conn, err
}

// TestSlowFollower: a reader who does not read is cut; nobody else waits for them.
func TestSlowFollower(t *testing.T) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := newLogSiteOn(t, smallBuffers{port})
	l.limits.followPatience = 50 * time.Millisecond
	conn, err := (&net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { // before it can grow
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}).Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET /api/v1/connections?follow=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", l.rootTk)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return l.followers() == 1 }, patience, time.Millisecond)
	for range 2 { // of half a megabyte each
		var all []*agentproto.Connection
		for range maxReportBatch {
			all = append(all, session(uuid.New(), "bob"))
		}
		reported(t, l.bobLink, all...)
	}
	require.Eventually(t, func() bool { return l.followers() == 0 }, patience, 5*time.Millisecond)
}

// followers counts the streams.
func (s *running) followers() int {
	s.limits.mu.Lock()
	defer s.limits.mu.Unlock()
	return s.limits.links["follow"]
}

// TestReportsAreBounded: an agent that reports without end waits, alone, and numbers that
// cannot be are no numbers below zero.
func TestReportsAreBounded(t *testing.T) {
	l := newLogSite(t)
	huge := session(uuid.New(), "bob")
	end := sessionEnd(huge, disconnect.Graceful)
	end.BytesSent, end.BytesReceived = math.MaxUint64, math.MaxInt64+1
	end.App, end.ClientVersion, end.Ip = strings.Repeat("a", 5000), strings.Repeat("v", 5000), strings.Repeat("1", 5000)
	reported(t, l.bobLink, end)
	row := l.rows(t, store.ConnFilter{IDPrefix: uuid.UUID(huge.GetId()).String()})[0]
	require.EqualValues(t, math.MaxInt64, row.BytesSent)
	require.EqualValues(t, math.MaxInt64, row.BytesReceived)
	require.LessOrEqual(t, len(row.App), maxApp)
	require.LessOrEqual(t, len(row.ClientVersion), maxClientVersion)
	require.LessOrEqual(t, len(row.IP), maxIP)

	ctx := testutil.Context(t, patience)
	api := agentproto.NewAgentServiceClient(l.bobLink.RPC())
	_, err := api.ReportConnections(ctx, &agentproto.ReportConnectionsRequest{Reports: make([]*agentproto.ReportConnectionRequest, maxReportBatch+1)})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = api.AnnounceConnections(ctx, &agentproto.AnnounceConnectionsRequest{Known: make([][]byte, maxAnnounced+1)})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = api.AnnounceConnections(ctx, &agentproto.AnnounceConnectionsRequest{Known: [][]byte{{1}}})
	require.Equal(t, codes.InvalidArgument, status.Code(err))

	l.presence.callers[l.bobs.ID].rate.AllowN(time.Now(), reportBurst-100)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err = api.ReportConnections(short, &agentproto.ReportConnectionsRequest{Reports: make([]*agentproto.ReportConnectionRequest, maxReportBatch)})
	require.Contains(t, []codes.Code{codes.ResourceExhausted, codes.DeadlineExceeded}, status.Code(err), "%v", err)
	reported(t, l.adaLink, session(uuid.New(), "ada"))
}

// TestUnheard: the rows of an agent whose link is lost are unheard until it announces.
func TestUnheard(t *testing.T) {
	s := run(t, nil)
	u, _ := s.addUser(t, "ada", store.RoleMember)
	link, ws, token := s.agentLink(t, u, "dev")
	key := hostKey(t)
	register(t, link, key)
	stays, goes := session(uuid.New(), "ada"), session(uuid.New(), "ada")
	reported(t, link, stays, goes)
	status := func(c *agentproto.Connection) store.ConnStatus {
		return s.rows(t, store.ConnFilter{IDPrefix: uuid.UUID(c.GetId()).String()})[0].Status
	}
	lost := time.Now()
	link.Abort(disconnect.Attribution{ConnectType: disconnect.ServerToAgent, Reason: disconnect.NetworkError, Initiator: disconnect.Network})
	require.Eventually(t, func() bool { return status(stays) == store.StatusUnheard }, patience, 5*time.Millisecond)
	again, err := s.dial(t, disconnect.Agent, token, uuid.NewString()) // another life
	require.NoError(t, err)
	register(t, again, key)
	s.waitOnline(t, ws.ID, true)
	require.Equal(t, store.StatusUnheard, status(stays), "it has not said anything yet")
	_, err = agentproto.NewAgentServiceClient(again.RPC()).AnnounceConnections(testutil.Context(t, patience),
		&agentproto.AnnounceConnectionsRequest{SentAt: timestamppb.Now(), Known: [][]byte{stays.GetId()}})
	require.NoError(t, err)
	require.Equal(t, store.StatusOpen, status(stays))
	row := s.rows(t, store.ConnFilter{IDPrefix: uuid.UUID(goes.GetId()).String()})[0]
	require.Equal(t, disconnect.PeerCrashed, row.Ending.Reason)
	require.WithinRange(t, row.DisconnectedAt, lost.Add(-time.Second), time.Now())
	require.False(t, row.DisconnectedAt.After(s.formerEnd(ws.ID)), "when the former link ended, not when the new one came")
}

// formerEnd is when the link before a workspace's present one ended.
func (s *running) formerEnd(workspaceID string) time.Time {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	return s.presence.callers[workspaceID].former.At
}
