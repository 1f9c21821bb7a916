package server

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fairlead.dev/fairlead/control"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	"fairlead.dev/fairlead/server/store"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
	"fairlead.dev/fairlead/testutil"
)

// addRelay makes a relay's identity and returns its token.
func (s *running) addRelay(t *testing.T, name string) string {
	t.Helper()
	_, admin := s.addUser(t, "admin-of-"+name, store.RoleAdmin)
	made, err := s.client(t, admin).CreateRelay(t.Context(), sdk.CreateRelayRequest{Name: name})
	require.NoError(t, err)
	require.Regexp(t, `^fl_r_`, made.Token)
	require.Equal(t, "never", made.Relay.Status)
	require.NotContains(t, s.log.String(), made.Token)
	return made.Token
}

// registered is a relay's end of its link.
type registered struct {
	link   *control.Link
	api    proto.RelayServiceClient
	stream proto.RelayService_RegisterClient
	me     *proto.RelayRegistered
}

func (s *running) register(t *testing.T, token, url string) registered {
	t.Helper()
	link, err := s.dialAs(t, disconnect.Relay, disconnect.RelayToServer, token)
	require.NoError(t, err)
	r := registered{link: link, api: proto.NewRelayServiceClient(link.RPC())}
	r.stream, err = r.api.Register(testutil.Context(t, patience), &proto.RegisterRelayRequest{AccessUrl: url, StunPort: 7})
	require.NoError(t, err)
	first, err := r.stream.Recv()
	require.NoError(t, err)
	r.me = first.GetRegistered()
	return r
}

func (s *running) dialAs(t *testing.T, who disconnect.Initiator, leg disconnect.ConnectType, token string) (*control.Link, error) {
	t.Helper()
	link, err := control.Dial(testutil.Context(t, patience), control.DialOptions{
		AccessURL: s.URL(), Token: token, Instance: uuid.NewString(), Version: "test", ConnectType: leg, Self: who, Peer: disconnect.Server,
	})
	if err == nil {
		t.Cleanup(func() { _ = link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: who}) })
	}
	return link, err
}

// inMap returns the numbers of the regions in the map.
func (s *running) inMap() (ids []int32) {
	for _, r := range s.derpMap().GetRegions() {
		ids = append(ids, r.GetId())
	}
	return ids
}

// TestRelaysInTheMap: a relay is in the map while it is in reach, some time longer when it
// was only lost, also over a restart of the server, and not after its goodbye. Its number
// never changes and is not given away again.
func TestRelaysInTheMap(t *testing.T) {
	dir, clock := t.TempDir(), newClock()
	start := func() *running {
		return run(t, func(o *Options) { o.StateDir, o.NoRelay, o.Now = dir, true, clock.Now })
	}
	awaitMap := func(s *running, want ...int32) {
		t.Helper()
		require.Eventually(t, func() bool { return len(s.inMap()) == len(want) }, patience, 5*time.Millisecond)
		require.Equal(t, want, s.inMap())
	}
	s := start()
	one, two := s.addRelay(t, "one"), s.addRelay(t, "two")
	require.Empty(t, s.inMap(), "neither is there, and the own relay is off")
	a, b := s.register(t, one, "http://127.0.0.1:1/sub"), s.register(t, two, "https://relay.example")
	require.Equal(t, []int32{10, 11}, []int32{a.me.GetRegionId(), b.me.GetRegionId()})
	awaitMap(s, 10, 11)
	require.Equal(t, []string{"http://127.0.0.1:1/sub/api/v1/relay", "127.0.0.1", "one"},
		[]string{s.derpMap().Regions[0].RelayUrl, s.derpMap().Regions[0].StunHost, s.derpMap().Regions[0].Code})

	a.link.Abort(disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network})
	require.NoError(t, b.link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Relay}))
	awaitMap(s, 10)
	s.stop()
	s = start()
	awaitMap(s, 10)
	a = s.register(t, one, "http://127.0.0.1:1")
	clock.advance(relayGrace)
	s.relays.expire()
	awaitMap(s, 10)
	require.EqualValues(t, 10, a.me.GetRegionId())
	a.link.Abort(disconnect.Attribution{Reason: disconnect.NetworkError, Initiator: disconnect.Network})
	require.Eventually(t, func() bool { row, _ := s.store.RelayByName(t.Context(), "one"); return s.relays.status(row) == "lost" }, patience, 5*time.Millisecond)
	clock.advance(relayGrace - time.Second)
	s.relays.expire()
	awaitMap(s, 10)
	clock.advance(time.Second)
	s.relays.expire()
	awaitMap(s)

	_, admin := s.addUser(t, "boss", store.RoleAdmin)
	a = s.register(t, one, "http://127.0.0.1:1")
	require.NoError(t, s.client(t, admin).DeleteRelay(t.Context(), "one"))
	awaitMap(s)
	<-a.link.Done()
	require.Equal(t, disconnect.AuthRevoked, a.link.Ending().Reason)
	_, err := s.dialAs(t, disconnect.Relay, disconnect.RelayToServer, one)
	require.Error(t, err)
	made, err := s.client(t, admin).CreateRelay(t.Context(), sdk.CreateRelayRequest{Name: "one", Region: "eu"})
	require.NoError(t, err)
	require.Equal(t, 12, made.Relay.RegionID)
	require.Equal(t, "eu", made.Relay.Region)
	_, err = s.client(t, admin).CreateRelay(t.Context(), sdk.CreateRelayRequest{Name: "one"})
	require.True(t, sdk.IsCode(err, sdk.CodeConflict), "%v", err)
}

