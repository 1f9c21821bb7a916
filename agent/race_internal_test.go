package agent

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"fairlead.dev/fairlead/agent/proto"
	"fairlead.dev/fairlead/disconnect"
	"fairlead.dev/fairlead/disconnect/wire"
	"fairlead.dev/fairlead/testutil"
)

// TestOneEndOfEachSession: everything that can end a session happens at about the same
// time. Each is logged once and reported once, in the same words; and one that its client
// saw end before the stop is never called ended by it.
func TestOneEndOfEachSession(t *testing.T) {
	t.Parallel()
	for round := range 24 {
		t.Run(fmt.Sprint(round), func(t *testing.T) { raceEnds(t, round) })
	}
}

func raceEnds(t *testing.T, round int) {
	logger, recorder := testutil.NewLogRecorder(t)
	a, err := newAgent(Options{
		AccessURL: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Token: "secret", StateDir: t.TempDir(), Logger: logger,
	})
	require.NoError(t, err)
	a.start()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	a.routines.Go(func() { _ = a.ssh.Serve(listener) })

	before := startSession(t, listener.Addr(), "exit 9")
	require.NotZero(t, a.reportsPending(), "a session that its client has is on record")
	var exit *ssh.ExitError
	require.ErrorAs(t, before.Wait(), &exit)
	require.Equal(t, 2, a.reportsPending(), "an end that its client was told of is on record")

	shake := func() { <-time.After(rand.N(20 * time.Millisecond)) }
	var race sync.WaitGroup
	for i := range 4 {
		s := startSession(t, listener.Addr(), fmt.Sprintf("sleep 0.0%d; exit %d", rand.IntN(3), i))
		race.Go(func() {
			shake()
			if i%2 == 0 {
				_ = s.Close()
			}
		})
	}
	race.Go(func() {
		shake()
		if round%2 == 0 {
			a.clientIsSilent(netip.MustParseAddr("127.0.0.1"), disconnect.Attribution{
				Reason: disconnect.NetworkTimeout, Initiator: disconnect.Network, Detail: "silent",
			})
		}
	})
	race.Go(func() {
		shake()
		_ = a.Close()
	})
	race.Wait()
	require.NoError(t, a.Close(), "what the first said")

	logged, reported := map[string]disconnect.Attribution{}, map[string]disconnect.Attribution{}
	for _, e := range recorder.Endings() {
		if e.Message == "ssh session closed" {
			id := e.Attrs["connection_id"].(string)
			require.NotContains(t, logged, id, "logged twice")
			logged[id] = e.Attribution
		}
	}
	begun, exited := 0, 0
	for _, r := range a.nextReports(maxReports) {
		c := r.GetConnection()
		if c.GetAction() == proto.Connection_CONNECT {
			begun++
			continue
		}
		id := uuid.UUID(c.GetId()).String()
		require.NotContains(t, reported, id, "reported twice")
		reported[id] = wire.ToAttribution(c.GetAttribution())
		if c.GetStatusCode() == 9 {
			exited++
			require.Equal(t, disconnect.ProcessExited, reported[id].Reason)
		}
	}
	require.Equal(t, logged, reported)
	require.Len(t, reported, begun, "each that begins ends")
	require.Equal(t, 5, begun)
	require.Equal(t, 1, exited)
}

func startSession(t *testing.T, addr net.Addr, command string) *ssh.Session {
	t.Helper()
	client, err := ssh.Dial("tcp", addr.String(), &ssh.ClientConfig{User: "somebody", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	session, err := client.NewSession()
	require.NoError(t, err)
	require.NoError(t, session.Start(command))
	return session
}
