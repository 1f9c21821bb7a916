package relayhost

import (
	"context"
	"crypto/sha256"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tailnet/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer stands for the server: it takes the tokens of one signer, unless somebody has
// decided otherwise.
type issuer struct {
	proto.RelayServiceClient
	signer *relay.TokenSigner
	now    time.Time
	asked  int
	before func() error // of an answer
}

func newIssuer() *issuer {
	return &issuer{signer: relay.NewTokenSigner([32]byte{3}), now: time.Unix(1_800_000_000, 0)}
}

func (s *issuer) token(node byte, life time.Duration) string {
	return s.signer.Sign(relay.Claims{Node: proto.NodeKey{node}, Expires: s.now.Add(life)})
}

func (s *issuer) Admit(_ context.Context, req *proto.AdmitRequest, _ ...grpc.CallOption) (*proto.AdmitResponse, error) {
	s.asked++
	if s.before != nil {
		if err := s.before(); err != nil {
			return nil, err
		}
	}
	c, err := s.signer.Verify(req.GetToken(), s.now)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, "no")
	}
	return &proto.AdmitResponse{NodeKey: c.Node.Bytes(), ExpiresAt: timestamppb.New(c.Expires), Tags: []string{"tag" + strconv.Itoa(int(c.Node[0]))}}, nil
}

func newTestAdmissions() (*admissions, *issuer) {
	s := newIssuer()
	a := newAdmissions(func() time.Time { return s.now })
	a.setServer(s)
	return a, s
}

// TestKnownNodesComeBackWithoutTheServer: for as long as their token is good.
func TestKnownNodesComeBackWithoutTheServer(t *testing.T) {
	a, s := newTestAdmissions()
	known, stranger := s.token(1, time.Hour), s.token(2, time.Hour)
	for range 3 {
		got, err := a.admit(t.Context(), known)
		require.NoError(t, err)
		require.Equal(t, proto.NodeKey{1}, got.Node)
	}
	require.Equal(t, 1, s.asked, "what is known is not asked for again")
	a.setServer(nil)
	_, err := a.admit(t.Context(), known)
	require.NoError(t, err)
	_, err = a.admit(t.Context(), stranger)
	require.ErrorIs(t, err, relay.ErrUndecided, "it may ask again")

	// The server told of a newer token before it went.
	newer := s.token(1, 3*time.Hour)
	a.extend(proto.NodeKey{1}, sha256.Sum256([]byte(newer)), s.now.Add(3*time.Hour))
	a.extend(proto.NodeKey{2}, sha256.Sum256([]byte(stranger)), s.now.Add(3*time.Hour)) // not known here
	s.now = s.now.Add(2 * time.Hour)
	_, err = a.admit(t.Context(), known)
	require.ErrorIs(t, err, relay.ErrUndecided, "its time is over")
	got, err := a.admit(t.Context(), newer)
	require.NoError(t, err)
	require.Equal(t, s.now.Add(time.Hour), got.Expires)
	_, err = a.admit(t.Context(), stranger)
	require.ErrorIs(t, err, relay.ErrUndecided)
}

func TestNoiseIsNotAskedFor(t *testing.T) {
	a, s := newTestAdmissions()
	for _, noise := range []string{"", "garbage", "flr2_", "flr2_AAAA", "fl_u_" + s.token(1, time.Hour)} {
		_, err := a.admit(t.Context(), noise)
		require.ErrorIs(t, err, relay.ErrTokenInvalid)
	}
	require.Zero(t, s.asked)
	_, err := a.admit(t.Context(), relay.NewTokenSigner([32]byte{4}).Sign(relay.Claims{Node: proto.NodeKey{1}, Expires: s.now.Add(time.Hour)}))
	require.Error(t, err)
	require.NotErrorIs(t, err, relay.ErrUndecided)
	require.Zero(t, a.size())
}

// TestWhatEndedIsForgotten: also when the answer and the end of the right cross.
func TestWhatEndedIsForgotten(t *testing.T) {
	a, s := newTestAdmissions()
	one, two := s.token(1, time.Hour), s.token(2, time.Hour)
	for _, token := range []string{one, two} {
		_, err := a.admit(t.Context(), token)
		require.NoError(t, err)
	}
	a.end("tag1")
	a.setServer(nil)
	_, err := a.admit(t.Context(), one)
	require.ErrorIs(t, err, relay.ErrUndecided)
	_, err = a.admit(t.Context(), two)
	require.NoError(t, err)

	why := disconnect.Goodbye{Reason: disconnect.AuthRevoked, Initiator: disconnect.Server, Detail: "gone"}
	st, err := status.New(codes.PermissionDenied, "no").WithDetails(protoadapt.MessageV1Of(wire.FromGoodbye(why)))
	require.NoError(t, err)
	crossing := 0
	s.before = func() error {
		if crossing++; crossing > 1 {
			return st.Err()
		}
		a.end("tag3") // while a yes is on its way
		return nil
	}
	a.setServer(s)
	_, err = a.admit(t.Context(), s.token(3, time.Hour))
	told, ok := disconnect.FromError(err)
	require.True(t, ok, "%v", err)
	require.Equal(t, why, told.Goodbye())
	require.Equal(t, 2, crossing, "the yes from before does not count")
}

// TestMemoryIsBounded: of each node a few tokens, and of nodes as many as there is room.
func TestMemoryIsBounded(t *testing.T) {
	a, s := newTestAdmissions()
	for i := range 3 * maxHashes {
		_, err := a.admit(t.Context(), s.token(1, time.Duration(i+1)*time.Minute))
		require.NoError(t, err)
	}
	require.Len(t, a.byHash, maxHashes)
	for i := range maxNodes + 100 {
		node := proto.NodeKey{2, byte(i), byte(i >> 8), byte(i >> 16)}
		require.True(t, a.remember(sha256.Sum256(node[:]), "token", relay.Admission{Node: node, Expires: s.now.Add(time.Hour)}, 0))
	}
	require.LessOrEqual(t, a.size(), maxNodes)
	require.LessOrEqual(t, len(a.byHash), maxNodes+maxHashes)

	left := a.open(func(k proto.NodeKey) bool { return k[1] == 0 && k[2] == 0 })
	require.LessOrEqual(t, len(left), 3)
	require.Equal(t, len(left), a.size(), "who is not connected is asked for again")
}