// TestRelayAsks: the server decides about tokens, and tells relays what is gone.
func TestRelayAsks(t *testing.T) {
	s := run(t, nil)
	r := s.register(t, s.addRelay(t, "eu"), "http://127.0.0.1:1")
	_, token := s.addUser(t, "ada", store.RoleMember)
	link, err := s.dial(t, disconnect.Client, token, uuid.NewString())
	require.NoError(t, err)
	n := coordinate(t, link)
	ctx := testutil.Context(t, patience)
	answer, err := r.api.Admit(ctx, &proto.AdmitRequest{Token: n.token})
	require.NoError(t, err)
	require.Equal(t, n.key.Bytes(), answer.GetNodeKey())
	require.False(t, answer.GetAgent())
	require.WithinDuration(t, time.Now().Add(24*time.Hour), answer.GetExpiresAt().AsTime(), time.Minute)
	require.Len(t, answer.GetTags(), 2)
	for _, tag := range answer.GetTags() {
		require.NotContains(t, tag, "user", "tags mean nothing to a relay")
	}
	for _, bad := range []string{"", "garbage", token, relay.NewTokenSigner([32]byte{1}).Sign(relay.Claims{Node: n.key, Expires: time.Now().Add(time.Hour)})} {
		_, err := r.api.Admit(ctx, &proto.AdmitRequest{Token: bad})
		require.Equal(t, codes.PermissionDenied, status.Code(err), "%v", err)
	}
	former := relaySubject{id: uuid.NewString(), token: uuid.NewString()}
	old := s.signer.Sign(relay.Claims{Node: n.key, Expires: time.Now().Add(-time.Hour), Subject: former.String()})
	_, err = r.api.Admit(ctx, &proto.AdmitRequest{Token: old, Open: true})
	require.Equal(t, codes.PermissionDenied, status.Code(err), "an expired token of a right that is gone")

	require.NoError(t, revoke(s.client(t, token), t.Context(), sdk.CurrentToken))
	for {
		notice, err := r.stream.Recv()
		require.NoError(t, err)
		if end := notice.GetEnd(); end != nil {
			require.Contains(t, answer.GetTags(), end.GetTag())
			require.EqualValues(t, disconnect.AuthRevoked, end.GetGoodbye().GetReason())
			break
		}
	}
	_, err = r.api.Admit(ctx, &proto.AdmitRequest{Token: n.token})
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	require.NotEmpty(t, status.Convert(err).Details(), "it says why no longer")
}

// TestOnlyRelaysAreRelays: no other peer may register or ask, and a relay may do nothing
// that another peer does.
func TestOnlyRelaysAreRelays(t *testing.T) {
	s := run(t, nil)
	u, token := s.addUser(t, "ada", store.RoleAdmin)
	agentLink, _, _ := s.agentLink(t, u, "dev")
	clientLink, err := s.dial(t, disconnect.Client, token, uuid.NewString())
	require.NoError(t, err)
	ctx := testutil.Context(t, patience)
	for _, link := range []*control.Link{agentLink, clientLink} {
		api := proto.NewRelayServiceClient(link.RPC())
		_, err := api.Admit(ctx, &proto.AdmitRequest{})
		require.Equal(t, codes.PermissionDenied, status.Code(err))
		stream, err := api.Register(ctx, &proto.RegisterRelayRequest{AccessUrl: "http://127.0.0.1:1"})
		require.NoError(t, err)
		_, err = stream.Recv()
		require.Equal(t, codes.PermissionDenied, status.Code(err))
	}
	own := s.addRelay(t, "eu")
	link, err := s.dialAs(t, disconnect.Relay, disconnect.RelayToServer, own)
	require.NoError(t, err)
	_, err = proto.NewRelayServiceClient(link.RPC()).Admit(ctx, &proto.AdmitRequest{Token: "x"})
	require.Equal(t, codes.FailedPrecondition, status.Code(err), "it has not registered")
	stream, err := proto.NewTailnetServiceClient(link.RPC()).Coordinate(ctx)
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.PermissionDenied, status.Code(err), "a relay is no node: %v", err)
}

func TestRelayURLIsChecked(t *testing.T) {
	for text, want := range map[string]string{
		"https://relay.example": "", "https://relay.example/sub/": "", "http://127.0.0.1:1": "", "http://localhost": "",
		"http://relay.example": "must be https", "http://10.0.0.1": "must be https", "ftp://x": "access URL", "": "access URL",
		"https://" + strings.Repeat("x", maxAccessURL): "more than", "https://u:p@x": "access URL", "https://x/?q": "access URL",
	} {
		_, err := checkRelayURL(text, false)
		if want == "" {
			require.NoError(t, err, text)
			continue
		}
		require.ErrorContains(t, err, want, text)
	}
	_, err := checkRelayURL("http://10.0.0.1", true)
	require.NoError(t, err, "somebody insisted")
}
