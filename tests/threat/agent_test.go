package threat

import (
	"crypto/ed25519"
	"crypto/rand"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/sdk"
	tailnetproto "fairlead.dev/fairlead/tailnet/proto"
	"fairlead.dev/fairlead/tests/site"
	"fairlead.dev/fairlead/testutil"
)

// TestStolenAgentTokenWithAnotherHostKey: who has the agent's token but not its state
// directory gets no further than the server's door, however often it knocks, and the
// key that clients compare stays.
func TestStolenAgentTokenWithAnotherHostKey(t *testing.T) {
	s := newTarget(t)
	s.startAgent(t, "agent")
	require.Eventually(t, func() bool { return s.workspace(t).Agent.Status == sdk.AgentOnline }, site.Patience, 10*time.Millisecond)
	pinned := s.workspace(t).SSHHostKey
	require.NotEmpty(t, pinned)

	refused := s.startAgent(t, "thief").WaitFor(testutil.Context(t, site.Patience), func(e testutil.Ending) bool {
		return strings.Contains(e.Attribution.Detail, "another SSH host key")
	})
	require.Equal(t, disconnect.AuthFailed, refused.Attribution.Reason)

	// One that never shows a host key is let at nothing either.
	link := s.link(t, newInstance())
	stream, err := tailnetproto.NewTailnetServiceClient(link.RPC()).Coordinate(testutil.Context(t, site.Patience))
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.PermissionDenied, status.Code(err), "%v", err)
	require.Equal(t, pinned, s.workspace(t).SSHHostKey)
}

// TestHugeAndUnfitReports: messages of an agent that are too large or make no sense are
// refused one by one, with nothing of them in the log, and the server serves on.
func TestHugeAndUnfitReports(t *testing.T) {
	s := newTarget(t)
	link := s.link(t, newInstance())
	rpc := proto.NewAgentServiceClient(link.RPC())
	ctx := testutil.Context(t, site.Patience)
	huge := strings.Repeat("\x1b[2J huge", 1<<20)
	_, err := rpc.GetManifest(ctx, &proto.GetManifestRequest{SshHostKey: newHostKey(t)})
	require.NoError(t, err)
	unbounded := grpc.MaxCallSendMsgSize(1 << 30) // an attacker keeps no limits
	id := uuid.New()

	_, err = rpc.GetManifest(ctx, &proto.GetManifestRequest{SshHostKey: huge}, unbounded)
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "%.200v", err)
	report := func(c *proto.Connection) (*proto.ReportConnectionsResponse, error) {
		return rpc.ReportConnections(ctx, &proto.ReportConnectionsRequest{
			Reports: []*proto.ReportConnectionRequest{{Connection: c}}, SentAt: timestamppb.Now(),
		}, unbounded)
	}
	_, err = report(&proto.Connection{
		Id: id[:], Action: proto.Connection_CONNECT, Type: proto.Connection_SSH, Principal: huge, Timestamp: timestamppb.Now(),
	})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "%.200v", err)

	// Just below the bound of a message: taken, but no more than a line of it is kept.
	_, err = report(&proto.Connection{
		Id: id[:], Action: proto.Connection_DISCONNECT, Type: proto.Connection_SSH, Principal: huge[:2<<20], Reason: &huge, Timestamp: timestamppb.Now(),
	})
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "%.200v", err)
	long := huge[:3<<20]
	answer, err := report(&proto.Connection{
		Id: id[:], Action: proto.Connection_DISCONNECT, Type: proto.Connection_SSH, Reason: &long, Timestamp: timestamppb.Now(),
	})
	require.NoError(t, err)
	require.Empty(t, answer.GetRefused())
	require.Less(t, len(s.log.String()), 64<<10)
	require.NotContains(t, s.log.String(), "\x1b")

	answer, err = report(nil)
	require.NoError(t, err)
	require.Len(t, answer.GetRefused(), 1)
	answer, err = report(&proto.Connection{
		Id: id[:], Action: proto.Connection_CONNECT, Type: proto.Connection_SSH, Principal: "ada", Timestamp: timestamppb.Now(),
	})
	require.NoError(t, err, "the link lives")
	require.Empty(t, answer.GetRefused())
}

func newHostKey(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	return string(ssh.MarshalAuthorizedKey(key))
}

// TestStateIsPrivate: no other user of the server's or the agent's host can read what
// they keep.
func TestStateIsPrivate(t *testing.T) {
	s := newTarget(t)
	s.startAgent(t, "agent")
	require.Eventually(t, func() bool { return s.workspace(t).Agent.Status == sdk.AgentOnline }, site.Patience, 10*time.Millisecond)
	files := 0
	for _, dir := range []string{"server", "agent"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, entry fs.DirEntry, err error) error {
			require.NoError(t, err)
			info, err := entry.Info()
			require.NoError(t, err)
			if entry.IsDir() {
				require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
				return nil
			}
			files++
			if filepath.Dir(path) == filepath.Join(s.dir, "agent") || !strings.HasSuffix(path, "-wal") {
				require.Zero(t, info.Mode().Perm()&0o077, "%s: %s", path, info.Mode())
			}
			return nil
		}))
	}
	require.GreaterOrEqual(t, files, 4)
}

// TestNoSecretIsLogged: neither token is in the server's log, at any level.
func TestNoSecretIsLogged(t *testing.T) {
	s := newTarget(t)
	s.startAgent(t, "agent")
	require.Eventually(t, func() bool { return s.workspace(t).Agent.Status == sdk.AgentOnline }, site.Patience, 10*time.Millisecond)
	link := s.link(t, "an instance forged=true")
	require.NoError(t, link.Close(disconnect.Goodbye{Reason: disconnect.ServerShutdown, Initiator: disconnect.Agent, Detail: "a\r\nb"}))
	for _, token := range []string{s.userToken, s.agentToken} {
		require.NotContains(t, s.log.String(), token)
	}
	require.NotContains(t, s.log.String(), "instance=an instance")
}
